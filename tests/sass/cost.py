"""What every kernel costs, from its sm_90 machine code: the table of docs/performance.md.

    cd tests && python -m sass.cost           # prints it
    cd tests && python -m sass.cost --write   # puts it into the page

Instructions per element are counted along ways through a kernel's control flow (ways.py). The share of the ceiling is a
prediction: the model is `predicted_share`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .loops import find_loops
from .matrix_cost import (
    FEW,
    PLACES,
    PRODUCT_REGIONS,
    crossed,
    crossed_interval,
    drawn,
    drawn_interval,
    lane_of,
    of_bfloat16,
    of_matrix,
    one_region,
    room_of,
    warps_of,
)
from .paths import read_instructions
from .strips_cost import crossed_labels, drawn_labels, of_strips
from .table import ROOT, _demangle, _split_name, dump, read_kernels, why_absent
from .tiles import TILE, coherent, random, tile_of
from .ways import THREADS, Function, of_apply, of_small, of_table, of_whole

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"
ARCHITECTURE = "sm_90"
LABEL_BYTES = 1

# An H200 issues 128 thread-instructions per clock on each of 132 multiprocessors: 7.5 for each byte that moves at 4.3 TB/s.
INSTRUCTIONS_PER_BYTE = 7.5
ISSUED = 0.85  # of those slots; the rest goes to stalls. An assumption, to be measured.
MOST = 0.93  # of the ceiling, for a kernel that does nothing but stream. An assumption.

BYTES = {"float": 4, "__nv_bfloat16": 2}


@dataclass(frozen=True)
class Row:
    label: str
    kernel: str
    arguments: str  # after the type; V stands for 16 bytes of it
    channels: int
    moves: int  # times each element is read or written
    count: Callable[[Function, int], float]
    threads: int = THREADS  # of a block
    dtypes: tuple[str, ...] = tuple(BYTES)  # for which it is chosen


ROWS = (
    Row("accumulate_small, N = M = 2, planar", "accumulate_small_kernel", "2, 2, V, false, false", 2, 1, of_small(2)),
    Row("the same, channels_last", "accumulate_small_kernel", "2, 2, V, true, false", 2, 1, of_small(2)),
    Row("accumulate_small, N = M = 4, planar", "accumulate_small_kernel", "4, 4, V, false, false", 4, 1, of_small(4)),
    *(
        Row(
            f"accumulate_strips, {what}, M = 4, {layout}",
            "accumulate_strips_kernel",
            f"4, V, {str(layout != 'planar').lower()}, false",
            4,
            1,
            of_strips(4, labels),
            32,
        )
        for layout in ("planar", "channels_last")
        for what, labels in (
            ("one region", crossed_labels(1 << 20)),
            ("volume: 64 in 256 x 256 x 256", crossed_labels(44)),
            ("64 random labels", drawn_labels(64)),
        )
    ),
    *(
        Row(
            f"accumulate_matrix, {what}, {layout}",
            "accumulate_matrix_kernel",
            f"{4 if layout == 'planar' else 2 - M % 2}, {str(layout != 'planar').lower()}, {room_of(mask)}, {lane}",
            M,
            1,
            of_matrix(M, mask, lane, block),
            32 * warps_of(M, lane),
            ("float",),
        )
        for layout in ("planar", "channels_last")
        for what, M, mask, block in (  # block: its pixels
            ("one region, M = 64", 64, one_region(), 4096),
            ("voc: 20 regions in 512 x 512, M = 21", 21, crossed(90, 20), 2816),
            ("embedding: 100 in 512 x 512, M = 64", 64, crossed(40, 100), 5376),
            ("20 random labels, M = 21", 21, drawn(20), 2816),
            ("100 random labels, M = 64", 64, drawn(100), 5376),
        )
        for lane in (lane_of(M, mask.regions, layout != "planar"),)
    ),
    *(
        Row(
            f"accumulate_bfloat16, {what}, {layout}",
            "accumulate_bfloat16_kernel",
            f"{8 if layout == 'planar' else 2 - M % 2}, {str(layout != 'planar').lower()}, "
            f"{FEW if regions <= FEW * PRODUCT_REGIONS else PLACES // PRODUCT_REGIONS}, {lane}",
            M,
            1,
            of_bfloat16(M, regions, interval, lane),
            32 * warps_of(M, lane),
            ("__nv_bfloat16",),
        )
        for layout in ("planar", "channels_last")
        for what, M, regions, interval in (
            ("one region, M = 64", 64, 1, crossed_interval(512)),
            ("voc: 20 regions in 512 x 512, M = 21", 21, 20, crossed_interval(90)),
            ("embedding: 100 in 512 x 512, M = 64", 64, 100, crossed_interval(40)),
            ("20 random labels, M = 21", 21, 20, drawn_interval(20)),
            ("100 random labels, M = 64", 64, 100, drawn_interval(100)),
        )
        for lane in (lane_of(M, regions, layout != "planar"),)
    ),
    *(
        Row(
            f"accumulate_table, {what}, {layout}",
            "accumulate_table_kernel",
            f"V, {flag}, false",
            M,
            1,
            of_table(M, tiles, flag == "false"),
        )
        for layout, flag in (("planar", "false"), ("channels_last", "true"))
        for what, M, tiles in (
            ("one region, M = 64", 64, (tile_of([0] * TILE, False),)),
            ("voc: 20 regions in 512 x 512, M = 21", 21, coherent(90)),
            ("embedding: 100 in 512 x 512, M = 64", 64, coherent(40)),
            ("superpixel: 1000 in 1024 x 1024, M = 32", 32, coherent(25)),
            ("100 random labels, M = 64", 64, random(100)),
        )
    ),
    Row("apply_planar, M = 64", "apply_planar_kernel", "V, true", 64, 2, of_apply()),
    Row("apply_interleaved, M = 64", "apply_interleaved_kernel", "V, true", 64, 2, of_apply()),
    Row(
        "apply_softmax_small, M = 2, planar",
        "apply_softmax_small_kernel",
        "V, 2, false",
        2,
        2,
        of_whole(lambda V: 2 * V),
    ),
    Row("apply_softmax_team, M = 64", "apply_softmax_team_kernel", "4, 16, true", 64, 2, of_whole(lambda V: 16)),
)


# Tables only: their time is that of a launch.
WITHOUT_ROW = ("finalise_kernel", "merge_kernel", "reduce_kernel")


def read_functions() -> dict[str, Function]:
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", dump(ARCHITECTURE, "-sass"), re.DOTALL))
    functions = {}
    for mangled, demangled in zip(code, _demangle(list(code)), strict=True):
        name, arguments = _split_name(demangled)
        functions[label(name, ", ".join(arguments))] = Function(
            read_instructions(code[mangled]), find_loops(code[mangled])
        )
    return functions


def label(name: str, arguments: str) -> str:
    return f"{name}<{arguments}>"


def predicted_share(instructions: float, budget: float) -> float:
    """Bound by memory, or by the slots that are left to issue instructions in."""
    return min(MOST, ISSUED * budget / instructions)


def cells(row: Row, dtype: str, functions: dict[str, Function], registers: dict[str, int]) -> list[str]:
    """What the table says of one kernel for one type."""
    size = BYTES[dtype]
    V = 16 // size
    if row.arguments == "V, true, false" and row.channels % V != 0:  # V channels of a pixel: select.h
        V = 1
    typeless = row.kernel in ("accumulate_matrix_kernel", "accumulate_bfloat16_kernel")
    arguments = row.arguments if typeless else f"{dtype}, {row.arguments}"
    name = label(row.kernel, arguments.replace("V", str(V)))
    moved = row.moves * size + LABEL_BYTES / row.channels
    count, budget = row.count(functions[name], 16 // size), INSTRUCTIONS_PER_BYTE * moved
    taken = -(-registers[name] // 8) * 8 * row.threads  # registers come in eights
    warps = min(65536 // taken, 2048 // row.threads, 32) * row.threads // 32
    share = f"{100 * predicted_share(count, budget):.0f}%"
    return [f"{moved:.3g}", f"{count:.0f}", f"{budget:.0f}", str(registers[name]), str(warps), share]


def table() -> Iterator[str]:
    functions = read_functions()
    registers = {label(k.name, ", ".join(k.arguments)): k.registers for k in read_kernels(ARCHITECTURE)}
    yield "| kernel | bytes | instructions | budget | registers | warps | predicted | measured |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        pairs = zip(*(cells(row, dtype, functions, registers) for dtype in row.dtypes), strict=True)
        yield " | ".join(["| " + row.label, *(" / ".join(pair) for pair in pairs), "not measured |"])


def main() -> None:
    if reason := why_absent():
        raise SystemExit(f"sass: the machine code cannot be read: {reason}")
    lines = "\n".join(table())
    if "--write" not in sys.argv[1:]:
        print(lines)
        return
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{lines}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
