"""Files that a training goes on from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import parallel
from .data import Labelled
from .errors import TrainingError
from .models import first_line

if TYPE_CHECKING:
    from .train import Settings


def identity_of(settings: Settings, data: Labelled, initial: dict[str, Tensor] | None) -> dict[str, Any]:
    """What a checkpoint must share with a run to go on as it. How often it is written may change."""
    decisive = {name: value for name, value in asdict(settings).items() if name != "checkpoint_every"}
    return {
        **decisive,
        "data": data.description,
        "images": [*data.images.shape, int(data.images.sum(dtype=torch.int64))],
        "labels": fingerprint([data.labels]),
        "initial": None if initial is None else fingerprint(initial.values()),
        "device": data.images.device.type,
        "processes": parallel.size(),
    }


def write_atomically(state: dict[str, Any], path: Path) -> None:
    """Save so that `path` holds either the old checkpoint or the whole new one, whenever the process dies."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The state that a run of this identity wrote, on the CPU.

    Raises:
        TrainingError: for a file that is no checkpoint, or one of another run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        theirs = state["identity"]
    except Exception as error:  # unpickling raises half a dozen types
        raise TrainingError(f"{path}: cannot be read as a checkpoint ({first_line(error)})") from error
    different = differences(theirs, identity)
    if different:
        raise TrainingError(f"{path}: is the checkpoint of another run: {different}")
    return state


def differences(theirs: dict[str, Any], mine: dict[str, Any]) -> str:
    """Where two identities differ; empty if they do not."""
    return "; ".join(f"{k} {theirs.get(k)!r}, not {v!r}" for k, v in mine.items() if theirs.get(k) != v)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Of the tensors' bytes, wherever they lie."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
