"""One training with its scores, in a folder of its own, which a kill does not harm.

OUT/runs/NAME/checkpoint.pt   while it trains (train.py)
OUT/runs/NAME/logs            metrics.csv and TensorBoard's events, step by step
OUT/runs/NAME/weights.pt      afterwards: a state dict, as --weights takes it
OUT/runs/NAME/pictures.npy    what is drawn
OUT/runs/NAME/result.json     written last: with it, the run is done and is not repeated
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import cas_ext

from . import models, parallel
from .checkpoint import write_atomically
from .data import Labelled
from .judge import JUDGES
from .sources import Source, load
from .train import Settings, Trained, train

CHECKPOINT, LOGS, WEIGHTS, PICTURES, RESULT = "checkpoint.pt", "logs", "weights.pt", "pictures.npy", "result.json"
CURVE_DIGITS = 5


class JobError(Exception):
    """A run that cannot go on; its message is one line."""


@dataclass(frozen=True)
class Job:
    """A run. name: of its folder. method: its row in the tables. judge: a key of JUDGES.

    initial: the name of the run whose weights it starts from. weights: a file of first weights. trained: the name of the run
    whose network is judged, instead of training one.
    """

    name: str
    method: str
    source: Source
    settings: Settings
    judge: str
    initial: str | None = None
    weights: str | None = None
    trained: str | None = None

    def identity(self) -> dict[str, Any]:
        """What decides its result, as JSON holds it."""
        described = asdict(self)
        described["settings"].pop("checkpoint_every")
        if self.weights is not None:
            described["weights"] = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()
        described["versions"] = {"torch": torch.__version__, "cas_ext": cas_ext.__version__}
        return json.loads(json.dumps(described))

    def folder(self, runs: Path) -> Path:
        return runs / self.name


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, in words."""
    found = []
    for key in sorted({*old, *new}):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key} {one!r}, not {other!r}")
    return found


def finished(job: Job, runs: Path) -> dict[str, Any] | None:
    """The result of a run that is done, or None.

    Raises: JobError where the folder holds a run of other settings.
    """
    path = job.folder(runs) / RESULT
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text())
        different = differences(result["identity"], job.identity())
    except (OSError, ValueError, KeyError) as error:
        raise JobError(f"{path}: cannot be read as a result ({models.first_line(error)})") from error
    if different:
        raise JobError(f"{path}: is the result of another run: {'; '.join(different)}; give another --out or --runs")
    return result


def curves(trained: Trained) -> dict[str, list[float]]:
    """step, uniformer and discriminator along the training; empty for losses without codes."""
    columns = trained.terms.T.tolist()
    names = ("step", "uniformer", "discriminator")
    return {name: [round(x, CURVE_DIGITS) for x in column] for name, column in zip(names, columns, strict=True)}


def _network_of(job: Job, path: Path, channels: int) -> nn.Module:
    return models.build(job.settings.model, channels, job.settings.outputs, path)


def _train(job: Job, runs: Path, data: Labelled) -> Trained:
    """Train the run's network, or read it if it is that of another run."""
    channels = data.images.shape[1]
    if job.trained is not None:
        network = _network_of(job, runs / job.trained / WEIGHTS, channels).to(data.images.device)
        network = network.to(memory_format=torch.channels_last).eval()  # as it was trained: it rounds in the same way
        return Trained(network, torch.empty(0), torch.empty(0, 3))
    first = job.weights if job.initial is None else runs / job.initial / WEIGHTS
    initial = None if first is None else _network_of(job, Path(first), channels).state_dict()
    folder = job.folder(runs)
    return train(job.settings, data, folder / CHECKPOINT, initial, folder / LOGS)


def run(job: Job, runs: Path, device: torch.device) -> dict[str, Any]:
    """Train, score and write; a run that is done is only read. Processes of torchrun train together, and the first does the rest.

    Raises: JobError, TrainingError, ModelError, DataError, ValueError: as the parts.
    """
    done = finished(job, runs)
    if done is not None:
        return done
    folder = job.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    splits = load(job.source, device)
    trained = _train(job, runs, splits.train)
    if parallel.is_first():
        judged = JUDGES[job.judge](trained.network, job.settings.loss, splits)
        write_atomically(trained.network.state_dict(), folder / WEIGHTS)
        np.save(folder / PICTURES, judged.pictures)
        result = {"identity": job.identity(), "scores": judged.scores, "curves": curves(trained)}
        write_text(folder / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        (folder / CHECKPOINT).unlink(missing_ok=True)
    parallel.barrier()
    return finished(job, runs) or {}
