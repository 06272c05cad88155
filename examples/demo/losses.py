"""The three losses under comparison: each takes logits (B, 2, H, W) and labels (B, H, W) bool, and returns a scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import cas_ext

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The usual loss: channel 0 is to be the background and channel 1 the object, in every image alike."""
    return F.cross_entropy(logits, labels.long())


def class_agnostic_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """For each image the smaller of CE(y) and CE(1 - y), so that it does not matter which region has which name."""
    as_labelled, swapped = (F.cross_entropy(logits, y.long(), reduction="none").mean((1, 2)) for y in (labels, ~labels))
    return torch.minimum(as_labelled, swapped).mean()


class SoftmaxCAS:
    """`cas_ext.CASLoss` on softmax probabilities; `num_regions` spares a GPU the search for the largest label."""

    def __init__(self) -> None:
        self.loss = cas_ext.CASLoss(alpha=0.5, num_regions=2)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits.softmax(1), labels)


def all_losses() -> dict[str, Loss]:
    """The losses by the name that tables and pictures give them."""
    return {
        "cross entropy": cross_entropy,
        "class-agnostic CE": class_agnostic_cross_entropy,
        "CASLoss": SoftmaxCAS(),
    }
