"""What a command was asked to do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .sources import Source
from .train import Settings


@dataclass(frozen=True)
class Options:
    """The options of `python -m benchmarks.paper COMMAND`, checked; out and device are given elsewhere.

    steps, batch, rate, size, images: of one training. noise: for low-fidelity, shares of swapped labels. outputs: for
    multi-region and texture, numbers of channels M that the sweep tries.
    """

    command: str
    losses: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    size: int
    images: int
    batch: int
    rate: float
    model: str = "small"
    noise: tuple[float, ...] = (0.0,)
    outputs: tuple[int, ...] = ()
    data: Path | None = None
    weights: Path | None = None
    amp: str = "off"
    compile: bool = False

    def settings(self, loss: str, outputs: int, seed: int) -> Settings:
        """The settings of a training."""
        return Settings(
            model=self.model, loss=loss, outputs=outputs, steps=self.steps, batch=self.batch, rate=self.rate, seed=seed,
            amp=self.amp, compile=self.compile,
        )  # fmt: skip

    def source(self, kind: str, seed: int, noise: float = 0.0) -> Source:
        return Source(
            kind, self.size, self.images, seed, noise, None if self.data is None else str(self.data.resolve())
        )

    def described(self) -> dict[str, Any]:
        """For the report: all of it but the places of files."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("data", "weights"):
            found[name] = None if found[name] is None else found[name].name
        return found
