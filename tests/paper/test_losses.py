"""The losses of the comparison against their equations, written out image by image, region by region, pixel by pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import cas_ext
from benchmarks.paper import losses
from benchmarks.paper.losses import IGNORED, SPECS

TOLERANCE = 1e-12  # relative, float64: sums of at most a hundred terms


def regions(embeddings: Tensor, labels: Tensor) -> list[Tensor]:
    """The pixels (n, M) of each present region of one image: embeddings (M, H, W), labels (H, W)."""
    pixels, flat = embeddings.flatten(1).T, labels.flatten()
    return [pixels[flat == i] for i in flat.unique().tolist() if i != IGNORED]


def discriminative(embeddings: Tensor, labels: Tensor) -> Tensor:
    parts = regions(embeddings, labels)
    means = [part.mean(0) for part in parts]
    total = torch.zeros((), dtype=embeddings.dtype)
    for part, mean in zip(parts, means, strict=True):
        pulls = [(torch.dist(mean, x) - 0.5).clamp(min=0) ** 2 for x in part]
        total = total + sum(pulls) / len(part) / len(parts) + 0.001 * mean.norm() / len(parts)
    for a, b in itertools.permutations(means, 2):
        total = total + (3.0 - torch.dist(a, b)).clamp(min=0) ** 2 / (len(parts) * (len(parts) - 1))
    return total


def magnet(embeddings: Tensor, labels: Tensor) -> Tensor:
    parts = regions(embeddings, labels)
    means = [part.mean(0) for part in parts]
    count = sum(len(part) for part in parts)
    variance = sum((part - mean).square().sum() for part, mean in zip(parts, means, strict=True)) / (count - 1)
    total = torch.zeros((), dtype=embeddings.dtype)
    for own, part in enumerate(parts):
        for x in part:
            closeness = [torch.exp(-(x - mean).square().sum() / (2 * variance)) for mean in means]
            rivals = sum(value for i, value in enumerate(closeness) if i != own)
            total = total + (-torch.log(closeness[own] * math.exp(-1) / rivals)).clamp(min=0)
    return total / count


def triplet(embeddings: Tensor, labels: Tensor) -> Tensor:
    parts = regions(torch.nn.functional.normalize(embeddings, dim=0), labels)
    values = []
    for own, other in itertools.permutations(parts, 2):
        for (i, a), (j, p) in itertools.product(enumerate(own), repeat=2):
            if i != j:
                values += [((a - p).square().sum() - (a - n).square().sum() + 0.2).clamp(min=0) for n in other]
    active = [value for value in values if value > 0]
    return sum(active) / len(active)


def cace(logits: Tensor, labels: Tensor) -> Tensor:
    parts = regions(logits, labels)
    count = sum(len(part) for part in parts)
    ways = [
        sum(-part.log_softmax(1)[:, name].sum() for part, name in zip(parts, names, strict=True)) / count
        for names in itertools.permutations(range(logits.shape[0]), len(parts))
    ]
    return min(ways)


def authors(logits: Tensor, labels: Tensor) -> Tensor:
    s, mask = logits.softmax(0), labels.to(logits.dtype)
    weights = [mask + 3e-5, 1 - mask + 3e-5]
    means = [(s * weight).sum((1, 2)) / weight.sum() for weight in weights]
    uniformer = (s * weights[0] - weights[0] * means[0][:, None, None]).square().sum() / (weights[0].sum() + 3e-5)
    return 0.5 * uniformer - 0.5 * (means[0] - means[1]).square().sum()


RESTATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cace": cace,
    "authors": authors,
    "discriminative": discriminative,
    "triplet": triplet,
    "magnet": magnet,
}


def example(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Input (3, 4, 3, 4) and a target of 2, 3 and 3 regions, one of them ignored pixels (but not for `authors`)."""
    generator = torch.Generator().manual_seed(seed)
    input = 1.5 * torch.randn(3, 4, 3, 4, generator=generator, dtype=torch.float64)
    target = torch.tensor([[0, 0, 0, 1] * 3, [5, 2, 2, 7] * 3, [1, IGNORED, 3, 0] * 3]).view(3, 3, 4)
    return input, (target % 2 if name == "authors" else target)


@pytest.mark.parametrize("name", RESTATED)
def test_loss_is_its_equation(name: str) -> None:
    input, target = example(name)
    loss = SPECS[name].build()  # 12 pixels an image: the triplet loss samples them all
    expected = torch.stack([RESTATED[name](*image) for image in zip(input, target, strict=True)]).mean()
    torch.testing.assert_close(loss(input, target), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert expected.abs() > 0.01


@pytest.mark.parametrize("name", [name for name in SPECS if name != "triplet"])
def test_gradient_is_that_of_the_loss(name: str) -> None:
    input, target = example(name)
    if name == "ce":
        target = torch.where(target == IGNORED, IGNORED, target % 4)
    loss = SPECS[name].build()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), input.requires_grad_())


def test_triplet_gradient_is_that_of_its_equation() -> None:
    input, target = example("triplet")
    mine, theirs = input.clone().requires_grad_(), input.clone().requires_grad_()
    torch.manual_seed(0)
    SPECS["triplet"].build()(mine, target).backward()
    torch.stack([triplet(*image) for image in zip(theirs, target, strict=True)]).mean().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_every_setting_of_cas_is_offered_and_is_cas_loss_of_what_its_name_says() -> None:
    input, target = example("cas")
    names = [name for name in SPECS if name.startswith("cas-")]
    assert len(names) == 3 * 3 * 3 + 3 * 2 * 3  # pairs x distances x alphas, of the softmax and without it
    for name in names:
        _, pairs, distance, *alpha = name.replace("-raw", "").split("-")
        descriptors = input if "-raw" in name else input.softmax(1)
        expected = cas_ext.reference.cas_loss(
            descriptors, target, alpha=float(alpha[0]) if alpha else 0.5, pairs=pairs, distance=distance
        )
        torch.testing.assert_close(SPECS[name].build()(input, target), expected, rtol=TOLERANCE, atol=TOLERANCE)
        assert SPECS[name].output == ("embedding" if "-raw" in name else "codes")


def test_cas_without_a_softmax_is_offered_only_where_it_has_a_lower_bound() -> None:
    target = torch.tensor([[[0, 0, 1, 1]]])
    input = torch.tensor([0.0, 0.1, 1.0, 1.1], dtype=torch.float64).reshape(1, 1, 1, 4)
    values = {d: [float(losses.Setting("ordered", d, 0.5, False).spec().build()(c * input, target)) for c in (1e3, 1e4)]
              for d in ("sqeuclidean", "euclidean", "log")}  # fmt: skip
    assert values["sqeuclidean"][1] < 50 * values["sqeuclidean"][0] < 0
    assert all(values[d][1] > values[d][0] for d in losses.BOUNDED)


AGNOSTIC = [name for name in SPECS if name not in ("ce", "authors", "triplet")]


@pytest.mark.parametrize("name", AGNOSTIC)
def test_other_names_of_the_regions_change_nothing(name: str) -> None:
    input, target = example(name)
    names = torch.tensor([4, 0, 6, 1, 3, 2, 7, 5])
    renamed = torch.where(target == IGNORED, IGNORED, names[target.clamp(min=0)])
    loss = SPECS[name].build()
    torch.testing.assert_close(loss(input, renamed), loss(input, target), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["ce", "authors"])
def test_cross_entropy_and_the_authors_formula_mind_swapped_labels(name: str) -> None:
    input, target = example("authors")
    loss = SPECS[name].build()
    assert (loss(input, 1 - target) - loss(input, target)).abs() > 1e-3


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("ce", "authors")])
def test_an_image_of_one_region_or_none_has_a_finite_gradient(name: str) -> None:
    input = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    target = torch.stack([torch.ones(2, 4), torch.full((2, 4), IGNORED)]).long()
    SPECS[name].build()(input, target).backward()
    assert input.grad is not None and input.grad.isfinite().all()
    assert not input.grad[1].any()


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("ce", "authors")])
def test_what_ignored_pixels_hold_does_not_matter(name: str) -> None:
    input, target = example(name)
    hidden = (target == IGNORED)[:, None]
    loss = SPECS[name].build()
    value = loss(torch.where(hidden, torch.nan, input), target)
    torch.testing.assert_close(value, loss(input, target), rtol=TOLERANCE, atol=TOLERANCE)


def test_magnet_is_finite_for_constant_regions() -> None:
    input = torch.zeros(1, 2, 2, 2, requires_grad=True)
    losses.Magnet()(input, torch.tensor([[[0, 1], [0, 1]]])).backward()
    assert input.grad is not None and input.grad.isfinite().all()


def test_cace_of_two_regions_is_the_smaller_of_two_cross_entropies() -> None:
    logits, target = example("authors")
    logits = logits[:, :2]
    both = [torch.nn.functional.cross_entropy(logits, y, reduction="none").mean((1, 2)) for y in (target, 1 - target)]
    torch.testing.assert_close(
        losses.class_agnostic_cross_entropy(logits, target), torch.minimum(*both).mean(), rtol=TOLERANCE, atol=0
    )


def test_cace_refuses_more_regions_than_channels() -> None:
    target = torch.tensor([[[0, 0, 1]], [[0, 1, 2]]])
    with pytest.raises(ValueError, match=r"at most M = 2 regions an image, got 3 in image 1"):
        losses.class_agnostic_cross_entropy(torch.zeros(2, 2, 1, 3), target)


def test_authors_formula_refuses_a_third_region() -> None:
    with pytest.raises(ValueError, match=r"labels 0 and 1, got labels from 0 to 2"):
        losses.Authors()(torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 2]]]))


def test_triplet_samples_every_region_up_to_its_size() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [IGNORED] * 5)
    index = losses.Triplet(pixels=12).sample(labels)
    assert index.unique().numel() == 15
    assert labels[index].bincount().tolist() == [12, 3]
