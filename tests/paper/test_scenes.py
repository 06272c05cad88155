"""Generated scenes: shares, ids, textures, seeds and label noise."""

from __future__ import annotations

import pytest
import torch

from benchmarks.paper import scenes, textures
from benchmarks.paper.data import Labelled
from examples.demo.textures import AREA

SIZE = 48  # pixels
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def salient() -> Labelled:
    return scenes.salient_scenes(24, SIZE, "train", seed=0)


@pytest.fixture(scope="module")
def voronoi() -> Labelled:
    return scenes.voronoi_scenes(24, SIZE, "train", seed=0)


def test_salient_shapes_are_two_regions_within_the_shares(salient: Labelled) -> None:
    assert salient.images.shape == (24, 1, SIZE, SIZE) and salient.images.dtype == torch.uint8
    shares = salient.labels.float().mean((1, 2))
    assert salient.labels.unique().tolist() == [0, 1]
    assert (shares >= AREA[0] - 1e-3).all() and (shares <= AREA[1] + 1e-3).all()
    assert shares.max() - shares.min() > 0.15


def test_voronoi_scenes_have_three_to_eight_regions_and_every_site_has_pixels() -> None:
    regions, number = scenes.voronoi_regions(torch.Generator().manual_seed(0), 300, 32, CPU)
    assert set(number.tolist()) == set(range(3, 9))
    assert [len(image.unique()) for image in regions] == number.tolist()


def test_voronoi_regions_are_the_nearest_sites() -> None:
    """A cell is convex: the midpoint of any two of its pixels is in it, up to the rounding to a pixel."""
    regions, _ = scenes.voronoi_regions(torch.Generator().manual_seed(1), 5, 64, CPU)
    for image in regions:
        for region in image.unique().tolist():
            pixels = (image == region).nonzero()
            pairs = pixels[torch.randint(len(pixels), (2, 50), generator=torch.Generator().manual_seed(2))]
            even = ((pairs[0] + pairs[1]) % 2 == 0).all(1)
            middle = (pairs[0] + pairs[1])[even] // 2
            assert (image[middle[:, 0], middle[:, 1]] == region).all()


def test_voronoi_ids_are_arbitrary_and_differ_from_image_to_image(voronoi: Labelled) -> None:
    sets = [frozenset(image.unique().tolist()) for image in voronoi.labels]
    assert all(3 <= len(ids) <= 8 and ids <= set(range(8)) for ids in sets)
    assert len(set(sets)) > 5 and any(ids != frozenset(range(len(ids))) for ids in sets)
    assert len({int(image[0, 0]) for image in voronoi.labels}) > 3


@pytest.mark.parametrize("make", [scenes.salient_scenes, scenes.voronoi_scenes])
def test_scenes_are_fixed_by_the_seed_and_differ_between_splits(make) -> None:
    first, again = make(3, SIZE, "train", 0), make(3, SIZE, "train", 0)
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    for other in (make(3, SIZE, "train", 1), make(3, SIZE, "test", 0)):
        assert not torch.equal(first.images, other.images) and not torch.equal(first.labels, other.labels)


def test_brightness_does_not_tell_object_from_background(salient: Labelled) -> None:
    images, objects = salient.images[:, 0].double(), salient.labels == 1
    difference = torch.stack([i[m].mean() - i[~m].mean() for i, m in zip(images, objects, strict=True)])
    assert (difference > 0).any() and (difference < 0).any()
    assert difference.mean().abs() < difference.std()


@pytest.mark.parametrize("name", textures.TEXTURES)
def test_textures_are_standardised_and_vary(name: str) -> None:
    drawn = textures.textures(torch.Generator().manual_seed(0), name, 4, SIZE, "validation", CPU)
    assert drawn.shape == (4, SIZE, SIZE) and drawn.isfinite().all()
    torch.testing.assert_close(drawn.mean((1, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn.std((1, 2)), torch.ones(4), atol=1e-4, rtol=0)
    assert (drawn[0] - drawn[1]).abs().mean() > 0.2


def test_photograph_crops_come_from_the_strip_of_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a picture whose grey level is its column, crops show which columns they are from."""
    columns = torch.arange(512).expand(512, 512).contiguous().numpy()
    monkeypatch.setattr("skimage.data.brick", lambda: columns)
    for split, strip in textures.STRIPS.items():
        crops = textures.photograph_crops(torch.Generator().manual_seed(0), "brick", 50, SIZE, split, CPU)
        assert strip.start - 0.01 <= crops.min() < strip.start + 30
        assert strip.stop - 31 < crops.max() <= strip.stop - 0.99
        steps = torch.stack([crops.diff(dim=d).abs().amax((1, 2)) for d in (1, 2)]).amax(0)
        low, high = textures.ZOOM
        assert (steps > low - 0.01).all() and (steps < high + 0.01).all()


def test_region_noise_swaps_whole_images_and_is_fixed_by_the_seed(salient: Labelled) -> None:
    noisy = scenes.with_region_noise(salient, 0.25, seed=0)
    swapped = (noisy.labels != salient.labels).flatten(1)
    assert torch.equal(swapped.all(1), swapped.any(1)) and swapped.all(1).sum() == 6
    assert torch.equal(noisy.labels, scenes.with_region_noise(salient, 0.25, seed=0).labels)
    assert not torch.equal(noisy.labels, scenes.with_region_noise(salient, 0.25, seed=1).labels)
    assert torch.equal(noisy.images, salient.images)


def test_region_noise_is_for_two_regions(salient: Labelled, voronoi: Labelled) -> None:
    with pytest.raises(ValueError, match="labels 0 and 1"):
        scenes.with_region_noise(voronoi, 0.5, 0)
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 1.5"):
        scenes.with_region_noise(salient, 1.5, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [((0, 64, "train"), "count"), ((1, 16, "train"), "size"), ((1, 64, "training"), "split")],
    ids=["count", "size", "split"],
)
def test_wrong_arguments_are_named(wrong: tuple[int, int, str], message: str) -> None:
    for make in (scenes.salient_scenes, scenes.voronoi_scenes):
        with pytest.raises(ValueError, match=f"{make.__name__}: {message} must be"):
            make(*wrong, seed=0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [scenes.salient_scenes, scenes.voronoi_scenes])
def test_scenes_made_on_a_gpu_are_those_made_on_the_cpu(make) -> None:
    here, there = make(4, SIZE, "train", 0), make(4, SIZE, "train", 0, "cuda")
    assert there.images.is_cuda
    assert (here.labels != there.labels.cpu()).float().mean() < 1e-3  # ties of rounded distances
    assert (here.images.float() - there.images.cpu().float()).abs().mean() < 0.5
