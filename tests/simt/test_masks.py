"""accumulate_matrix, accumulate_bfloat16 and accumulate_table on masks of every kind.

It is right, single-pass, the same under every schedule, and moves little to and from tables.
"""

import pytest
import torch

from cas_ext import reference
from simt import emulated

from .compared import assert_close, error
from .specialisations import BLOCK_BYTES, BLOCK_PIXELS, IGNORED

PIXELS = 3 * BLOCK_PIXELS - 41  # three tiles, the last one cut
BLOCK_CHANNELS = BLOCK_BYTES // 4  # of float32


def stripes(width, labels):
    return torch.arange(PIXELS) // width % labels


def random(labels, seed=0):
    return torch.randint(0, labels, (PIXELS,), generator=torch.Generator().manual_seed(seed))


def far_apart():
    """Labels that differ in high bits only, and in all of them."""
    return torch.tensor([0, 64, 63, 127, 2])[random(5)]


def one_in_each_tile():
    """One region everywhere but for a lone pixel at a different place of each tile."""
    mask = torch.zeros(PIXELS, dtype=torch.int64)
    mask[[0, BLOCK_PIXELS + 31, 2 * BLOCK_PIXELS + 32]] = torch.tensor([2, 3, 2])
    return mask


MASKS = {
    "one region": torch.zeros(PIXELS, dtype=torch.int64),
    "checkerboard": stripes(1, 2) * 2,  # label 1 is IGNORED
    "all ignored": torch.full((PIXELS,), IGNORED),
    "half ignored": stripes(1, 2),
    "ignored but for the last pixel": (torch.arange(PIXELS) == PIXELS - 1) * 4 + IGNORED,
    "random of 4": random(4),
    "random of 100": random(100),
    "all different": torch.randperm(PIXELS, generator=torch.Generator().manual_seed(1)),
    "runs of 31": stripes(31, 7),
    "runs of 33": stripes(33, 7),
    "runs of a tile and a pixel": stripes(BLOCK_PIXELS + 1, 7),
    "far apart": far_apart(),
    "lone pixels": one_in_each_tile(),
}
EVERY_MASK = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
LAYOUTS = pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "interleaved"])


# Of means, relative to the largest, where a region has an outlier 3e4 to 3e5 times as far off as its values scatter:
# a tensor core cuts off what lies below the last bit of the largest of the 32 values that it adds up, 2^-24 of it on
# average. Sums by accumulate_table are rounded.
OUTLIER_BOUND = {"matrix": 32 * 2.0**-24, "table": 3e-7}

pytestmark = pytest.mark.usefixtures("fresh_counters")


@pytest.fixture(autouse=True, params=["matrix", "table"])
def kernel(request):
    """Without tensor cores, or with more than 112 regions, less than 9 channels, or no floats, it is accumulate_table."""
    emulated.kernels().tensor_cores(request.param == "matrix")
    yield request.param
    emulated.kernels().tensor_cores(True)


def tensors(mask, channels, interleaved, dtype=torch.float32):
    size = (2, channels, len(mask), 1)
    input = torch.rand(size, generator=torch.Generator().manual_seed(channels), dtype=torch.float64).to(dtype)
    if interleaved:
        input = input.to(memory_format=torch.channels_last)
    other = mask.flip(0)  # the second image's
    return input, torch.stack([mask, other])[..., None].int(), max(int(mask.max()) + 1, 6)


@EVERY_MASK
@LAYOUTS
@pytest.mark.parametrize("channels", [4, 5, 9, 36])
def test_any_mask_gives_the_moments_in_one_pass(mask, interleaved, channels):
    input, target, regions = tensors(mask, channels, interleaved)
    found = emulated.accumulate(input, target, regions, IGNORED, False)
    assert_close(found, reference.region_moments(input.double(), target, regions, ignore_index=IGNORED))
    for name in ("input", "target"):
        found = emulated.kernels().counters()[name]
        assert (found["min_loads"], found["max_loads"]) == (1, 1), name


@EVERY_MASK
@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [4, 7, 10])
def test_pixels_that_are_loaded_together_may_lie_in_several_regions(mask, interleaved, dtype, channels):
    """Sizes that allow 16-byte loads of pixels, and of channels_last ones where they have 4 channels."""
    input, target, regions = tensors(mask[:720], channels, interleaved, dtype)
    found = emulated.accumulate(input, target, regions, IGNORED, False)
    assert_close(found, reference.region_moments(input.double(), target, regions, ignore_index=IGNORED))


def test_blocks_of_an_image_add_up(kernel):
    """Images of several blocks, of labels in runs and of scattered ones."""
    runs = torch.arange(3 * 1024 + 8) // 100 % 6
    input, target, regions = tensors(torch.where(runs == IGNORED, 3, runs), 9, False)
    target[1] = torch.randint(0, 6, target[1].shape, generator=torch.Generator().manual_seed(3))
    count, mean, scatter = emulated.accumulate(input, target, regions, IGNORED, False)
    plan = emulated.kernels().select_accumulate([2, regions, 9, len(runs)], 2, 4096, [0, len(runs), 1], False, 4096)
    assert plan["kernel"] == f"accumulate_{kernel}" and plan["splits"] > 1
    expected = reference.region_moments(input.double(), target, regions, ignore_index=IGNORED)
    assert torch.equal(count, expected.count.long())
    assert error(mean, expected.mean) < 3e-7 and error(scatter, expected.scatter) < 1e-6


@pytest.mark.parametrize("kernel", ["table"], indirect=True)
@EVERY_MASK
def test_a_table_is_touched_once_per_tile_and_region(mask):
    """The loads of a table's means: once for each tile that meets the region again, and once more by the merge's loops."""
    channels = 36
    input, target, regions = tensors(mask, channels, False)
    emulated.accumulate(input, target, regions, IGNORED, False)
    kernels = emulated.kernels().counters()["workspace"]["kernels"]
    stored = sum(t["stores"] for name, t in kernels.items() if name.startswith("accumulate_table"))
    tiles = [set(tile.tolist()) - {IGNORED} for image in target.flatten(1) for tile in image.split(BLOCK_PIXELS)]
    splits = emulated.kernels().select_accumulate(
        [2, regions, channels, PIXELS], 2, 4096, [channels * PIXELS, PIXELS, 1], False, 4096
    )["splits"]
    visits = sum(len(tile) for tile in tiles)
    zeroed_and_flags = 2 * splits * (regions + 1)
    blocks = -(-channels // BLOCK_CHANNELS)  # of channels: a tile of few segments adds to the scatter with each
    assert visits * (channels + 2) <= stored - zeroed_and_flags <= visits * (channels + 1 + blocks)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["random of 100", "runs of 33", "half ignored"])
@pytest.mark.parametrize("channels", [3, 9])
def test_every_schedule_gives_the_same_bits(name, channels, dtype, interleaved):
    input, target, regions = tensors(MASKS[name], channels, interleaved, dtype)
    expected = emulated.accumulate(input, target, regions, IGNORED, False)
    for seed in range(1, 21):
        emulated.kernels().seed(seed)
        for found, value in zip(emulated.accumulate(input, target, regions, IGNORED, False), expected, strict=True):
            assert torch.equal(found, value), seed


@EVERY_MASK
@pytest.mark.parametrize("first", [0.999, 30.0])
@pytest.mark.parametrize("channels", [3, 9])
def test_nearly_constant_values_keep_their_digits(mask, first, channels, kernel):
    """Values .999 +- 1e-3, also with an outlier as the first pixel of every tile, which is the first pilot of its region."""
    input, target, regions = tensors(mask, channels, False)
    input = 0.999 + 1e-3 * (input - 0.5)
    input[:, :, ::BLOCK_PIXELS] = first
    _, mean, scatter = emulated.accumulate(input, target, regions, IGNORED, False)
    expected = reference.region_moments(input.double(), target, regions, ignore_index=IGNORED)
    assert error(mean, expected.mean) < (OUTLIER_BOUND[kernel] if first != 0.999 else 3e-7)
    assert error(scatter, expected.scatter) < 1e-6


@LAYOUTS
@pytest.mark.parametrize("channels", [4, 9])
def test_an_outlier_that_is_a_segment_of_its_own_costs_no_digits(interleaved, channels, kernel):
    """A region's first segment in each tile is one pixel, far from the other 224: about it, 8 bits would cancel."""
    place = torch.arange(PIXELS) % BLOCK_PIXELS
    input, target, regions = tensors((place < 31).long() * 2, channels, interleaved)
    target[1] = target[0]
    input = 0.999 + 1e-3 * (input - 0.5)
    input[:, :, place == 31] = 30.0
    _, mean, scatter = emulated.accumulate(input, target, regions, IGNORED, False)
    expected = reference.region_moments(input.double(), target, regions, ignore_index=IGNORED)
    assert error(mean, expected.mean) < OUTLIER_BOUND[kernel]
    assert error(scatter, expected.scatter) < 1e-6


@LAYOUTS
@pytest.mark.parametrize("labels", [1, 2], ids=["in place", "brought together"])
@pytest.mark.parametrize("channels", [3, 9])
def test_an_outlier_at_any_place_of_a_tile_costs_no_digits(labels, interleaved, channels, kernel):
    """256 images of one tile, each with its outlier elsewhere: some are at the places that sums start from."""
    mask = random(labels)[:BLOCK_PIXELS] * 2  # label 1 is IGNORED
    images = torch.arange(BLOCK_PIXELS)
    input = torch.rand(len(images), channels, len(mask), 1, generator=torch.Generator().manual_seed(0))
    if interleaved:
        input = input.to(memory_format=torch.channels_last)
    input = 0.999 + 1e-3 * (input - 0.5)
    input[images, :, images] = 300.0
    target = mask[:, None].expand(len(images), -1, 1).contiguous().int()
    _, mean, scatter = emulated.accumulate(input, target, 6, IGNORED, False)
    expected = reference.region_moments(input.double(), target, 6, ignore_index=IGNORED)
    assert error(mean, expected.mean) < OUTLIER_BOUND[kernel]
    assert error(scatter, expected.scatter) < 1e-6
