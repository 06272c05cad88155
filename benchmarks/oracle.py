"""The float64 reference for images of any size: one channel of one image at a time, so that memory stays small.

The equation itself comes from `cas_ext.reference.loss_terms`; here are only the sums over pixels and their adjoint.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cas_ext import reference

from .peers import Loss


class Oracle:
    """The loss (alpha 0.5, ordered pairs, mean over images) of (input, target), and how far others are from it."""

    def __init__(self, input: Tensor, target: Tensor, regions: int, alpha: float = 0.5) -> None:
        self.input, self.target, self.regions = input.detach(), target, regions
        self.loss = 0.0
        self.coefficients = []
        for b in range(input.shape[0]):
            moments = [m.requires_grad_(m.is_floating_point()) for m in self._moments(b)]
            uniformer, discriminator = reference.loss_terms(reference.Moments(*moments))
            loss = (alpha * uniformer - (1 - alpha) * discriminator).sum() / input.shape[0]
            of_mean, of_scatter = torch.autograd.grad(loss, moments[1:])
            self.loss += loss.item()
            self.coefficients.append((*(m.detach()[0] for m in moments), of_mean[0], of_scatter[0]))

    def _labels(self, b: int) -> Tensor:
        return self.target[b].flatten().long()

    def _plane(self, tensor: Tensor, b: int, m: int) -> Tensor:
        return tensor[b, m].flatten().double()

    def _moments(self, b: int) -> tuple[Tensor, Tensor, Tensor]:
        labels = self._labels(b)
        count = torch.bincount(labels, minlength=self.regions)
        size = count.clamp(min=1).double()
        means, scatter = [], torch.zeros_like(size)
        for m in range(self.input.shape[1]):
            s = self._plane(self.input, b, m)
            mean = torch.bincount(labels, s, self.regions) / size
            scatter += torch.bincount(labels, (s - mean[labels]) ** 2, self.regions)
            means.append(mean)
        return count[None], torch.stack(means, 1)[None], scatter[None]

    def _gradient_planes(self) -> Iterator[tuple[int, int, Tensor]]:
        for b, (count, mean, _, of_mean, of_scatter) in enumerate(self.coefficients):
            labels = self._labels(b)
            shift = of_mean / count.clamp(min=1)[:, None]
            for m in range(self.input.shape[1]):
                deviation = self._plane(self.input, b, m) - mean[labels, m]
                yield b, m, shift[labels, m] + 2 * of_scatter[labels] * deviation

    def loss_error(self, loss: Tensor) -> float:
        """|loss - expected| / |expected|."""
        return abs(loss.item() - self.loss) / max(abs(self.loss), torch.finfo(torch.float64).tiny)

    def gradient_error(self, gradient: Tensor) -> float:
        """The largest difference of an element over the largest element."""
        error = largest = 0.0
        for b, m, expected in self._gradient_planes():
            difference = (self._plane(gradient, b, m) - expected).abs().max().item()
            error = difference if difference != difference else max(error, difference)
            if error != error:
                return error
            largest = max(largest, expected.abs().max().item())
        return error / max(largest, torch.finfo(torch.float64).tiny)


class OwnFormula:
    """Judges a peer that computes another loss on purpose (the authors' code) against itself in float64."""

    def __init__(self, loss: Loss, input: Tensor, target: Tensor, regions: int) -> None:
        wide = input.detach().double().requires_grad_()
        expected = loss(wide, target, regions)
        (self.gradient,) = torch.autograd.grad(expected, wide)
        self.loss = expected.item()

    def loss_error(self, loss: Tensor) -> float:
        """|loss - expected| / |expected|."""
        return abs(loss.item() - self.loss) / max(abs(self.loss), torch.finfo(torch.float64).tiny)

    def gradient_error(self, gradient: Tensor) -> float:
        """The largest difference of an element over the largest element."""
        return ((gradient.double() - self.gradient).abs().max() / self.gradient.abs().max()).item()
