"""What accumulate_strips costs by how labels lie: the parts of its code, as often as the labels of a row take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from .ways import Function

LANES = 32
STRIP_BYTES = 64  # of a channel: StripOf
FULL = 32  # kFullRecords
PIXELS = 1 << 15  # that are counted
ACCESS_BYTES = 16  # of V pixels
INSTRUCTION = 16  # bytes: what follows a branch is so far behind it


@dataclass(frozen=True)
class Walk:
    """Of a chunk, on average."""

    changes: float  # pixels of a strip at which some lane's run begins or ends
    groups: float  # of records that are added together
    rounds: float  # in which records of a region join each other, in pairs


def ends_of(labels: list[int], strip_pixels: int) -> Iterator[list[int]]:
    """Regions of the runs that end at each pixel of the strips, and at last, in the order of lanes."""
    strips = [labels[x : x + strip_pixels] for x in range(0, len(labels), strip_pixels)]
    for x in range(1, strip_pixels):
        yield [strip[x - 1] for strip in strips if strip[x] != strip[x - 1]]
    yield [strip[-1] for strip in strips]


def walk_of(labels: list[int], strip_pixels: int) -> Walk:
    chunk = LANES * strip_pixels
    changes = groups = rounds = 0
    records: list[int] = []
    for begin in range(0, len(labels), chunk):
        changes += 1  # all runs begin
        for ending in ends_of(labels[begin : begin + chunk], strip_pixels):
            changes += bool(ending)
            records += ending
            if len(records) < FULL:
                continue
            for first in range(0, len(records), LANES):
                groups += 1
                rounds += (max(Counter(records[first : first + LANES]).values()) - 1).bit_length()
            records = []
    chunks = len(labels) / chunk
    return Walk(changes / chunks, groups / chunks, rounds / chunks)


def crossed_labels(chord: int) -> list[int]:
    """A line that crosses a region every `chord` pixels."""
    return [x // chord for x in range(PIXELS)]


def drawn_labels(regions: int) -> list[int]:
    draw = Random(0)
    return [draw.randrange(regions) for _ in range(PIXELS)]


def of_loading(function: Function, begin: int, end: int) -> int:
    """From the beginning of a chunk to its walk. All of its pixels are there: no load of values is conditional. The shortest
    case of the labels' types is that of 8 bits."""
    conditional = [i.address for i in function.code if i.predicated and i.opcode.startswith("LDG.E.128")]
    (switch,) = (i.address for i in function.code if begin < i.address < end and i.opcode.startswith("BRX"))
    jumps = [
        (i.address, i.target)
        for i in function.code
        if i.opcode == "BRA" and not i.predicated and i.target is not None and switch < i.address < i.target < end
    ]
    ((join, _),) = Counter(target for _, target in jumps).most_common(1)
    cases = [switch, *(address for address, target in jumps if target == join)]
    following = {i.address: after.address for i, after in zip(function.code, function.code[1:], strict=False)}
    ways = [function.longest(following[case], join) for case in cases if following[case] < join]
    outside = [function.longest(*span, without=conditional) for span in ((begin, switch), (join, end))]
    return min(w for w in ways if w is not None) + sum(w for w in outside if w is not None)


def of_strips(M: int, labels: list[int]) -> Callable[[Function, int], float]:
    """Instructions per element. Left out: pilots that move, and what a block does once."""

    def count(function: Function, V: int) -> float:
        strip_pixels = V * STRIP_BYTES // ACCESS_BYTES
        walk = walk_of(labels, strip_pixels)
        chunk = function.main_loop("MATCH")
        (words,) = (a for a in function.nested(chunk) if a.count("MATCH") > 0)  # four pixels of a strip at a time
        around = of_loading(function, chunk.begin, words.begin) + function.way(words.end, chunk.end)
        additions = function.nested(words)
        still = function.shortest(words.begin, words.end)
        changing = function.longest(words.begin, words.end, without=[a.begin for a in additions])
        joining, again = function.nested(additions[0])
        moving = function.skipped_around(again, "STS")
        group = function.longest(additions[0].begin, additions[0].end, without=[joining.begin, moving[0] + INSTRUCTION])
        assert changing is not None and group is not None
        steps = still * strip_pixels / 4 + still / 4 + walk.changes * (changing - still) / 4
        return (around + steps + walk.groups * group + walk.rounds * joining.instructions) / (strip_pixels * M)

    return count
