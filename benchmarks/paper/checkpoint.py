"""Files that a training goes on from."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import TrainingError
from .models import first_line


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
