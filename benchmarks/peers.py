"""The competitors: the loss (alpha 0.5, ordered pairs, mean over images) as a PyTorch user would write it.

Each takes (input (B, M, *spatial), target (B, *spatial), regions) and returns a scalar. Half precision is widened to
float32 first, as a careful user does; nothing is done that the formula does not ask for, and nothing is read back.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._inductor import config as inductor_config
from torch.nn.functional import one_hot

import cas_ext

from .cases import Setting

ALPHA = 0.5
Loss = Callable[[Tensor, Tensor, int], Tensor]


def flatten(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """s (B, M, P) in float32 or float64, labels (B, P) int64."""
    return input.flatten(2).to(torch.promote_types(input.dtype, torch.float32)), target.flatten(1).long()


def loss_of_moments(count: Tensor, mean: Tensor, scatter: Tensor) -> Tensor:
    """Eq. 1 from count (B, N), mean (B, N, M) and scatter (B, N), with the pair sum in its O(N) form."""
    present = (count > 0).to(mean.dtype)
    regions = present.sum(1)
    uniformer = (scatter / count.clamp(min=1)).sum(1)
    center = mean.sum(1) / regions.clamp(min=1)[:, None]  # absent regions have mean 0
    discriminator = 2 * regions * (present * (mean - center[:, None]).square().sum(2)).sum(1)
    return (ALPHA * uniformer - (1 - ALPHA) * discriminator).mean()


def cas_ext_loss(input: Tensor, target: Tensor, regions: int) -> Tensor:
    return cas_ext.cas_loss(input, target, num_regions=regions)


def reference(input: Tensor, target: Tensor, regions: int) -> Tensor:
    """The reference of the tests, which also handles ignored pixels: slower than `onehot`, and not meant to be fast."""
    return cas_ext.reference.unchecked_loss(input, target, regions)


def onehot(input: Tensor, target: Tensor, regions: int) -> Tensor:
    s, labels = flatten(input, target)
    member = one_hot(labels, regions).to(s.dtype)  # (B, P, N)
    count = member.sum(1)
    mean = torch.einsum("bpn,bmp->bnm", member, s) / count.clamp(min=1)[:, :, None]
    deviation = s - torch.einsum("bpn,bnm->bmp", member, mean)
    scatter = torch.einsum("bpn,bp->bn", member, deviation.square().sum(1))
    return loss_of_moments(count, mean, scatter)


def onehot_uncentred(input: Tensor, target: Tensor, regions: int) -> Tensor:
    """E|s|^2 - |m|^2: one sweep less than `onehot`, at the price of digits."""
    s, labels = flatten(input, target)
    member = one_hot(labels, regions).to(s.dtype)
    count = member.sum(1)
    mean = torch.einsum("bpn,bmp->bnm", member, s) / count.clamp(min=1)[:, :, None]
    square = torch.einsum("bpn,bp->bn", member, s.square().sum(1))
    return loss_of_moments(count, mean, square - count * mean.square().sum(2))


def scatter_add(input: Tensor, target: Tensor, regions: int) -> Tensor:
    s, labels = flatten(input, target)
    B, M, _ = s.shape
    index = labels[:, None].expand_as(s)
    count = labels.new_zeros(B, regions).scatter_add(1, labels, torch.ones_like(labels))
    sums = s.new_zeros(B, M, regions).scatter_add(2, index, s)
    mean = sums / count.clamp(min=1)[:, None]
    deviation = s - mean.gather(2, index)
    scatter = s.new_zeros(B, regions).scatter_add(1, labels, deviation.square().sum(1))
    return loss_of_moments(count, mean.transpose(1, 2), scatter)


def index_add(input: Tensor, target: Tensor, regions: int) -> Tensor:
    s, labels = flatten(input, target)
    B, M, _ = s.shape
    rows = s.transpose(1, 2).reshape(-1, M)  # (B P, M)
    index = (labels + regions * torch.arange(B, device=labels.device)[:, None]).flatten()
    count = labels.new_zeros(B * regions).index_add(0, index, torch.ones_like(index))
    mean = s.new_zeros(B * regions, M).index_add(0, index, rows) / count.clamp(min=1)[:, None]
    deviation = rows - mean[index]
    scatter = s.new_zeros(B * regions).index_add(0, index, deviation.square().sum(1))
    return loss_of_moments(count.view(B, -1), mean.view(B, -1, M), scatter.view(B, -1))


def masked_sum(input: Tensor, target: Tensor, regions: int) -> Tensor:
    """(B, N, M, P) terms that a compiler fuses into its sums: only worth writing for few regions, and compiled."""
    s, labels = flatten(input, target)
    member = labels[:, None] == torch.arange(regions, device=labels.device)[:, None]  # (B, N, P)
    count = member.sum(2)
    mean = torch.where(member[:, :, None], s[:, None], 0).sum(3) / count.clamp(min=1)[:, :, None]
    squares = (s[:, None] - mean[:, :, :, None]).square().sum(2)
    return loss_of_moments(count, mean, torch.where(member, squares, 0).sum(2))


def authors(input: Tensor, target: Tensor, regions: int) -> Tensor:
    """What the paper's published code computes for two regions, which is not Eq. 1 (docs/paper.md).

    Every pixel weight carries an epsilon, the uniformer covers the foreground only, and each pair counts once.
    """
    epsilon = 3e-5
    s = input.to(torch.promote_types(input.dtype, torch.float32))
    over_pixels = tuple(range(2, s.dim()))
    shape = (*s.shape[:2], *[1] * len(over_pixels))
    mask = target[:, None].to(s.dtype)
    foreground, background = mask + epsilon, 1 - mask + epsilon
    weighted = s * foreground
    size = foreground.sum(over_pixels)
    mean = weighted.sum(over_pixels) / size
    mean_outside = (s * background).sum(over_pixels) / background.sum(over_pixels)
    scatter = (weighted - foreground * mean.view(shape)).square().sum(over_pixels)
    uniformer = (scatter / (size + epsilon)).sum()
    discriminator = (mean - mean_outside).square().sum()
    return (ALPHA * uniformer - (1 - ALPHA) * discriminator) / s.shape[0]


def torch_scatter(input: Tensor, target: Tensor, regions: int) -> Tensor:
    from torch_scatter import scatter as scatter_to

    s, labels = flatten(input, target)
    index = labels[:, None].expand_as(s)
    count = scatter_to(torch.ones_like(labels), labels, 1, dim_size=regions)
    mean = scatter_to(s, index, 2, dim_size=regions) / count.clamp(min=1)[:, None]
    deviation = s - mean.gather(2, index)
    scatter = scatter_to(deviation.square().sum(1), labels, 1, dim_size=regions)
    return loss_of_moments(count, mean.transpose(1, 2), scatter)


def triton(input: Tensor, target: Tensor, regions: int) -> Tensor:
    from .triton_peer import cas_loss

    return cas_loss(input, target, regions)


@dataclass(frozen=True)
class Peer:
    """An implementation, and where it can run.

    kind: what it is compared as: "ours", "unfused", "eager", "compiled", "triton", "library", or "authors", which is another
    loss, judged against itself. module: what must be importable. max_regions: beyond it nobody would write this. onehot: it
    holds (B, P, N) tensors.
    """

    loss: Loss
    kind: str
    compile: bool = False
    partitioned: bool = False
    module: str | None = None
    cuda_only: bool = False
    max_regions: int | None = None
    onehot: bool = False

    def build(self) -> Loss:
        """A fresh callable; compilation happens at its first calls."""
        if not self.compile:
            return self.loss
        options = {"partitioned_scatter_enabled": True} if self.partitioned else None
        return torch.compile(self.loss, dynamic=False, fullgraph=True, options=options)

    def why_unavailable(self) -> str | None:
        """Why it cannot run in this environment, or None."""
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed"
        if self.partitioned and not hasattr(inductor_config, "partitioned_scatter_enabled"):
            return f"torch {torch.__version__} has no partitioned scatter"
        return None

    def applies(self, setting: Setting, device: str) -> bool:
        """Whether it is meant for such a setting."""
        few = self.max_regions is None or setting.case.regions <= self.max_regions
        return few and (device == "cuda" or not self.cuda_only)

    def bytes_needed(self, setting: Setting) -> int:
        """An estimate of the temporaries that grow with pixels times regions."""
        return setting.case.pixels * setting.case.regions * ONEHOT_BYTES if self.onehot else 0


ONEHOT_BYTES = 20  # per pixel and region at the peak: int64 one-hot, float32 one-hot, two float32 temporaries

# "partitioned": torch 2.11 and 2.13 rewrite index_put only, which index_add lowers to; scatter_add they leave as it is.
PEERS = {
    "cas_ext": Peer(cas_ext_loss, "ours"),
    "onehot": Peer(onehot, "eager", onehot=True),
    "onehot_uncentred": Peer(onehot_uncentred, "eager", onehot=True),
    "scatter_add": Peer(scatter_add, "eager"),
    "index_add": Peer(index_add, "eager"),
    "authors": Peer(authors, "authors", max_regions=2),
    "onehot_compiled": Peer(onehot, "compiled", compile=True, onehot=True),
    "onehot_uncentred_compiled": Peer(onehot_uncentred, "compiled", compile=True, onehot=True),
    "scatter_add_compiled": Peer(scatter_add, "compiled", compile=True),
    "index_add_compiled": Peer(index_add, "compiled", compile=True),
    "index_add_partitioned": Peer(index_add, "compiled", compile=True, partitioned=True),
    "masked_sum_compiled": Peer(masked_sum, "compiled", compile=True, max_regions=32),
    "authors_compiled": Peer(authors, "authors", compile=True, max_regions=2),
    "triton": Peer(triton, "triton", module="triton", cuda_only=True),
    "torch_scatter": Peer(torch_scatter, "library", module="torch_scatter"),
    "reference": Peer(reference, "eager", onehot=True),
    "reference_compiled": Peer(reference, "compiled", compile=True, onehot=True),
}
DEFAULT_PEERS = tuple(name for name in PEERS if not name.startswith("reference"))


def after_softmax(loss: Loss) -> Loss:
    """The loss of logits, by a softmax in front."""
    return lambda input, target, regions: loss(input.softmax(1), target, regions)


def fused(input: Tensor, target: Tensor, regions: int) -> Tensor:
    return cas_ext.cas_loss(input, target, num_regions=regions, activation="softmax")


# The same behind a softmax, which cas_ext fuses; "unfused" is cas_ext without that.
SOFTMAX_PEERS = {name: replace(peer, loss=after_softmax(peer.loss)) for name, peer in PEERS.items()} | {
    "cas_ext": Peer(fused, "ours"),
    "cas_ext_unfused": Peer(after_softmax(cas_ext_loss), "unfused"),
}
