"""accumulate_matrix and accumulate_bfloat16: what is their own, beside what every mask and every case asks of them.

That is in test_masks.py and test_kernels.py.
"""

import pytest
import torch

from simt import emulated

from . import compared
from .compared import assert_close, assert_differences_close, drifting, error, one_block
from .specialisations import IGNORED, MATRIX_REGIONS

INTERVALS = (128, 128, 256, 512, 1024)  # pixels, at the beginning of a block; then 1024 each

EVERY_TYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

pytestmark = pytest.mark.usefixtures("fresh_counters")


def accumulate(input, target, regions):
    kernel = {torch.float32: "accumulate_matrix", torch.bfloat16: "accumulate_bfloat16"}[input.dtype]
    return compared.accumulate(kernel, input, target, regions)


@EVERY_TYPE
@pytest.mark.parametrize("channels", [9, 15, 16, 17, 21, 24, 25, 33, 64, 65, 72, 73, 100, 130])
def test_any_number_of_channels(dtype, channels):
    input, target = one_block(300, channels)
    assert_close(*accumulate(input.to(dtype), target, 6))


@EVERY_TYPE
@pytest.mark.parametrize("regions", [5, 31, 32, 33, MATRIX_REGIONS])
def test_any_number_of_regions(dtype, regions):
    input, target = one_block(6000, 10, regions=regions)
    assert_close(*accumulate(input.to(dtype), target, regions))


@EVERY_TYPE
@pytest.mark.parametrize("pixels", [1, 31, 33, 63, 65, 127, 129, 255, 257, 2047, 2049, 3100])
def test_intervals_of_any_length(dtype, pixels):
    for channels in (9, 19, 40):
        input, target = one_block(pixels, channels)
        assert_close(*accumulate(input.to(dtype), target, 6))
        assert emulated.kernels().counters()["input"]["max_loads"] == 1


@EVERY_TYPE
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e3])
def test_pilots_follow_values_that_drift(dtype, shift):
    input, target = drifting(9, shift)
    (_, mean, scatter), expected = accumulate(input.to(dtype), target, 6)
    assert error(mean, expected.mean) < 3e-7 and error(scatter, expected.scatter) < 1e-6


@EVERY_TYPE
@pytest.mark.parametrize("met", [100, 250, 900, 2500])
def test_outlier_met_first_in_the_middle_of_an_interval(dtype, met):
    """A region that begins with an outlier, in an interval that is as long as ever: about it, 10 bits would cancel."""
    input = 0.999 + 1e-3 * torch.randn(1, 10, 4096, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(1, 4096, dtype=torch.int16)
    target[0, met:] = 3
    input[0, :, met] = 300.0
    (_, mean, scatter), expected = accumulate(input.to(dtype), target, 6)
    assert error(mean, expected.mean) < 3e-7 and error(scatter, expected.scatter) < 1e-6


@EVERY_TYPE
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [3, 700])
def test_nonfinite_value_spoils_the_mean_of_its_region_and_channel_alone(dtype, value, place):
    input, target = one_block(1100, 20)
    clean, _ = accumulate(input.to(dtype), target, 6)
    input[0, 17, place] = value
    (count, mean, scatter), _ = accumulate(input.to(dtype), target, 6)
    region = int(target[0, place])
    assert not mean[0, region, 17].isfinite() and not scatter[0, region].isfinite()
    mean[0, region, 17], scatter[0, region] = clean[1][0, region, 17], clean[2][0, region]
    assert torch.equal(count, clean[0])
    assert error(mean, clean[1]) < 3e-7 and error(scatter, clean[2]) < 1e-6


@pytest.mark.parametrize("place", [3, 3000])
def test_value_that_rounds_up_to_infinity_spoils_its_own_region_alone(place):
    """Finite in float32, but not in the bfloat16 parts that products are made of."""
    input, _ = one_block(4096, 20)
    target = torch.randint(6, (1, 4096), generator=torch.Generator().manual_seed(6))
    clean, _ = accumulate(input, target, 6)
    input[0, 17, place] = 3.4e38
    (count, mean, scatter), _ = accumulate(input, target, 6)
    region = int(target[0, place])
    assert not scatter[0, region].isfinite()
    mean[0, region, 17], scatter[0, region] = clean[1][0, region, 17], clean[2][0, region]
    assert torch.equal(count, clean[0])
    assert error(mean, clean[1]) < 3e-7 and error(scatter, clean[2]) < 1e-6


@EVERY_TYPE
def test_intervals_that_meet_too_many_regions_are_cut(dtype):
    """Regions that come, go and come again, more of them than sums have room for, and none for a while."""
    input, _ = one_block(6000, 9)
    target = torch.randint(MATRIX_REGIONS, (6000,), generator=torch.Generator().manual_seed(5))
    target[500:900] = 7  # an interval that is as long as ever
    target[2000:2500] = torch.arange(500) // 4 % 60
    target[4000:4200] = IGNORED
    assert_close(*accumulate(input.to(dtype), target[None], MATRIX_REGIONS))


def test_bfloat16_squares_cancel_without_a_trace():
    """Regions of one value have no scatter at all; of two neighbouring values it keeps its digits, whatever their size."""
    pixels = 4096
    target = one_block(pixels, 16)[1]
    value = torch.tensor([0.1, 1.0, 3.14, 100.0, 1e-3, 0.7]).to(torch.bfloat16)
    same = value[target][:, None].expand(1, 16, pixels)
    (_, mean, scatter), expected = accumulate(same.contiguous(), target, 6)
    assert scatter.abs().max() < 1e-20 and error(mean, expected.mean) < 1e-15
    step = torch.rand(1, 16, pixels, generator=torch.Generator().manual_seed(2)) < 0.3
    nudged = torch.where(step, (same.float() * (1 + 2**-7)).to(torch.bfloat16), same)  # a last digit or two
    (_, mean, scatter), expected = accumulate(nudged, target, 6)
    present = expected.scatter[0] > 0
    relative = (scatter - expected.scatter)[0, present] / expected.scatter[0, present]
    assert int(present.sum()) == 5 and relative.abs().max() < 1e-10 and error(mean, expected.mean) < 1e-12


@pytest.mark.parametrize("small", [0.3, 0.06, 0.017, 1e-3])
@pytest.mark.parametrize("every", [2, 40, 3000])
def test_bfloat16_squares_beside_much_larger_ones(small, every):
    """Near 1 but for some near a smaller value, whose squares a tensor core cuts off: confident softmax."""
    input = torch.full((1, 9, 4096), 0.9961)
    some = torch.rand(input[:, :, ::every].shape, generator=torch.Generator().manual_seed(0))
    input[:, :, ::every] = small * (1 + 0.1 * some)
    (_, mean, scatter), expected = accumulate(input.bfloat16(), torch.zeros(1, 4096, dtype=torch.uint8), 6)
    lone = 2.0**-18 if every == 3000 else 1e-6  # of 16 squares a float holds the sum: 2^-20 of each may be cut off
    assert error(mean, expected.mean) < 3e-7 and error(scatter, expected.scatter) < lone


@pytest.mark.parametrize("value", [3e19, -torch.finfo(torch.bfloat16).max])
def test_bfloat16_values_without_a_finite_square_count_as_not_finite(value):
    input, target = one_block(1100, 20)
    clean, _ = accumulate(input.bfloat16(), target, 6)
    input[0, 17, 700] = value
    (count, mean, scatter), _ = accumulate(input.bfloat16(), target, 6)
    region = int(target[0, 700])
    assert mean[0, region, 17].isnan() and scatter[0, region].isnan() and torch.equal(count, clean[0])
    mean[0, region, 17], scatter[0, region] = clean[1][0, region, 17], clean[2][0, region]
    assert torch.equal(mean, clean[1]) and torch.equal(scatter, clean[2])


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_parts_hold_any_difference(scale):
    """Means that noise alone makes differ: their differences keep their digits."""
    input, target = one_block(8192, 9, regions=20)
    (_, mean, scatter), expected = accumulate(scale * (input - 0.3), target, 20)
    assert_differences_close(mean, expected.mean)
    assert error(scatter, expected.scatter) < 1e-6


@EVERY_TYPE
@pytest.mark.parametrize("run", [31, 64, 97, 2000])
def test_chunks_of_one_region_join_the_others(dtype, run):
    """Runs of every alignment, so that 32 pixels are of one region or not, by turns; one of them ignored."""
    input, target = one_block(5000, 10)
    target = (torch.arange(5000) // run % 4)[None]
    assert_close(*accumulate((0.999 + 1e-3 * input).to(dtype), target, 6))


def test_a_table_is_touched_once_per_interval_and_region():
    pixels, channels = 4096, 9
    input, target = one_block(pixels, channels)
    target = torch.where(torch.arange(pixels) % 2 == 0, target, 5)  # no 32 pixels are of one region
    emulated.accumulate(input, target, 6, IGNORED, False)
    found = emulated.kernels().counters()["workspace"]["kernels"]
    stored = sum(t["stores"] for name, t in found.items() if name.startswith("accumulate_matrix"))
    plan = emulated.kernels().select_accumulate([1, 6, channels, pixels], 2, 4096, [0, pixels, 1], False, 4096)
    visits = 0
    for share in target[0].split(plan["pixels_per_split"]):
        first = 0
        for length in (*INTERVALS, *[1024] * 4):
            visits += len(set(share[first : first + length].tolist()) - {IGNORED})
            first += length
    regions = plan["splits"] * 5
    met_and_moments = 4 * regions * channels + plan["splits"] * (2 * 6 + 1)  # young ones, and the moments in the end
    assert visits * channels <= stored <= visits * channels + met_and_moments
