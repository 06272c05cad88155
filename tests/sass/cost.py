"""What every kernel costs, from its sm_90 machine code: the table of docs/performance.md.

    cd tests && python -m sass.cost           # prints it
    cd tests && python -m sass.cost --write   # puts it into the page

Instructions per element are counted along ways through a kernel's control flow (paths.py). The share of the ceiling is a
prediction: the model is `predicted_share`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .loops import Loop, find_loops
from .paths import Instruction, forward_paths, read_instructions
from .table import ROOT, _demangle, _split_name, compile_cubin, find_cuobjdump, read_kernels, why_absent

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"
ARCHITECTURE = "sm_90"
THREADS = 256  # of a block of every pixel kernel
WARPS = 8
TILE = 256  # pixels, accumulate_table
LABEL_BYTES = 1

# An H200 issues 128 thread-instructions per clock on each of 132 multiprocessors: 7.5 for each byte that moves at 4.3 TB/s.
INSTRUCTIONS_PER_BYTE = 7.5
ISSUED = 0.85  # of those slots; the rest goes to stalls. An assumption, to be measured.
MOST = 0.93  # of the ceiling, for a kernel that does nothing but stream. An assumption.

BYTES = {"float": 4, "__nv_bfloat16": 2}
Code = list[Instruction]


@dataclass(frozen=True)
class Function:
    code: Code
    loops: list[Loop]

    def main_loop(self, holds: str) -> Loop:
        """The first outermost loop with instructions of this kind, of those that span 100 instructions or more."""
        return next(a for a in self.loops if a.depth == 0 and a.count(holds) > 0 and a.instructions >= 100)

    def inside(self, outer: Loop, holds: str) -> Loop:
        """The innermost loop within another that has instructions of this kind, the one with most of them."""
        found = [a for a in self.loops if outer.begin <= a.begin and a.end <= outer.end and a.depth == outer.depth + 1]
        return max(found, key=lambda loop: (loop.count(holds), loop.instructions))

    def way(self, begin: int, end: int, avoid: str = "CALL") -> tuple[int, int]:
        """Least and most instructions between two addresses, without those that match `avoid`."""
        bad = [i.address for i in self.code if begin < i.address < end and re.match(avoid, i.opcode)]
        found = forward_paths(self.code, begin, end, bad)
        assert found is not None, (hex(begin), hex(end), avoid)
        return found


@dataclass(frozen=True)
class Mask:
    """What a tile of 256 pixels holds on average."""

    segments: float
    regions: float
    grouped: bool = False


def coherent(chord: float) -> Mask:
    """Regions that a line crosses in stretches of `chord` pixels. Segments lie within 32 places."""
    return Mask(segments=TILE / 32 + TILE / chord, regions=1 + TILE / chord)


def random(regions: int) -> Mask:
    met = regions * (1 - (1 - 1 / regions) ** TILE)
    return Mask(segments=met + TILE / 32 - 1, regions=met, grouped=True)


def of_small(channels: int) -> Callable[[Function, int], float]:
    """accumulate_small: the shortest way round, that is, without the rare move of the pilots. V pixels of each channel."""

    def count(function: Function, V: int) -> float:
        loop = function.main_loop("LDG")
        return function.way(loop.begin, loop.end)[0] / (V * channels)

    return count


def of_table(M: int, mask: Mask) -> Callable[[Function, int], float]:
    """accumulate_table: the parts of a tile, weighted by how often they run. Branches count as their longer side.

    Left out: what runs only where a grouped tile has a region of more than 32 pixels, a few instructions per element.
    """

    def count(function: Function, V: int) -> float:
        tile = function.main_loop("BAR")
        chunk = function.inside(tile, "BAR")
        regions = function.inside(chunk, "SHFL")
        segments = function.inside(chunk, "STS")
        pixels = function.inside(function.inside(segments, "LDS"), "LDS")  # 4 of them; the loop between may repeat
        peers = function.inside(function.inside(regions, "LDS"), "LDS")
        least, most = function.way(tile.begin, chunk.begin)
        listing = most if mask.grouped else least
        # A segment that waits for others does not touch the table, so no doubles. One warp matches segments.
        segment = function.way(segments.begin, segments.end, "CALL" if mask.grouped else "CALL|D(ADD|MUL|FMA)")[1]
        longest_segment = function.way(segments.begin, segments.end)[1]
        region = function.way(regions.begin, regions.end)[1] - peers.instructions
        barriers = [
            i.address for i in function.code if i.opcode.startswith("BAR") and chunk.begin < i.address < chunk.end
        ]
        summed, last = max(b for b in barriers if b < regions.begin), max(barriers)
        first, others = (
            function.way(chunk.begin, summed, avoid)[1] - longest_segment for avoid in ("CALL", "CALL|MATCH")
        )
        if mask.grouped:
            per_warp = others + function.way(summed, last)[1] + function.way(last, chunk.end)[1]
        else:
            per_warp = others + (first - others) / WARPS + function.way(summed, regions.begin)[1]
            per_warp += function.way(regions.end, chunk.end)[0]
        lanes = 1 << (min(M, 32) - 1).bit_length()  # for each segment and region
        summing = mask.segments * (segment - pixels.instructions) + TILE / 4 * pixels.instructions
        if not mask.grouped:
            summing += mask.regions * region + mask.segments * peers.instructions
        work = WARPS * per_warp + summing * lanes / 32
        return work * 32 / (TILE * min(M, 32)) + listing / M

    return count


def of_apply(loads: str = "STG") -> Callable[[Function, int], float]:
    """apply: the longest way through its main loop, that of pixels that have a region."""

    def count(function: Function, V: int) -> float:
        loop = function.main_loop(loads)
        return function.way(loop.begin, loop.end)[1] / (V * loop.count("STG"))

    return count


def of_whole(elements: Callable[[int], int]) -> Callable[[Function, int], float]:
    """A kernel without a main loop: its longest way, over the elements of a thread."""

    def count(function: Function, V: int) -> float:
        last = max(i.address for i in function.code if i.opcode == "EXIT" and not i.predicated)
        return function.way(0, last)[1] / elements(V)

    return count


@dataclass(frozen=True)
class Row:
    label: str
    kernel: str
    arguments: str  # after the type; V stands for 16 bytes of it
    channels: int
    moves: int  # times each element is read or written
    count: Callable[[Function, int], float]


ROWS = (
    Row("accumulate_small, N = M = 2, planar", "accumulate_small_kernel", "2, 2, V, false, false", 2, 1, of_small(2)),
    Row("the same, channels_last", "accumulate_small_kernel", "2, 2, V, true, false", 2, 1, of_small(2)),
    Row("accumulate_small, N = M = 4, planar", "accumulate_small_kernel", "4, 4, V, false, false", 4, 1, of_small(4)),
    *(
        Row(
            f"accumulate_table, {what}, {layout}",
            "accumulate_table_kernel",
            f"V, {flag}, false",
            M,
            1,
            of_table(M, mask),
        )
        for layout, flag in (("planar", "false"), ("channels_last", "true"))
        for what, M, mask in (
            ("one region, M = 64", 64, Mask(TILE / 32, 1)),
            ("voc: 20 regions in 512 x 512, M = 21", 21, coherent(90)),
            ("embedding: 100 in 512 x 512, M = 64", 64, coherent(40)),
            ("superpixel: 1000 in 1024 x 1024, M = 32", 32, coherent(25)),
            ("volume: 64 in 256 x 256 x 256, M = 4", 4, coherent(44)),
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
    Row("apply_softmax_team, M = 64", "apply_softmax_team_kernel", "true", 64, 2, of_whole(lambda V: 8)),
)


# Tables only: their time is that of a launch.
WITHOUT_ROW = ("finalise_kernel", "merge_kernel", "reduce_kernel")


def read_functions() -> dict[str, Function]:
    tool = find_cuobjdump()
    assert tool is not None
    dump = subprocess.run([tool, "-sass", str(compile_cubin(ARCHITECTURE))], capture_output=True, text=True, check=True)
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", dump.stdout, re.DOTALL))
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
    name = label(row.kernel, f"{dtype}, {row.arguments}".replace("V", str(V)))
    moved = row.moves * size + LABEL_BYTES / row.channels
    count, budget = row.count(functions[name], V), INSTRUCTIONS_PER_BYTE * moved
    taken = -(-registers[name] // 8) * 8 * THREADS  # registers come in eights
    warps = min(65536 // taken, 2048 // THREADS) * WARPS
    share = f"{100 * predicted_share(count, budget):.0f}%"
    return [f"{moved:.3g}", f"{count:.0f}", f"{budget:.0f}", str(registers[name]), str(warps), share]


def table() -> Iterator[str]:
    functions = read_functions()
    registers = {label(k.name, ", ".join(k.arguments)): k.registers for k in read_kernels(ARCHITECTURE)}
    yield "| kernel | bytes | instructions | budget | registers | warps | predicted | measured |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        pairs = zip(*(cells(row, dtype, functions, registers) for dtype in BYTES), strict=True)
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
