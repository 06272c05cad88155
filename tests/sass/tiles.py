"""What tiles of accumulate_table hold: the segments of masks, which tests/sass/ways.py puts a price on."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

TILE = 256  # pixels
LINE = 32  # of them, which no segment leaves


@dataclass(frozen=True)
class Segment:
    """Neighbouring places of one region, within 32 aligned ones."""

    begin: int
    length: int
    region: int

    def split(self, unit: int) -> tuple[int, int]:
        """How many units of so many places it holds whole, and the places beside them."""
        whole = max((self.begin + self.length) // unit - -(-self.begin // unit), 0)
        return whole, self.length - whole * unit


@dataclass(frozen=True)
class Tile:
    """What lies where in a tile of 256 pixels."""

    segments: tuple[Segment, ...]
    grouped: bool

    def waiting(self, segment: Segment) -> int:
        """Segments whose sums are added up before the table has its region; none of a run that is one segment."""
        together = sum(other.region == segment.region for other in self.segments)
        return 0 if self.grouped and together == 1 else together


def tile_of(labels: list[int], grouped: bool) -> Tile:
    cuts = [x for x in range(TILE) if x % LINE == 0 or labels[x] != labels[x - 1]]
    ends = [*cuts[1:], TILE]
    return Tile(tuple(Segment(x, end - x, labels[x]) for x, end in zip(cuts, ends, strict=True)), grouped)


def coherent(chord: int) -> tuple[Tile, ...]:
    """Rows of tiles along a line that crosses a region every `chord` pixels, from each pixel on."""
    return tuple(tile_of([(x + first) // chord for x in range(TILE)], False) for first in range(chord))


def random(regions: int) -> tuple[Tile, ...]:
    """Labels drawn from so many, brought together."""
    draw = Random(0)
    return tuple(tile_of(sorted(draw.randrange(regions) for _ in range(TILE)), True) for _ in range(64))
