"""Images whose pixels are split over the processes of a torch.distributed group: one small collective per table."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import ops
from .transforms import call, save, transformable

_BAD_LABEL = -1.0  # in place of a count: this process found a label out of range


def is_group(value: object) -> bool:
    return dist.is_available() and isinstance(value, dist.ProcessGroup)


def _gather(table: Tensor, group: Any) -> Tensor:
    """(R, *table.shape): the table of every process, in the order of the ranks, the same bits everywhere."""
    tables = table.new_empty((dist.get_world_size(group), *table.shape))
    if table.numel() > 0:
        dist.all_gather(list(tables.unbind()), table.contiguous(), group=group)
    return tables


def accumulate(
    input: Tensor, target: Tensor, num_regions: int, ignore_index: int, validate: bool, activation: int, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The moments of the whole images from this process's pixels. Shapes: ops.accumulate."""
    if torch.compiler.is_compiling():  # a process that raised within a compiled graph would leave the others waiting
        raise RuntimeError("cas_ext: process_group cannot be part of a compiled graph; call the loss outside of it")
    bad_label: ValueError | None = None
    try:
        count, mean, scatter = ops.accumulate(input, target, num_regions, ignore_index, validate, activation)
        table = torch.cat([count.double().unsqueeze(2), scatter.unsqueeze(2), mean], 2)  # counts are exact to 2**53
    except ValueError as error:  # the others wait for this process: it takes part, then raises
        bad_label = error
        shape = (input.shape[0], num_regions, 2 + input.shape[1])
        table = torch.full(shape, _BAD_LABEL, dtype=torch.float64, device=input.device)
    tables = _gather(table, group)
    if bad_label is not None:
        raise bad_label
    if validate or not input.is_cuda:
        bad = (tables[..., 0] == _BAD_LABEL).flatten(1).any(1)
        if bool(bad.any()):
            raise ValueError(
                f"cas_ext: target must lie in [0, num_regions), got others on ranks {bad.nonzero()[:, 0].tolist()}"
            )
    return merge(tables)


def merge(tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chan's rule for R groups of pixels: tables (R, B, N, 2 + M) of count, scatter, mean -> count, mean, scatter.

    Groups without pixels have zeros. A NaN of any group stays NaN.
    """
    counts, scatters, means = tables[..., 0], tables[..., 1], tables[..., 2:]
    count = counts.sum(0)
    share = counts / count.clamp(min=1)
    mean = (share.unsqueeze(3) * means).sum(0)
    between = counts * (means - mean).square().sum(3)
    return count.to(torch.int64), mean, (scatters + between).sum(0)


@transformable
class TotalFunction(torch.autograd.Function):
    """The sum over the processes of a number per image (B,), the same bits everywhere."""

    @staticmethod
    def forward(part: Tensor, group: Any) -> Tensor:
        return _gather(part, group).sum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]
        save(ctx)

    @staticmethod
    def backward(ctx: Any, of_total: Tensor) -> tuple[Tensor, None]:
        return of_total, None  # every process holds the same total and the same gradient of it

    @staticmethod
    def push(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return total(tangent, ctx.group)


def total(part: Tensor, group: Any) -> Tensor:
    """`TotalFunction`."""
    result: Tensor = call(TotalFunction, part, group)
    return result
