"""CASLoss, the loss as a module."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from .checks import check_loss_options, check_region_options
from .functional import cas_loss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class CASLoss(nn.Module):
    """Class-agnostic segmentation loss (Eq. 1 of Sharma et al., 2021), a drop-in for a training loop.

    The arguments are those of `cas_ext.cas_loss`, where they are explained.

    Example:
        >>> criterion = cas_ext.CASLoss(activation="softmax")
        >>> loss = criterion(network(images), masks)
        >>> loss.backward()

    Raises:
        TypeError, ValueError: for an option that `cas_loss` cannot use.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        *,
        num_regions: int | None = None,
        ignore_index: int = -100,
        pairs: str = "ordered",
        distance: str = "sqeuclidean",
        activation: str | None = None,
        reduction: str = "mean",
        return_terms: bool = False,
        validate: bool | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.alpha = check_loss_options("cas_loss", alpha, pairs, distance, reduction, return_terms)
        num_regions, ignore_index = check_region_options(
            "cas_loss", num_regions, ignore_index, activation, validate, process_group
        )
        self.num_regions = num_regions
        self.ignore_index = ignore_index
        self.pairs = pairs
        self.distance = distance
        self.activation = activation
        self.reduction = reduction
        self.return_terms = return_terms
        self.validate = validate
        self.process_group = process_group

    def forward(self, input: Tensor, target: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        return cas_loss(
            input,
            target,
            alpha=self.alpha,
            num_regions=self.num_regions,
            ignore_index=self.ignore_index,
            pairs=self.pairs,
            distance=self.distance,
            activation=self.activation,
            reduction=self.reduction,
            return_terms=self.return_terms,
            validate=self.validate,
            process_group=self.process_group,
        )

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by torch.jit.script, which otherwise fails on the first thing in `cas_loss` that it cannot read."""
        raise RuntimeError("CASLoss: cannot be compiled by TorchScript; use torch.export or torch.compile")

    def extra_repr(self) -> str:
        defaults = inspect.signature(cas_loss).parameters
        shown = ((name, value) for name, value in vars(self).items() if name in defaults)
        return ", ".join(f"{name}={value!r}" for name, value in shown if value != defaults[name].default)

    def __deepcopy__(self, memo: dict[int, Any]) -> CASLoss:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        memo[id(self.process_group)] = self.process_group  # a communicator is shared, not copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied
