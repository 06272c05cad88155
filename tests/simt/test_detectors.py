"""Each detector catches a kernel that is wrong in one way and passes its correct twin."""

import numpy as np
import pytest

from simt import KernelError

# name: (kind of the report, launch, what the report says about the place)
CASES = {
    "copy": ("out-of-bounds", {"outputs": 64, "threads": 96}, {"buffer": "input", "index": 64}),
    "write_past_end": ("out-of-bounds", {"outputs": 64, "threads": 96}, {"buffer": "output", "index": 64}),
    "shared_bounds": ("out-of-bounds", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"buffer": "shared"}),
    "shared_underflow": ("out-of-bounds", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"index": -4}),
    "shared_unwritten": ("unwritten-read", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"index": 28}),
    "global_unwritten": ("unwritten-read", {"outputs": 2, "blocks": 2, "threads": 1}, {"buffer": "workspace"}),
    "missing_syncthreads": ("race", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"buffer": "shared"}),
    "write_after_read": ("race", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"buffer": "shared"}),
    "missing_syncwarp": ("race", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"buffer": "shared"}),
    "shuffle_is_no_barrier": ("race", {"outputs": 64, "threads": 64, "shared_bytes": 256}, {"buffer": "shared"}),
    "partial_syncwarp": ("race", {"outputs": 32, "shared_bytes": 128}, {"buffer": "shared"}),
    "late_reader": ("race", {"outputs": 64, "threads": 64, "shared_bytes": 4}, {"buffer": "shared", "index": 0}),
    "block_read_race": ("race", {"outputs": 4, "blocks": 4, "threads": 1}, {"buffer": "counter"}),
    "block_race": ("race", {"outputs": 4, "blocks": 4, "threads": 1}, {"buffer": "output"}),
    "plain_count": ("race", {"blocks": 4, "threads": 32}, {"buffer": "counter"}),
    "last_block": ("race", {"blocks": 4, "threads": 1}, {"buffer": "workspace"}),
    "divergent_barrier": ("barrier", {"outputs": 64, "threads": 64}, {}),
    "early_exit": ("barrier", {"outputs": 64, "threads": 64}, {}),
    "two_barriers": ("barrier", {"outputs": 64, "threads": 64}, {}),
    "shuffle_from_exited": ("warp", {"outputs": 16}, {}),
    "lane_outside_mask": ("warp", {"outputs": 32}, {"thread": (31, 0, 0)}),
    "source_outside_mask": ("warp", {"outputs": 16}, {}),
    "lanes_disagree": ("warp", {"outputs": 32}, {}),
    "misaligned": ("misaligned", {"threads": 1}, {"buffer": "input", "index": 1}),
    "misaligned_hint": ("misaligned", {"threads": 1}, {"buffer": "input", "index": 1}),
    "unwritten_output": ("unwritten-output", {"outputs": 64, "threads": 64}, {"buffer": "output", "index": 63}),
    "write_input": ("read-only", {"outputs": 64, "threads": 64}, {"buffer": "input", "index": 0}),
    "stale_read": ("stale-read", {"outputs": 2, "blocks": 2, "threads": 1}, {"buffer": "workspace"}),
    "undefined_shift": ("undefined", {"outputs": 32, "items": 1}, {}),
    "trap": ("trap", {"outputs": 32}, {"thread": (3, 0, 0)}),
    "wild_pointer": ("out-of-bounds", {"outputs": 32}, {"thread": (0, 0, 0)}),
    "memcpy": ("untracked", {"outputs": 64, "threads": 1}, {}),
}
RACES = [name for name, case in CASES.items() if case[0] == "race"]
TWO_SITES = [*RACES, "two_barriers", "lanes_disagree", "stale_read"]


def launch(toys, name, *, broken, items=64, **launch):
    return toys.run(name, broken, np.arange(items, dtype=np.float32), **launch)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_broken_kernel_is_caught(toys, name, seed):
    kind, shape, place = CASES[name]
    toys.seed(seed)
    with pytest.raises(KernelError) as caught:
        launch(toys, name, broken=True, **shape)
    error = caught.value
    assert error.kind == kind, str(error)
    assert error.kernel == f"toys::{name}_kernel<true>"
    if seed == 0:
        assert {key: getattr(error, key) for key in place} == place
    if kind != "unwritten-output":
        assert all("toys.cuh:" in site for site in error.sites) and error.sites, str(error)
    if name in TWO_SITES:
        assert len(error.sites) == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", CASES)
def test_correct_twin_passes(toys, name, seed):
    toys.seed(seed)
    launch(toys, name, broken=False, **CASES[name][1])


def test_kernel_runs_again_after_a_failed_launch(toys):
    shape = CASES["missing_syncthreads"][1]
    with pytest.raises(KernelError):
        launch(toys, "missing_syncthreads", broken=True, **shape)
    result = launch(toys, "missing_syncthreads", broken=False, **shape)
    np.testing.assert_array_equal(result, np.arange(64)[::-1])


def test_report_names_thread_and_lines(toys):
    with pytest.raises(KernelError) as caught:
        launch(toys, "plain_count", broken=True, blocks=1, threads=32)
    error = caught.value
    assert error.block == (0, 0, 0)
    assert error.thread == (1, 0, 0)
    assert "which thread (0,0,0) wrote" in str(error)
    assert error.sites[0] in str(error)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ({"threads": 1025}, "1 to 1024 threads"),
        ({"blocks": 0}, "the grid is empty"),
        ({"shared_bytes": 228 << 10}, "at most 232448 bytes"),
    ],
)
def test_impossible_launch_is_refused(toys, shape, text):
    with pytest.raises(KernelError, match=text):
        launch(toys, "copy", broken=False, **shape)


def test_endless_loop_ends(toys):
    toys.access_limit(10_000)
    try:
        with pytest.raises(KernelError) as caught:
            launch(toys, "endless", broken=True, outputs=32)
    finally:
        toys.access_limit(1 << 30)
    assert caught.value.kind == "endless"


def test_gap_of_a_strided_input_is_out_of_bounds(toys):
    columns = np.arange(128, dtype=np.float32).reshape(64, 2)[:, 0]
    with pytest.raises(KernelError, match="between the elements") as caught:
        toys.run("copy", False, columns, outputs=64, threads=64)
    assert caught.value.kind == "out-of-bounds"


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_alignment_of_the_host_array_is_kept(toys, offset):
    base = np.zeros(72, dtype=np.float32)
    start = (-base.ctypes.data // 4) % 4 + offset
    with pytest.raises(KernelError, match="not aligned to 16 bytes"):
        toys.run("misaligned", False, base[start:], threads=1)
    toys.run("misaligned", False, base[start - offset :], threads=1)
