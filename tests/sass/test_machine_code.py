"""What the compiler made of the kernels, for every architecture: nothing spills, accesses are wide, registers bounded."""

import functools
import re

import pytest

from .cost import BEGIN, END, PAGE, ROWS, WITHOUT_ROW
from .table import ARCHITECTURES, Kernel, read_kernels, why_absent

ABSENT = why_absent()
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))

# Registers per thread, from the occupancy that each kernel's launch bounds promise (65536 registers, docs/performance.md).
CEILINGS = {
    "accumulate_small_kernel": 255,  # 256 threads x 255: one block; kernels of at most 4 cells are held to 80 below
    "accumulate_strips_kernel": 168,  # 12 blocks of 32 threads
    "accumulate_matrix_kernel": 168,  # 3 blocks of 128 threads; with few regions 4: held to 128 below
    "accumulate_bfloat16_kernel": 255,  # 2 blocks of 128 threads; 3 with few regions or wide loads: held to 168 below
    "accumulate_table_kernel": 255,  # for double behind a softmax; the others are held to 80 or 128 below
    "apply_interleaved_kernel": 64,
    "apply_planar_kernel": 128,
    "apply_softmax_small_kernel": 128,
    "apply_softmax_team_kernel": 128,  # for double and for sweeps; the others are held to 80 below
    "finalise_kernel": 255,  # a block per image: occupancy is no concern
    "reduce_kernel": 255,
    "merge_kernel": 128,
}
SIZES = {"__half": 2, "__nv_bfloat16": 2, "float": 4, "double": 8}

read = functools.cache(read_kernels)


def vector_bytes(kernel: Kernel) -> int:
    """Bytes that one thread's neighbouring elements span in memory."""
    if kernel.name == "accumulate_matrix_kernel":
        return SIZES["float"] * int(kernel.arguments[0])
    if kernel.name == "accumulate_bfloat16_kernel":
        return SIZES["__nv_bfloat16"] * int(kernel.arguments[0])
    size = SIZES[kernel.arguments[0]]
    if kernel.name == "apply_softmax_team_kernel":
        return size  # its lanes are the neighbours
    if kernel.name == "accumulate_small_kernel":
        return size * int(kernel.arguments[3])
    if kernel.name == "accumulate_strips_kernel":
        return size * int(kernel.arguments[2])
    return size * int(kernel.arguments[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_or_uses_local_memory(architecture):
    assert [k for k in read(architecture) if k.stack or k.local] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_stay_below_the_ceilings(architecture):
    for kernel in read(architecture):
        ceiling = CEILINGS[kernel.name]
        wide = kernel.arguments[:1] == ("double",)
        if kernel.name == "accumulate_small_kernel" and int(kernel.arguments[1]) * int(kernel.arguments[2]) <= 4:
            ceiling = 128 if wide and kernel.arguments[5] == "true" else 80
        if kernel.name == "accumulate_matrix_kernel" and kernel.arguments[2:] == ("2", "2"):
            ceiling = 128
        if kernel.name == "accumulate_bfloat16_kernel" and kernel.arguments[0] != "1":
            many = kernel.arguments[2] == "4" and (kernel.arguments[0] == "2" or architecture == "sm_120")
            few = 204 if kernel.arguments[3] == "3" else 168  # 204: 10 warps
            ceiling = 255 if many or (few == 204 and architecture == "sm_120") else few
        if kernel.name == "apply_softmax_team_kernel" and kernel.arguments[3] == "true" and not wide:
            ceiling = 80
        if kernel.name == "accumulate_table_kernel":
            softmax = kernel.arguments[3] == "true"
            ceiling = 255 if wide and softmax else 128 if wide or softmax or kernel.arguments[1] == "1" else 80
        assert kernel.registers <= ceiling, kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vectorised_kernels_move_16_bytes_at_a_time(architecture):
    wide = [k for k in read(architecture) if k.name.startswith(("accumulate_", "apply_")) and vector_bytes(k) >= 16]
    assert len(wide) >= 30
    assert [k for k in wide if k.wide_loads == 0] == []
    assert [k for k in wide if k.name.startswith("apply_") and k.wide_stores == 0] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_atomics_only_count_the_blocks_that_have_finished(architecture):
    """csrc/cuda/arrival.cuh: of 64-bit integers, in the kernels whose last block goes on."""
    for kernel in read(architecture):
        assert bool(kernel.atomics) == (kernel.name in ("accumulate_small_kernel", "merge_kernel")), kernel
        assert not any(re.search(r"F(16|32|64)|BF16", opcode) for opcode in kernel.atomics), kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensor_cores_multiply_where_the_selector_counts_on_them(architecture):
    """Products of parts by 16 regions and two or three groups of 8 channels, a one-hot matrix by one instruction a pair."""
    for kernel in read(architecture):
        with_products = kernel.name in ("accumulate_matrix_kernel", "accumulate_bfloat16_kernel")
        products, groups = map(int, kernel.arguments[2:]) if with_products else (0, 0)
        chunks, halves, parts = 2, 2, 3  # a float's; or a bfloat16 value and its square's two
        assert kernel.products == chunks * halves * groups * parts * products, kernel


def test_every_kernel_has_its_row_on_the_page():
    assert {k.name for k in read("sm_90")} == {row.kernel for row in ROWS} | set(WITHOUT_ROW)
    rows = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert [row.label for row in ROWS if f"| {row.label} |" not in rows] == []
