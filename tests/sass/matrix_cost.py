"""What a chunk of pixels costs accumulate_matrix and accumulate_bfloat16, by how its labels lie: the parts of their code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ways import Function

LANES = 32
CHUNK, INTERVAL = 32, 1024  # pixels: kChunkPixels, kIntervalPixels
WARPS, PRODUCT_REGIONS = 4, 16
FEW, MANY = 2, 7  # products that a kernel has registers for
IMAGE = 512  # pixels of a row
STEP, PLACES = 64, 64  # of accumulate_bfloat16: kPlainStep, kPlainRegions
FEW_LEADERS = 4  # kFew of add_squares


@dataclass(frozen=True)
class Chunk:
    """32 pixels: how many regions they meet, blocks of 16 regions, and pixels of one region at most."""

    regions: int
    products: int
    most: int


def chunk_of(labels: list[int]) -> Chunk:
    met = set(labels)
    return Chunk(len(met), len({i // PRODUCT_REGIONS for i in met}), max(labels.count(i) for i in met))


@dataclass(frozen=True)
class Mask:
    """Chunks, each as likely as any other, and how many of a block have new regions, and how often any has a young one."""

    regions: int
    chunks: tuple[Chunk, ...]
    runs: float  # of chunks of one region that end, for each chunk
    new_chunks: float
    young: float


def crossed(chord: int, regions: int) -> Mask:
    """A line that crosses a region every so many pixels; neighbours are any regions. The rows of a block meet the same ones."""
    draw = Random(0)
    ids = [draw.randrange(regions) for _ in range(64 * CHUNK)]
    chunks = [chunk_of([ids[(x + first) // chord] for x in range(CHUNK)]) for first in range(64 * chord)]
    met = min(regions, IMAGE / chord + 1)
    uniform = sum(chunk.regions == 1 for chunk in chunks) / len(chunks)
    return Mask(regions, tuple(chunks), min(uniform, CHUNK / chord), met, 1.3 * met)


def one_region() -> Mask:
    return Mask(1, (chunk_of([0] * CHUNK),), 0, 1, 1)


def drawn(regions: int) -> Mask:
    """Labels drawn at random: a chunk has new ones until all are met, and few of any, so that none stays young."""
    draw = Random(0)
    chunks = [chunk_of([draw.randrange(regions) for _ in range(CHUNK)]) for _ in range(256)]
    return Mask(regions, tuple(chunks), 0, 5 * regions / CHUNK, 0)


def room_of(mask: Mask) -> int:
    """Products that the kernel for so many regions has registers for."""
    return FEW if mask.regions <= FEW * PRODUCT_REGIONS else MANY


def lane_of(M: int, regions: int, interleaved: bool) -> int:
    """Channels of a lane, an eighth of a warp's: lane_channels of csrc/cuda/select.h."""
    triple = 24 * -(-M // 24)
    fits = triple <= 72 and triple < 16 * -(-M // 16)
    return 3 if fits and not (interleaved and M % 2 == 0) and regions <= FEW * PRODUCT_REGIONS else 2


def warps_of(M: int, lane: int) -> int:
    return min(-(-M // (8 * lane)), WARPS)


def of_matrix(M: int, mask: Mask, lane: int, block: int) -> Callable[[Function, int], float]:
    """Instructions per element, of a block of so many pixels in its long intervals, and what new regions add.

    Left out: values that are not finite, and pilots that move at the end of an interval.
    """
    warps, room = warps_of(M, lane), room_of(mask)

    def count(function: Function, V: int) -> float:
        interval, of_pass, step = function.around("HMMA")[-3:]
        labels = next(a for a in function.nested(interval) if a.count("MATCH") > 0)
        inside = function.nested(step)
        squares, seldom = inside[-1], [function.skipped_around(a, "HMMA|F2FP|LDG|BAR") for a in inside[:-1]]
        rare = [i.address for i in function.code if any(a < i.address < b for a, b in seldom)]
        (young, *_) = (a for a in inside if a.count("SHFL") > 0 and a.count("MATCH") == 0)

        def to_squares(avoid: str, without: list[int] = rare) -> int:
            """Of a chunk, of which a step has two; not where loads go on to another pass."""
            found = function.longest(step.begin, squares.begin, rf"CALL|IMAD\.WIDE|{avoid}", without=without)
            assert found is not None, avoid
            return found // 2

        general, without = to_squares("NONE"), to_squares("HMMA")
        uniform = to_squares("HMMA|F2FP|SHFL")
        ending = to_squares("HMMA|F2FP") - uniform
        meeting = to_squares("NONE", [a.begin for a in inside[:-1]]) - general  # a chunk with new regions

        inner = {
            kind: next(a for a in function.nested(squares) if any(op.startswith(kind) for op in a.opcodes))
            for kind in ("LDS.128", "SHFL.BFLY", "SHFL.IDX")
        }
        once = function.way(squares.begin, squares.end) - sum(a.instructions for a in inner.values())
        added = once + warps * inner["LDS.128"].instructions  # 8 rows of a warp, 2 in a round for each of 4 lanes

        def of_chunk(chunk: Chunk) -> float:
            """All warps, and the addition of squares."""
            if chunk.regions == 1:
                return warps * uniform
            few = chunk.regions <= FEW_LEADERS
            leaders = chunk.regions * inner["SHFL.BFLY"].instructions
            total = leaders if few else (chunk.most - 1) * inner["SHFL.IDX"].instructions
            return warps * (without + chunk.products * (general - without) / room) + added + total

        chunks = sum(map(of_chunk, mask.chunks)) / len(mask.chunks) + warps * mask.runs * ending
        listing = function.way(labels.begin, labels.end, r"CALL|LDG\.E\.64")
        table = function.way(step.end, of_pass.end, r"CALL|MUFU|DFMA") * -(-mask.regions // PRODUCT_REGIONS) / room
        per_interval = warps * (table + function.way(of_pass.end, interval.end))
        per_block = warps * (mask.new_chunks * meeting + mask.young * young.instructions)
        return ((chunks + listing) / CHUNK + per_interval / INTERVAL + per_block / block) * LANES / M

    return count


@dataclass(frozen=True)
class Interval:
    """Of accumulate_bfloat16: pixels, regions that they meet, and blocks of 16 of those that a chunk of 32 meets."""

    pixels: int
    present: int
    products: float


def interval_of(labels: list[int]) -> Interval:
    """The interval that a block begins with where its pixels have these labels."""
    places: dict[int, int] = {}
    end = 0
    for end in range(0, min(len(labels), INTERVAL), STEP):
        if len(places.keys() | labels[end : end + STEP]) > PLACES:
            break
        for label in labels[end : end + STEP]:
            places.setdefault(label, len(places))
    else:
        end += STEP
    chunks = [{places[i] // PRODUCT_REGIONS for i in labels[x : x + CHUNK]} for x in range(0, end, CHUNK)]
    return Interval(end, len(places), sum(map(len, chunks)) / len(chunks))


def crossed_interval(chord: int) -> Interval:
    """Rows that the same regions cross."""
    return interval_of([x % IMAGE // chord for x in range(INTERVAL)])


def drawn_interval(regions: int) -> Interval:
    draw = Random(0)
    return interval_of([draw.randrange(regions) for _ in range(INTERVAL)])


def of_bfloat16(M: int, regions: int, interval: Interval, lane: int) -> Callable[[Function, int], float]:
    """Instructions per element. Left out: values that are not finite, and what a block does once."""
    warps, room = warps_of(M, lane), FEW if regions <= FEW * PRODUCT_REGIONS else PLACES // PRODUCT_REGIONS

    def count(function: Function, V: int) -> float:
        outer, of_pass, step = function.around("HMMA")[-3:]
        rare = [a.begin for a in function.nested(step)]  # what is not finite
        general, without = (
            function.longest(step.begin, step.end, avoid, without=rare) for avoid in ("CALL", "CALL|HMMA")
        )
        assert general is not None and without is not None
        chunk = (without + interval.products * (general - without) / room) / (STEP / CHUNK)

        reading, placing = function.nested(outer)[:2]
        alone = [a.begin for a in function.nested(reading)]  # labels one by one, where they do not lie well
        four = function.longest(reading.begin, reading.end, r"CALL|LDG\.E\.(64|128)", without=alone)
        known = function.longest(placing.begin, placing.end, without=[a.begin for a in function.nested(placing)])
        assert four is not None and known is not None
        labels = four / 4 + known * CHUNK / STEP  # of a chunk

        blocks = -(-interval.present // PRODUCT_REGIONS)
        table = function.way(step.end, of_pass.end) * blocks / room
        added = function.way(of_pass.end, outer.end) * -(-interval.present // LANES)
        per_interval = (warps * table + added) * CHUNK / interval.pixels
        return (warps * chunk + labels + per_interval) / M

    return count
