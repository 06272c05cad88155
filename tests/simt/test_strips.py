"""accumulate_strips: what is its own, beside what every mask and every case asks of it (test_masks.py, test_kernels.py)."""

import pytest
import torch

from simt import emulated

from . import compared
from .compared import assert_close, assert_differences_close, drifting, error, one_block
from .specialisations import IGNORED, STRIP_CHUNK, STRIP_PIXELS, STRIP_REGIONS

EVERY_TYPE = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
# Of float32 and of 16-bit types.
AROUND_STRIPS = [times * STRIP_PIXELS + more for times in (1, 2) for more in (-1, 0, 1)]
AROUND_CHUNKS = [times * STRIP_CHUNK + more for times in (1, 2) for more in (-1, 0, 1)]

pytestmark = pytest.mark.usefixtures("fresh_counters")


def accumulate(input, target, regions, softmax=False):
    return compared.accumulate("accumulate_strips", input, target, regions, softmax)


@EVERY_TYPE
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("softmax", [False, True], ids=["descriptors", "logits"])
def test_any_number_of_channels(dtype, channels, softmax):
    input, target = one_block(1100, channels)
    assert_close(*accumulate((4 * input).to(dtype), target, 6, softmax))


@EVERY_TYPE
@pytest.mark.parametrize("regions", [5, 31, 33, STRIP_REGIONS])
def test_any_number_of_regions(dtype, regions):
    input, target = one_block(6000, 4, regions=regions)
    assert_close(*accumulate(input.to(dtype), target, regions))


@EVERY_TYPE
@pytest.mark.parametrize("pixels", [1, 8, 15, 16, 17, 31, 33, *AROUND_CHUNKS, 2072, 2096])
@pytest.mark.parametrize("interleaved", [False, True], ids=["planar", "interleaved"])
def test_chunks_of_any_length(dtype, pixels, interleaved):
    for channels in (2, 3, 4):
        input, target = one_block(pixels, channels)
        if interleaved:
            input = input[..., None].to(memory_format=torch.channels_last)[..., 0]
        assert_close(*accumulate(input.to(dtype), target, 6))
        found = emulated.kernels().counters()["input"]
        assert (found["min_loads"], found["max_loads"]) == (1, 1)


@EVERY_TYPE
@pytest.mark.parametrize("run", [1, 2, 3, *AROUND_STRIPS, 44, *AROUND_CHUNKS[::3], 1000])
@pytest.mark.parametrize("labels", [2, 7, 100])
def test_runs_of_any_length(dtype, run, labels):
    """From the end of a run at every pixel of every lane, of few regions or of many, to none but those of strips."""
    pixels = 2100
    input = 0.999 + 1e-3 * torch.rand(1, 4, pixels, generator=torch.Generator().manual_seed(run))
    target = (torch.arange(pixels) // run % labels * 7 % 101)[None]
    assert_close(*accumulate(input.to(dtype), target, 101))


@EVERY_TYPE
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3])
def test_pilots_follow_values_that_drift(dtype, shift):
    input, target = drifting(3, shift)
    assert_close(*accumulate(input.to(dtype), target, 6))


@EVERY_TYPE
@pytest.mark.parametrize("met", [0, 1, 15, 16, 31, 32, 100, *AROUND_CHUNKS, 2500])
@pytest.mark.parametrize("more", [1, 2, 4, 20])
def test_outliers_met_first_cost_no_digits(dtype, met, more):
    """A region that begins with values far off, in a run of their own or not: about them, up to 10 bits would cancel."""
    input = 0.999 + 1e-3 * torch.randn(1, 4, 4096, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(1, 4096, dtype=torch.int16)
    target[0, met:] = 3
    for apart in (False, True):
        if apart:
            target[0, met + more] = 2
        input[0, :, met : met + more] = 300.0
        (count, mean, scatter), expected = accumulate(input.to(dtype), target, 6)
        assert torch.equal(count, expected.count.long())
        assert error(mean, expected.mean) < 3e-7 and error(scatter, expected.scatter) < 1e-6


@EVERY_TYPE
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [3, 50, 700])
def test_nonfinite_value_spoils_the_mean_of_its_region_and_channel_alone(dtype, value, place):
    input, target = one_block(1100, 4)
    clean, _ = accumulate(input.to(dtype), target, 6)
    input[0, 2, place] = value
    (count, mean, scatter), _ = accumulate(input.to(dtype), target, 6)
    region = int(target[0, place])
    assert not mean[0, region, 2].isfinite() and not scatter[0, region].isfinite()
    mean[0, region, 2], scatter[0, region] = clean[1][0, region, 2], clean[2][0, region]
    assert torch.equal(count, clean[0])
    assert torch.equal(mean, clean[1]) and torch.equal(scatter, clean[2])


def test_ignored_pixels_may_hold_anything():
    input, target = one_block(1100, 4)
    clean, _ = accumulate(input, target, 6)
    ignored = torch.rand(1100, generator=torch.Generator().manual_seed(0)) < 0.2
    target[0, ignored] = IGNORED
    less, expected = accumulate(input, target, 6)
    assert_close(less, expected)
    input[:, :, ignored] = torch.nan
    for found, value in zip(accumulate(input, target, 6)[0], less, strict=True):
        assert torch.equal(found, value)
    assert not torch.equal(clean[0], less[0])


@EVERY_TYPE
def test_regions_of_one_value_have_no_scatter(dtype):
    pixels = 3000
    target = one_block(pixels, 4)[1]
    same = torch.tensor([0.1, 1.0, 3.14, 1e4, 1e-3, 0.7]).to(dtype)[target][:, None].expand(1, 4, pixels)
    (_, mean, scatter), expected = accumulate(same.contiguous(), target, 6)
    assert scatter.abs().max() < 1e-20 and error(mean, expected.mean) < 1e-15


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_means_that_noise_alone_makes_differ_keep_the_digits_of_their_differences(scale):
    input, target = one_block(8192, 4, regions=20)
    (_, mean, scatter), expected = accumulate(scale * (input - 0.3), target, 20)
    assert_differences_close(mean, expected.mean)
    assert error(scatter, expected.scatter) < 1e-6


@pytest.mark.parametrize("pixels", [20_000, 60_000])
def test_blocks_of_an_image_add_up(pixels):
    input, target = one_block(pixels, 4, regions=9)
    target[0, ::5] = torch.randint(2, 9, target[0, ::5].shape, generator=torch.Generator().manual_seed(3))
    plan = emulated.kernels().select_accumulate([1, 9, 4, pixels], 2, 4096, [0, pixels, 1], False, 4096)
    assert plan["splits"] > 1
    assert_close(*accumulate(input, target, 9))
