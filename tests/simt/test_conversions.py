"""The 16-bit float formats convert bit for bit as NumPy's float16 and PyTorch's bfloat16 do."""

import numpy as np
import pytest
import torch

PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def bfloat16(values):
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def hard_floats():
    """Every 16-bit number, the halfway points between neighbours, their neighbours, and random bits."""
    halves = PATTERNS.view(np.float16).astype(np.float32)
    brains = (PATTERNS.astype(np.uint32) << 16).view(np.float32)
    random = np.random.default_rng(0).integers(0, 1 << 32, 1 << 18, dtype=np.uint32).view(np.float32)
    values = [halves, brains, random]
    for grid in (halves, brains):
        finite = np.sort(grid[np.isfinite(grid)]).astype(np.float64)
        middle = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
        values += [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    limits = np.array([65504, 65519.996, 65520, 3.3895314e38, 3.3961775e38, 3.4028235e38, 2**-25, 2**-24], np.float32)
    return np.concatenate([*values, limits, -limits])


def assert_same_bits(actual, expected, is_nan):
    np.testing.assert_array_equal(actual[~is_nan], expected[~is_nan])


def test_every_half_becomes_the_same_float(toys):
    with np.errstate(invalid="ignore"):
        expected = PATTERNS.view(np.float16).astype(np.float32)
    actual = toys.half_to_float(PATTERNS)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    assert_same_bits(actual.view(np.uint32), expected.view(np.uint32), np.isnan(expected))


def test_every_bfloat16_becomes_the_same_float(toys):
    expected = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
    actual = toys.bfloat16_to_float(PATTERNS)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    assert_same_bits(actual.view(np.uint32), expected.view(np.uint32), np.isnan(expected))


@pytest.mark.filterwarnings("ignore:overflow")
def test_floats_round_to_half_as_in_numpy(toys):
    values = hard_floats()
    assert_same_bits(toys.float_to_half(values), values.astype(np.float16).view(np.uint16), np.isnan(values))


@pytest.mark.filterwarnings("ignore:overflow")
def test_doubles_round_to_half_once(toys):
    # Through float first, 1 + 2^-11 + 2^-30 would become a tie and round down.
    with np.errstate(invalid="ignore"):
        values = np.concatenate([hard_floats().astype(np.float64), [1 + 2**-11 + 2**-30, 2**-25 + 2**-60]])
    assert_same_bits(toys.double_to_half(values), values.astype(np.float16).view(np.uint16), np.isnan(values))


def test_floats_round_to_bfloat16_as_in_pytorch(toys):
    values = hard_floats()
    assert_same_bits(toys.float_to_bfloat16(values), bfloat16(values), np.isnan(values))


def test_nan_becomes_cuda_nan(toys):
    nan = np.array([np.nan, -np.nan], dtype=np.float32)
    assert toys.float_to_half(nan).tolist() == [0x7FFF, 0x7FFF]
    assert toys.float_to_bfloat16(nan).tolist() == [0x7FFF, 0x7FFF]
