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
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from .loops import Loop, find_loops
from .matrix_cost import (
    FEW,
    PLACES,
    PRODUCT_REGIONS,
    crossed,
    crossed_interval,
    drawn,
    drawn_interval,
    of_bfloat16,
    of_matrix,
    one_region,
    room_of,
    warps_of,
)
from .paths import Instruction, forward_paths, read_instructions
from .table import ROOT, _demangle, _split_name, compile_cubin, find_cuobjdump, read_kernels, why_absent
from .tiles import TILE, Tile, coherent, random, tile_of

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- cost:begin -->", "<!-- cost:end -->"
ARCHITECTURE = "sm_90"
THREADS = 256  # of a block of every pixel kernel but accumulate_matrix and accumulate_bfloat16
WARPS = 8
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
        return max(self.nested(outer), key=lambda loop: (loop.count(holds), loop.instructions))

    def nested(self, outer: Loop) -> list[Loop]:
        """The loops right within another."""
        return [a for a in self.loops if outer.begin <= a.begin and a.end <= outer.end and a.depth == outer.depth + 1]

    def longest(self, begin: int, end: int, avoid: str = "CALL", without: Collection[int] = ()) -> int | None:
        """Most instructions between two addresses, without opcodes that match `avoid` and these addresses, if there is a way."""
        bad = [i.address for i in self.code if begin < i.address < end and re.match(avoid, i.opcode)]
        found = forward_paths(self.code, begin, end, [*bad, *without])
        return found[1] if found else None

    def skipped_around(self, loop: Loop, holds: str) -> tuple[int, int]:
        """The widest stretch around a loop that one branch skips, without opcodes that match."""
        found = (loop.begin - 1, loop.end + 1)
        for branch in self.code:
            if branch.target is None or not branch.address < loop.begin <= loop.end < branch.target:
                continue
            between = [i for i in self.code if branch.address < i.address < branch.target]
            if branch.address < found[0] and not any(re.match(holds, i.opcode) for i in between):
                found = (branch.address, branch.target)
        return found

    def way(self, begin: int, end: int, avoid: str = "CALL") -> int:
        """The same where there is a way."""
        found = self.longest(begin, end, avoid)
        assert found is not None, (hex(begin), hex(end), avoid)
        return found

    def shortest(self, begin: int, end: int) -> int:
        found = forward_paths(self.code, begin, end)
        assert found is not None, (hex(begin), hex(end))
        return found[0]

    def round(self, loop: Loop) -> tuple[int, list[Loop]]:
        """Most instructions of one round without the loops inside, and those of them that it enters. None that has loops
        inside in turn, which for accumulate_table is a region's second sum."""
        rare = [a.begin for a in self.nested(loop) if self.nested(a)]
        most = self.longest(loop.begin, loop.end, without=rare)
        assert most is not None, hex(loop.begin)
        entered = [
            a for a in self.nested(loop) if (self.longest(loop.begin, loop.end, without=[*rare, a.begin]) or 0) < most
        ]
        return most - sum(a.instructions for a in entered), entered


def of_small(channels: int) -> Callable[[Function, int], float]:
    """accumulate_small: the shortest way round, that is, without the rare move of the pilots. V pixels of each channel."""

    def count(function: Function, V: int) -> float:
        loop = function.main_loop("LDG")
        return function.shortest(loop.begin, loop.end) / (V * channels)

    return count


def in_warps(costs: list[float], share: int, enter: float = 0) -> float:
    """What all warps take together if `share` threads in a row do each of these: a warp takes as long as its longest, and
    `enter` if it has any."""
    at_once, total = THREADS // share, 0.0
    for first in range(0, len(costs), at_once):
        now = costs[first : first + at_once]
        for thread in range(0, len(now) * share, 32):
            total += max(now[thread // share : (thread + 31) // share + 1]) + (enter if first == 0 else 0)
    return total


def of_table(M: int, tiles: tuple[Tile, ...], planar: bool) -> Callable[[Function, int], float]:
    """accumulate_table: the parts of a tile, as often as each runs; V values in a unit of 16 bytes. Branches count as
    their longer side.

    Left out: regions that are summed once more, about the mean, because their pilot was an outlier.
    """
    channels = min(M, 32)  # at a time

    def count(function: Function, V: int) -> float:
        grouped = tiles[0].grouped
        tile = function.main_loop("BAR")
        chunk = function.inside(tile, "BAR")
        loops = {(a.count("SHFL") > 0, a.count("VOTE") > 0): a for a in function.nested(chunk) if a.count("STS") > 0}
        segments, regions = loops[grouped, False], loops[True, True]

        if grouped:
            listing: float = function.way(tile.begin, chunk.begin)
        else:  # one warp matches segments; labels out of range, whose pixel is stored in 8 bytes, are rare
            listing = function.way(tile.begin, chunk.begin, r"CALL|MATCH|SHFL\.BFLY|STS\.64")
            with_match, without = (
                function.way(tile.begin, chunk.begin, avoid) for avoid in (r"CALL|SHFL\.BFLY", r"CALL|MATCH|SHFL\.BFLY")
            )
            listing += (with_match - without) / WARPS

        # Values that keep their places are stored together if they were loaded together. Planar, a warp stops where
        # there are no more channels.
        other_way = r"CALL|STS\.(64|128)" if grouped else r"CALL|STS(\.U16)?$"
        staged: float = function.longest(chunk.begin, segments.begin, other_way) or function.way(
            chunk.begin, segments.begin
        )
        if planar:
            least = function.way(chunk.begin, segments.begin, "CALL|LDG|STS")
            staged = least + (staged - least) * channels / 32
        through = function.way(segments.end, regions.begin) + function.way(regions.end, chunk.end)
        past = function.longest(segments.end, chunk.end, without=[regions.begin])  # a warp that has no region
        assert past is not None

        once, inner = function.round(segments)
        (unit,) = (a.instructions for a in inner if any(op.startswith("LDS.128") for op in a.opcodes))
        single = max(a.instructions for a in inner if a.instructions != unit)
        region, (slot,) = function.round(regions)
        of_thread = 2 if V == 8 else 1  # channels: kThreadChannels of csrc/cuda/tile_sums.cuh
        share = -(-channels // of_thread)
        lanes = 1 << (share - 1).bit_length()  # of a region

        work = 0.0
        for each in tiles:
            costs = []
            for segment in each.segments:
                units, places = segment.split(V)
                costs.append(once + units * unit + places * single)
            waiting = {s.region: n for s in each.segments if (n := each.waiting(s)) > 0}
            sums: list[float] = [region + n * slot.instructions for n in waiting.values()]
            if grouped:  # a warp's turn, even if none of its runs waits
                sums += [function.shortest(regions.begin, regions.end)] * (WARPS - len(sums))
            work += in_warps(costs, 1 << (channels - 1).bit_length() if grouped else share) + in_warps(
                sums, lanes, through - past
            )
        return (WARPS * (staged + past) + work / len(tiles)) * 32 / (TILE * channels) + listing / M

    return count


def of_apply(loads: str = "STG") -> Callable[[Function, int], float]:
    """apply: the longest way through its main loop, that of pixels that have a region."""

    def count(function: Function, V: int) -> float:
        loop = function.main_loop(loads)
        return function.way(loop.begin, loop.end) / (V * loop.count("STG"))

    return count


def of_whole(elements: Callable[[int], int]) -> Callable[[Function, int], float]:
    """A kernel without a main loop: its longest way, over the elements of a thread."""

    def count(function: Function, V: int) -> float:
        last = max(i.address for i in function.code if i.opcode == "EXIT" and not i.predicated)
        return function.way(0, last) / elements(V)

    return count


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
            f"accumulate_matrix, {what}, {layout}",
            "accumulate_matrix_kernel",
            f"{4 if layout == 'planar' else 2 - M % 2}, {str(layout != 'planar').lower()}, {room_of(mask)}",
            M,
            1,
            of_matrix(M, mask),
            32 * warps_of(M),
            ("float",),
        )
        for layout in ("planar", "channels_last")
        for what, M, mask in (
            ("one region, M = 64", 64, one_region()),
            ("voc: 20 regions in 512 x 512, M = 21", 21, crossed(90, 20)),
            ("embedding: 100 in 512 x 512, M = 64", 64, crossed(40, 100)),
            ("20 random labels, M = 21", 21, drawn(20)),
            ("100 random labels, M = 64", 64, drawn(100)),
        )
    ),
    *(
        Row(
            f"accumulate_bfloat16, {what}, {layout}",
            "accumulate_bfloat16_kernel",
            f"{8 if layout == 'planar' else 2 - M % 2}, {str(layout != 'planar').lower()}, "
            f"{FEW if regions <= FEW * PRODUCT_REGIONS else PLACES // PRODUCT_REGIONS}",
            M,
            1,
            of_bfloat16(M, regions, interval),
            32 * warps_of(M),
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
    Row("apply_softmax_team, M = 64", "apply_softmax_team_kernel", "4, 16, true", 64, 2, of_whole(lambda V: 16)),
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
