"""CASLoss, the loss as a module."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from .functional import cas_loss, check_options


class CASLoss(nn.Module):
    """Class-agnostic segmentation loss (Eq. 1 of Sharma et al., 2021), a drop-in for a training loop.

    The arguments are those of `cas_ext.cas_loss`, where they are explained and checked.

    Example:
        >>> criterion = cas_ext.CASLoss()
        >>> loss = criterion(network(images).softmax(1), masks)
        >>> loss.backward()
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        num_regions: int | None = None,
        ignore_index: int = -100,
        pairs: str = "ordered",
        reduction: str = "mean",
        return_terms: bool = False,
        validate: bool | None = None,
    ) -> None:
        super().__init__()
        check_options(alpha, num_regions, ignore_index, pairs, reduction, return_terms, validate)
        self.alpha = alpha
        self.num_regions = num_regions
        self.ignore_index = ignore_index
        self.pairs = pairs
        self.reduction = reduction
        self.return_terms = return_terms
        self.validate = validate

    def forward(self, input: Tensor, target: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        return cas_loss(
            input,
            target,
            alpha=self.alpha,
            num_regions=self.num_regions,
            ignore_index=self.ignore_index,
            pairs=self.pairs,
            reduction=self.reduction,
            return_terms=self.return_terms,
            validate=self.validate,
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by torch.jit.script, which otherwise fails on the first thing in `cas_loss` that it cannot read."""
        raise RuntimeError("CASLoss: cannot be compiled by TorchScript; use torch.export or torch.compile")

    def extra_repr(self) -> str:
        return (
            f"alpha={self.alpha}, num_regions={self.num_regions}, ignore_index={self.ignore_index}, "
            f"pairs={self.pairs!r}, reduction={self.reduction!r}"
        )
