"""The losses under comparison, each beside its equation; CAS itself is `cas_ext.CASLoss`.

All take input (B, M, *spatial), what a network puts out, and target (B, *spatial) with region labels in [0, N) or
`IGNORED`, and return a scalar: the mean over images, except for the cross entropy, which is the mean over pixels. Losses
of codes (CE, CACE, CAS, authors) read the input as logits of M channels, the others as embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

import cas_ext
from cas_ext import ops
from cas_ext.checks import DISTANCES
from examples.demo.losses import cross_entropy

IGNORED = -100  # the label of pixels that take no part; what PyTorch and cas_ext use

Loss = Callable[[Tensor, Tensor], Tensor]


def regions_of(target: Tensor) -> int:
    """A bound N on the labels of a batch: the largest one + 1, at least 1."""
    return max(int(target.max()), 0) + 1 if target.numel() else 1


def class_agnostic_cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    """CACE: the cross entropy under the best naming of each image's regions.

    For two regions and channels min(CE(y), CE(1 - y)), per image; for more, the minimum over all ways to give every region
    a channel of its own, by minimum-cost assignment. The formula of Sharma et al. (2021, Sect. 4.2) takes the minimum
    pixel by pixel, which is 0 for a one-hot y whatever the network does.

    Args:
        input: (B, M, *spatial) logits.
        target: (B, *spatial) region labels.

    Returns: scalar, nats a pixel, averaged over images; 0 for an image without valid pixels.

    Raises:
        ValueError: for an image of more regions than channels.
    """
    from scipy.optimize import linear_sum_assignment

    moments = cas_ext.region_moments(log_softmax(input, 1), target, regions_of(target), ignore_index=IGNORED)
    size = moments.count.to(moments.mean.dtype)
    share = size / size.sum(1, keepdim=True).clamp(min=1)
    cost = -share[:, :, None] * moments.mean  # (B, N, M): of calling region i channel m
    numbers = torch.nan_to_num(cost.detach()).cpu().numpy()  # a NaN must not decide, only be seen in the loss
    channels = input.shape[1]
    rows: list[Tensor] = []
    for image, present in enumerate((moments.count > 0).cpu().numpy()):
        regions = present.nonzero()[0]
        if len(regions) > channels:
            raise ValueError(
                f"class_agnostic_cross_entropy: target must have at most M = {channels} regions an image, "
                f"got {len(regions)} in image {image}"
            )
        _, names = linear_sum_assignment(numbers[image, regions])  # every region has one, in their order
        index = torch.from_numpy(np.stack((regions, names))).to(cost.device)
        rows.append(cost[image, index[0], index[1]].sum())
    return torch.stack(rows).mean()


class Authors(nn.Module):
    """The loss of the paper's published code, which is not its Eq. 1: `benchmarks.peers.authors` on the softmax of logits.

    For two regions: a target with labels other than 0 and 1 raises ValueError.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        from benchmarks.peers import authors

        low, high = (int(value) for value in torch.aminmax(target.to(torch.int64)))
        if low < 0 or high > 1:
            raise ValueError(f"Authors: target must hold labels 0 and 1, got labels from {low} to {high}")
        return authors(input.softmax(1), target, 2)


class Discriminative(nn.Module):
    """The discriminative loss of De Brabandere et al. (2017), Eqs. 1-4, on embeddings (B, M, *spatial).

    Per image with C regions of n_c pixels x and means mu_c, [.]+ the positive part::

        L_var  = 1/C sum_c 1/n_c sum_x [|mu_c - x| - delta_v]+^2                      (1)
        L_dist = 1/(C (C - 1)) sum_{a != b} [2 delta_d - |mu_a - mu_b|]+^2            (2)
        L_reg  = 1/C sum_c |mu_c|                                                     (3)
        L      = alpha L_var + beta L_dist + gamma L_reg                              (4)

    The defaults are the paper's. L_dist is 0 for one region, L for no valid pixel.
    """

    def __init__(
        self, delta_v: float = 0.5, delta_d: float = 1.5, alpha: float = 1.0, beta: float = 1.0, gamma: float = 0.001
    ) -> None:
        super().__init__()
        self.delta_v, self.delta_d = delta_v, delta_d
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        count, mean, _ = cas_ext.region_moments(input, target, regions_of(target), ignore_index=IGNORED)
        present = count > 0
        regions = present.sum(1).to(mean.dtype)  # C

        labels = target.flatten(1).long()
        valid = labels != IGNORED
        index = torch.where(valid, labels, 0)
        own = mean.transpose(1, 2).gather(2, index[:, None].expand(-1, mean.shape[2], -1))  # (B, M, P)
        deviation = torch.where(valid[:, None], input.flatten(2) - own, 0)
        excess = (torch.linalg.vector_norm(deviation, dim=1) - self.delta_v).clamp(min=0).square()  # (B, P)
        weight = torch.where(valid, 1 / count.clamp(min=1).to(mean.dtype).gather(1, index), 0)
        variance = (excess * weight).sum(1) / regions.clamp(min=1)

        apart = torch.linalg.vector_norm(mean[:, :, None] - mean[:, None], dim=3)  # (B, N, N)
        others = ~torch.eye(mean.shape[1], dtype=torch.bool, device=mean.device)
        pairs = present[:, :, None] & present[:, None] & others
        lacking = torch.where(pairs, (2 * self.delta_d - apart).clamp(min=0).square(), 0).sum((1, 2))
        distance = lacking / (regions * (regions - 1)).clamp(min=1)

        size = torch.linalg.vector_norm(mean, dim=2).sum(1) / regions.clamp(min=1)  # absent regions have mean 0
        return (self.alpha * variance + self.beta * distance + self.gamma * size).mean()


class Triplet(nn.Module):
    """The triplet loss of FaceNet (Schroff et al., 2015, Sect. 3.1), on some pixels of every region.

    Embeddings are scaled to length 1; for anchor a, positive p of its region and negative n of another region of the same
    image, [|a - p|^2 - |a - n|^2 + margin]+. `pytorch_metric_learning` forms all triplets and averages over those that are
    not 0. Images of one region contribute 0.

    pixels: of each region, drawn anew in every call from PyTorch's global generator. T = (N * pixels)^3 bounds the work.
    """

    def __init__(self, margin: float = 0.2, pixels: int = 12) -> None:
        super().__init__()
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss

        self.pixels = pixels
        self.loss = TripletMarginLoss(margin=margin, distance=LpDistance(normalize_embeddings=True, p=2, power=2))

    def sample(self, labels: Tensor) -> Tensor:
        """Indices (K,) of up to `pixels` pixels of every region of labels (P,)."""
        chosen = []
        for region in labels.unique().tolist():
            members = (labels == region).nonzero()[:, 0]
            order = torch.rand(len(members), device=members.device).argsort()
            chosen.append(members[order[: self.pixels]] if region != IGNORED else members[:0])
        return torch.cat(chosen)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        values = []
        for embeddings, labels in zip(input.flatten(2), target.flatten(1).long(), strict=True):
            index = self.sample(labels)  # empty where all pixels are ignored
            values.append(self.loss(embeddings[:, index].T, labels[index]))
        return torch.stack(values).mean()


class Magnet(nn.Module):
    """The magnet loss of Rippel et al. (2016), with one cluster a class and the regions of an image as its classes.

    For a pixel x of region c among P valid pixels, with mu the region means and [.]+ the positive part::

        L       = 1/P sum_x [ |x - mu_c|^2 / (2 sigma^2) + alpha + log sum_{d != c} exp(-|x - mu_d|^2 / (2 sigma^2)) ]+
        sigma^2 = 1/(P - 1) sum_x |x - mu_c|^2

    Gradients run through sigma, as in the paper. 0 for an image of one region. `floor` bounds sigma^2 from below, for
    images whose regions are constant.
    """

    def __init__(self, alpha: float = 1.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.alpha, self.floor = alpha, floor

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        count, mean, scatter = cas_ext.region_moments(input, target, regions_of(target), ignore_index=IGNORED)
        labels = target.flatten(1).long()
        valid = labels != IGNORED
        pixels = torch.where(valid[:, None], input.flatten(2), 0)  # (B, M, P)
        size = valid.sum(1)
        variance = (scatter.sum(1) / (size - 1).clamp(min=1)).clamp(min=self.floor)
        squares = [(pixels - mean[:, region, :, None]).square().sum(1) for region in range(mean.shape[1])]
        exponents = -torch.stack(squares, 1) / (2 * variance)[:, None, None]  # (B, N, P)

        index = torch.where(valid, labels, 0)[:, None]
        own = exponents.gather(1, index)[:, 0]
        present = (count > 0)[:, :, None].expand_as(exponents)
        rivals = present.scatter(1, index, False)
        several = ((count > 0).sum(1) > 1)[:, None]
        # The log of an empty sum is -inf, and its gradient NaN: where there is no rival, a stand-in takes its place.
        against = torch.where(rivals, exponents, torch.where(several[:, None], -torch.inf, 0.0)).logsumexp(1)
        hinge = (self.alpha - own + against).clamp(min=0)
        return (torch.where(valid & several, hinge, 0).sum(1) / size.clamp(min=1)).mean()


@dataclass(frozen=True)
class Spec:
    """A loss of the comparison.

    output: what the network's channels are to it: "codes", an "embedding", or a "direction", an embedding that counts after it
    is scaled to length 1.
    """

    build: Callable[[], Loss]
    output: str
    source: str
    max_regions: int | None = None


ALPHA = 0.5  # that of the authors' code; the paper names none
ALPHAS = (0.2, ALPHA, 0.8)  # those of the sweep
BOUNDED = tuple(name for name in DISTANCES if name != "sqeuclidean")  # without a softmax, see `Setting`


@dataclass(frozen=True)
class Setting:
    """Of CAS. softmax: Eq. 1 of codes; without it, of the network's output itself, the "descriptor components".

    Without a softmax, scaling the output by c scales the squared discriminator like the uniformer, so that where it is the
    larger one the loss has no lower bound. The other distances grow more slowly than the uniformer: along a scaling they
    have one, as long as the uniformer is not 0.
    """

    pairs: str
    distance: str
    alpha: float = ALPHA
    softmax: bool = True

    @property
    def name(self) -> str:
        """The key in SPECS; alpha stands in it where it is not ALPHA."""
        kind = "cas" if self.softmax else "cas-raw"
        return f"{kind}-{self.pairs}-{self.distance}" + (f"-{self.alpha}" if self.alpha != ALPHA else "")

    def spec(self) -> Spec:
        def build() -> Loss:
            activation = "softmax" if self.softmax else None
            return cas_ext.CASLoss(
                self.alpha, pairs=self.pairs, distance=self.distance, activation=activation, ignore_index=IGNORED
            )

        return Spec(build, "codes" if self.softmax else "embedding", "Sharma et al. (2021), Eq. 1")


SETTINGS = tuple(
    Setting(pairs, distance, alpha, softmax)
    for softmax in (True, False)
    for pairs in ops.PAIRS
    for distance in (DISTANCES if softmax else BOUNDED)
    for alpha in ALPHAS
)
CAS = {setting.name: setting for setting in SETTINGS}


SPECS = {
    "ce": Spec(lambda: cross_entropy, "codes", "cross entropy"),
    "cace": Spec(lambda: class_agnostic_cross_entropy, "codes", "Sharma et al. (2021), Sect. 4.2, per image"),
    **{name: setting.spec() for name, setting in CAS.items()},
    "authors": Spec(Authors, "codes", "the published code of Sharma et al. (2021)", max_regions=2),
    "discriminative": Spec(Discriminative, "embedding", "De Brabandere et al. (2017), Eqs. 1-4"),
    "triplet": Spec(Triplet, "direction", "Schroff et al. (2015), Sect. 3.1"),
    "magnet": Spec(Magnet, "embedding", "Rippel et al. (2016), Sect. 3"),
}
