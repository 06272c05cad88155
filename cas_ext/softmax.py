"""The derivative of the softmax that `accumulate` and `apply` fuse: needed from the second order on, in ordinary operations."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of pixel arithmetic, of losses and of coefficients."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class SoftmaxTangent:
    """s = softmax(logits) over channels, and u = J t, what a tangent t of the logits is to s.

    J = diag(s) - s s^T, pixel by pixel. Every operation is differentiable, so every further order follows from autograd.
    """

    def __init__(self, logits: Tensor, target: Tensor, tangent: Tensor, ignore_index: int) -> None:
        used = (target.to(torch.int64) != ignore_index).unsqueeze(1)  # in uint8, 156 would equal -100
        acc = accumulation_dtype(logits.dtype)
        # Whatever ignored pixels hold must not reach a product with 0.
        self.logits_dtype = logits.dtype
        self.descriptors = torch.where(used, logits, 0).to(acc).softmax(1)
        tangent = torch.where(used, tangent, 0).to(acc)
        self._centered = tangent - (self.descriptors * tangent).sum(1, keepdim=True)
        self._tangent = tangent
        self.pushed = self.descriptors * self._centered

    def pull(self, of_descriptors: Tensor, gradient: Tensor) -> Tensor:
        """d<J g(s), t>/dlogits, given g and d<g(s), u>/ds with u held fixed.

        <J g, t> = <g, J t>: s enters through g, and through u = s (t - <s, t>).
        """
        s = self.descriptors
        total = of_descriptors + gradient * self._centered - self._tangent * (s * gradient).sum(1, keepdim=True)
        return (s * (total - (s * total).sum(1, keepdim=True))).to(self.logits_dtype)
