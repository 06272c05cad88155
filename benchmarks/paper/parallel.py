"""Data parallel training under torchrun: every process trains on its share of each batch, and all hold the same weights.

    torchrun --nproc_per_node 2 -m benchmarks.paper ...

Without torchrun there is one process, and every function here does the obvious thing.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import TrainingError

# How long a process waits for the others. The first one also evaluates and writes, which takes minutes for a large data set.
PATIENCE = datetime.timedelta(hours=2)


@contextmanager
def processes(device: torch.device | str) -> Iterator[torch.device]:
    """Belong, within the block, to the processes that torchrun started, if it did.

    Args:
        device: "cpu" or "cuda", the same for all.

    Yields: the device of this process. Under torchrun with "cuda" that is the GPU of its number on this machine.

    Raises:
        TrainingError: if torchrun started more processes than there are GPUs.
    """
    device = torch.device(device)
    if not dist.is_torchelastic_launched():
        yield device
        return
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise TrainingError(f"torchrun: a process needs a GPU of its own, got process {local + 1} and {gpus} GPUs")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # Gloo as well beside a GPU: what the processes tell each other in every step must not wait for it.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def size() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process is the one that writes files, evaluates and shows its progress."""
    return rank() == 0


def gather(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks, on every one of them. Anything that pickles."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


def largest(value: int) -> int:
    """The largest of the processes' values, without a GPU being waited for."""
    if size() == 1:
        return value
    values = torch.tensor(value)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return int(values)


def barrier() -> None:
    """Wait until all processes are here."""
    largest(0)


def mean(values: Tensor) -> Tensor:
    """The mean over the processes of a floating tensor, on every one of them. Has no gradient."""
    if size() == 1:
        return values
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values / size()


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch (b, ...): the first b / size() for the first process, and so on.

    Raises:
        TrainingError: if the parts would not be equal: the mean of their means would not be that of the batch.
    """
    if len(batch) % size():
        raise TrainingError(f"batch must be divisible by the number of processes, {size()}, got {len(batch)}")
    return batch.tensor_split(size())[rank()]


class _Mean(torch.autograd.Function):
    """`mean`, which is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return mean(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mean(gradient)


@torch.compiler.disable  # an exchange is not part of a compiled graph
def _mean(values: Tensor) -> Tensor:
    return _Mean.apply(values)


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' images, on the CPU, where PyTorch's SyncBatchNorm does not run.

    (B, C, H, W) -> the same, with B, H and W equal on all processes. For a value x of channel c, with mean and variance over
    the size() B H W values of that channel::

        y = weight_c (x - mean_c) / sqrt(variance_c + eps) + bias_c

    Statistics are float32; the running variance is the unbiased one. Parameters and buffers are those of `nn.BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        average = _mean(x.mean((0, 2, 3)))
        deviation = x - average[:, None, None]
        variance = _mean(deviation.square().mean((0, 2, 3)))
        with torch.no_grad():
            count = size() * x.numel() // x.shape[1]
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (deviation * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def share_statistics(network: nn.Module) -> nn.Module:
    """The network, its batch normalisations made to see the images of all processes; names of parameters stay."""
    if size() == 1:
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm  # same state, another forward
    return network


def average_gradients(network: nn.Module) -> nn.Module:
    """What to call in place of the network, so that backward leaves the mean of all processes' gradients.

    The first process's weights become those of all.
    """
    if size() == 1:
        return network
    device = next(network.parameters()).device
    return nn.parallel.DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
