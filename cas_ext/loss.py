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

    The arguments are those of `cas_ext.cas_loss`, where they are explained in full, and become attributes of the module.

    Args:
        alpha: weight of the uniformer, in [0, 1]; the one argument that may be given by position.
        num_regions: a bound on the labels; None takes max label + 1, which waits for a GPU.
        ignore_index: pixels with this label take no part.
        pairs: "ordered", "unordered" or "mean": how pairs of regions are counted.
        distance: "sqeuclidean", "euclidean" or "log": between the means of regions.
        activation: None, or "softmax" for logits.
        reduction: "mean", "sum" or "none": over images.
        return_terms: whether uniformer and discriminator are returned, too.
        validate: whether a label out of range raises on CUDA.
        process_group: the processes over which the pixels of the images are split.

    Example:
        >>> criterion = cas_ext.CASLoss(activation="softmax")
        >>> loss = criterion(network(images), masks)
        >>> loss.backward()

    Raises:
        TypeError, ValueError: for an option that `cas_loss` cannot use, when the module is built.
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
        """The loss of a batch.

        Args:
            input: (B, M, *spatial) descriptors, or logits for activation "softmax"; float16, bfloat16, float32 or float64.
            target: (B, *spatial) region labels in [0, num_regions) or `ignore_index`; bool, uint8, int8, int16, int32 or
                int64, on the device of `input`.

        Returns:
            A scalar, or (B,) for reduction "none", float32 (float64 for float64 input); with `return_terms` a tuple of
            three: loss, uniformer, discriminator.

        Raises:
            TypeError: for a wrong type or dtype.
            ValueError: for wrong shapes, devices, or labels out of range.
        """
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
