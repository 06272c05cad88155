"""One training loop for every network, loss and data set, which a kill does not harm.

Everything that a run depends on is in its checkpoint: weights, optimiser, schedule, random numbers and history. A run that
was killed goes on from there, and on the same machine ends with the same bits as one that was not.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import cas_ext
from examples.demo.training import bar_interval

from . import models
from .data import Labelled
from .losses import IGNORED, SPECS

EVALUATION_BATCH = 16  # images; bounds the memory of predictions


class TrainingError(Exception):
    """A training that cannot go on; its message is one line."""


@dataclass(frozen=True)
class Settings:
    """What decides a run, beside its data and device.

    outputs: channels M. rate: the highest of the one-cycle schedule. terms_every: steps between two looks at uniformer
    and discriminator, which are recorded for every loss of codes. amp: forward pass in bfloat16.
    """

    model: str = "small"
    loss: str = "cas-ordered-sqeuclidean"
    outputs: int = 2
    steps: int = 400
    batch: int = 8
    rate: float = 3e-3
    seed: int = 0
    amp: bool = False
    checkpoint_every: int = 50
    terms_every: int = 10

    def __post_init__(self) -> None:
        if self.loss not in SPECS:
            raise ValueError(f"Settings: loss must be one of {', '.join(SPECS)}, got {self.loss!r}")
        for name in ("outputs", "steps", "batch", "checkpoint_every", "terms_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Settings: {name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Trained:
    """network: in evaluation mode. losses (steps,) float64. terms (looks, 3): step, uniformer, discriminator (pairs "mean")."""

    network: nn.Module
    losses: Tensor
    terms: Tensor


def write_atomically(state: dict[str, Any], path: Path) -> None:
    """Save so that `path` holds either the old checkpoint or the whole new one, whenever the process dies."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


class Run:
    """The state of a training, as it is after a whole number of steps."""

    def __init__(self, settings: Settings, data: Labelled, initial: dict[str, Tensor] | None) -> None:
        self.settings, self.data = settings, data
        self.device = data.images.device
        torch.manual_seed(settings.seed)
        network = models.build(settings.model, data.images.shape[1], settings.outputs)
        if initial is not None:
            network.load_state_dict(initial)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.loss = SPECS[settings.loss].build()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings.rate, total_steps=settings.steps + 1
        )
        self.order = torch.Generator().manual_seed(settings.seed)
        self.fingerprint = hashlib.sha256(data.labels.cpu().numpy().tobytes()).hexdigest()[:16]
        self.step = 0
        self.losses: list[Tensor] = []
        self.terms: list[Tensor] = []

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with a run to go on as it. How often it is written may change."""
        decisive = {name: value for name, value in asdict(self.settings).items() if name != "checkpoint_every"}
        return {**decisive, "data": self.data.description, "labels": self.fingerprint}

    def advance(self) -> None:
        """One step of the optimiser."""
        settings = self.settings
        batch = torch.randint(len(self.data), (settings.batch,), generator=self.order).to(self.device)
        images, labels = self.data.images[batch], self.data.labels[batch]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.amp):
            output = self.network(images)
        output = output.float()
        value = self.loss(output, labels)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        self.schedule.step()
        self.losses.append(value.detach().double())
        if self.step % settings.terms_every == 0 and SPECS[settings.loss].output == "codes":
            _, *terms = cas_ext.cas_loss(
                output.detach(), labels, activation="softmax", pairs="mean", return_terms=True, ignore_index=IGNORED
            )
            self.terms.append(torch.stack([torch.full_like(terms[0], self.step), *terms]).double())
        self.step += 1

    def history(self) -> tuple[Tensor, Tensor]:
        """Losses (steps,) and terms (looks, 3) on the CPU.

        Raises: TrainingError where a loss was not finite.
        """
        losses = torch.stack(self.losses).cpu() if self.losses else torch.empty(0, dtype=torch.float64)
        terms = torch.stack(self.terms).cpu() if self.terms else torch.empty(0, 3, dtype=torch.float64)
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            step = int(wrong[0])
            raise TrainingError(f"{self.settings.loss}: the loss is {losses[step].item()} in step {step}")
        return losses, terms

    def save(self, path: Path) -> None:
        losses, terms = self.history()
        state = {
            "identity": self.identity(),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "losses": losses,
            "terms": terms,
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        write_atomically(state, path)

    def restore(self, path: Path) -> None:
        """Raises: TrainingError for a file that is no checkpoint, or one of another run."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except Exception as error:  # unpickling raises half a dozen types
            raise TrainingError(f"{path}: cannot be read as a checkpoint ({models.first_line(error)})") from error
        mine = self.identity()
        different = [f"{k} {identity.get(k)!r}, not {v!r}" for k, v in mine.items() if identity.get(k) != v]
        if different:
            raise TrainingError(f"{path}: is the checkpoint of another run: {'; '.join(different)}")
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.order.set_state(state["order"])
        self.losses, self.terms = list(state["losses"].to(self.device)), list(state["terms"].to(self.device))
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)


def train(
    settings: Settings, data: Labelled, checkpoint: Path | None = None, initial: dict[str, Tensor] | None = None
) -> Trained:
    """Train a network on `data`, on the device where that lies.

    Args:
        checkpoint: file that the state is written to every `checkpoint_every` steps and after the last; if it is there
            already, the run goes on from it. Its folder must exist.
        initial: weights to start from instead of random ones (CE first, then CAS: Table 2).

    Raises:
        TrainingError: for a loss that is not finite, noticed at the next checkpoint, or a checkpoint of another run.
        ModelError, ValueError: as `models.build`.
    """
    run = Run(settings, data, initial)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    run.network.train()
    with tqdm(
        total=settings.steps,
        initial=run.step,
        desc=settings.loss,
        unit="step",
        mininterval=bar_interval(),
        file=sys.stderr,
    ) as bar:
        while run.step < settings.steps:
            run.advance()
            bar.update()
            if checkpoint is not None and (run.step % settings.checkpoint_every == 0 or run.step == settings.steps):
                run.save(checkpoint)
    losses, terms = run.history()
    return Trained(run.network.eval(), losses, terms)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """What the network puts out for images (n, C, H, W) uint8: (n, M, H, W) float32 on the CPU."""
    network.eval()
    return torch.cat([network(part).float().cpu() for part in images.split(EVALUATION_BATCH)])
