"""Ways through a kernel's machine code, and how many instructions an element takes along them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .loops import Loop
from .paths import Instruction, forward_paths
from .tiles import TILE, Tile

THREADS = 256  # of a block of every pixel kernel but accumulate_matrix and accumulate_bfloat16
WARPS = 8
Code = list[Instruction]


@dataclass(frozen=True)
class Function:
    code: Code
    loops: list[Loop]

    def main_loop(self, holds: str) -> Loop:
        """The first outermost loop with instructions of this kind, of those that span 100 instructions or more."""
        return next(a for a in self.loops if a.depth == 0 and a.count(holds) > 0 and a.instructions >= 100)

    def around(self, holds: str) -> list[Loop]:
        """The loops with instructions of this kind, the outermost first, where each but the first lies in the one before."""
        return sorted((a for a in self.loops if a.count(holds) > 0), key=lambda loop: loop.depth)

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
