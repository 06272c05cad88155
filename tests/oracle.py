"""What the float64 reference says about a call of cas_loss: values, gradient, Hessian-vector product."""

from __future__ import annotations

import torch
from torch import Tensor

from cas_ext import reference

TERMS = 3  # loss, uniformer, discriminator


def double_leaf(input: Tensor) -> Tensor:
    """The rounded input, exactly, as a float64 leaf on the CPU."""
    return input.detach().cpu().double().contiguous().requires_grad_()


def expected_terms(input: Tensor, target: Tensor, **options) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """(leaf, (loss, uniformer, discriminator)) in float64 on the CPU, with their graph."""
    leaf = double_leaf(input)
    return leaf, reference.cas_loss(leaf, target.detach().cpu(), return_terms=True, **options)


def random_like(tensor: Tensor, seed: int) -> Tensor:
    """Standard normal values of the tensor's shape, dtype and device; the same values on every device."""
    values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(tensor.dtype).to(tensor.device)
