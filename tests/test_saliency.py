"""cas_ext.saliency: channel selection, thresholds and code usage, on numbers computed by hand."""

from __future__ import annotations

import math
import re

import pytest
import torch
from devices import on_devices, on_every_device

from cas_ext.saliency import adaptive_threshold, code_usage, select_channel

on_real_devices = on_devices("cpu", "cuda")
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

# Two images of two pixels.
MASKS = torch.tensor([[[1, 0]], [[0, 1]]], dtype=torch.bool)
ALIKE = torch.tensor([[[0.2, 0.1]], [[0.1, 0.2]]])  # correlation 1
OPPOSITE = torch.tensor([[[0.1, 0.8]], [[0.8, 0.1]]])  # -1
HALF_ALIKE = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])  # deviations (.4, -.4, 0, 0): .8 / (2 sqrt .32) = .71
CONSTANT = torch.full((2, 1, 2), 0.9)


def channels(*values, device="cpu"):
    return torch.stack(values, 1).to(device.torch_device if hasattr(device, "torch_device") else device)


@on_real_devices
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([CONSTANT, OPPOSITE, ALIKE], 2),
        ([ALIKE, OPPOSITE, CONSTANT], 0),
        ([OPPOSITE, HALF_ALIKE, ALIKE], 2),
        ([OPPOSITE, HALF_ALIKE], 1),
        ([CONSTANT, OPPOSITE], 1),
        ([CONSTANT, CONSTANT], 0),
        ([OPPOSITE, ALIKE, ALIKE], 1),
        ([ALIKE], 0),
    ],
    ids=["last", "first", "best", "better", "opposite before constant", "all constant", "tie", "one channel"],
)
def test_channel_of_the_highest_correlation_is_selected(device, values, expected):
    selected = select_channel(channels(*values, device=device), MASKS.to(device.torch_device))
    assert type(selected) is int and selected == expected


@on_real_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.uint8, torch.int64])
def test_selection_takes_every_dtype_and_any_nonzero_object(device, dtype, mask_dtype):
    masks = MASKS.to(mask_dtype).to(device.torch_device)
    if mask_dtype != torch.bool:
        masks = 255 * masks if mask_dtype == torch.uint8 else -7 * masks
    assert select_channel(channels(OPPOSITE, ALIKE, device=device).to(dtype), masks) == 1


@on_real_devices
def test_constant_whose_mean_is_rounded_is_still_constant(device):
    # The mean of 3 x 0.1 is not 0.1 in float64: deviations of 1e-17 would correlate with something.
    probabilities = torch.tensor([[[0.1, 0.1, 0.1], [0.8, 0.7, 0.9]]], dtype=torch.float64)
    masks = torch.tensor([[1, 1, 0]], device=device.torch_device)
    assert select_channel(probabilities.to(device.torch_device), masks) == 1


@on_real_devices
def test_correlation_is_taken_over_all_images_not_image_by_image(device):
    # Channel 0 follows the mask within each image, but at levels that differ; channel 1 is right over all.
    within = torch.tensor([[0.1, 0.0], [1.0, 0.9]])
    over_all = torch.tensor([[1.0, 0.2], [1.0, 0.1]])
    masks = torch.tensor([[1, 0], [1, 0]], device=device.torch_device)
    assert select_channel(channels(within, over_all, device=device), masks) == 1


@on_real_devices
def test_selection_is_not_misled_by_memory_formats(device):
    values = torch.rand(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    masks = values[:, 3] > 0.5
    last = values.contiguous(memory_format=torch.channels_last).to(device.torch_device)
    assert select_channel(last, masks.to(device.torch_device)) == 3


@pytest.mark.parametrize(
    ("probabilities", "masks", "error", "message"),
    [
        (None, MASKS, TypeError, "probabilities must be a Tensor, got NoneType"),
        (torch.zeros(2, 3, 1, 2).long(), MASKS, TypeError, "probabilities must have dtype .*, got int64"),
        (torch.zeros(2, 3, 1, 2), MASKS.float(), TypeError, "masks must have dtype .*, got float32$"),
        (
            torch.zeros(2, 3, 1, 2),
            MASKS.to(torch.uint16),
            TypeError,
            r"masks .* uint16; convert: masks\.to\(torch\.int32\)$",
        ),
        (torch.zeros(2), MASKS, ValueError, r"probabilities must have shape \(B, M, \*spatial\), got \(2,\)"),
        (torch.zeros(2, 0, 1, 2), MASKS, ValueError, "probabilities must have shape .*got"),
        (torch.zeros(2, 3, 2, 1), MASKS, ValueError, r"masks must have shape .*\(2, 2, 1\), got \(2, 1, 2\)"),
        (torch.zeros(2, 3, 1, 2, device="meta"), MASKS, ValueError, "masks must be on the device .*meta, got cpu"),
        (channels(ALIKE), MASKS | True, ValueError, "masks must hold object and background, got object only"),
        (channels(ALIKE), MASKS & False, ValueError, "masks must hold object and background, got background only"),
        (torch.zeros(0, 3, 1, 2), MASKS[:0], ValueError, "masks must hold object and background, got no pixels"),
        (channels(ALIKE, math.nan * ALIKE), MASKS, ValueError, "probabilities must have finite values"),
        (channels(ALIKE, math.inf * ALIKE), MASKS, ValueError, "probabilities must have finite values"),
    ],
)
def test_selection_names_a_wrong_argument(probabilities, masks, error, message):
    with pytest.raises(error, match=re.compile(f"^select_channel: {message}")):
        select_channel(probabilities, masks)


SALIENCY = torch.tensor([[[0.5, 0.25, 0.25, 0.0]], [[1.0, 1.0, 1.0, 0.5]], [[0.6, 0.05, 0.05, 0.1]]])
# means 1/4, 7/8, 1/5


@on_real_devices
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("paper", [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]),  # above 1/2, 7/4, 2/5
        ("capped", [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),  # at least 1/2, 1, 2/5
    ],
)
def test_threshold_of_three_maps(device, dtype, variant, expected):
    mask = adaptive_threshold(SALIENCY.to(dtype).to(device.torch_device), variant=variant)
    assert mask.dtype == torch.bool and mask.shape == SALIENCY.shape
    assert mask.squeeze(1).int().tolist() == expected


def test_threshold_is_the_papers_unless_told():
    assert torch.equal(adaptive_threshold(SALIENCY), adaptive_threshold(SALIENCY, variant="paper"))


@on_real_devices
def test_papers_mask_is_empty_from_a_mean_of_one_half(device):
    almost = torch.tensor([[[1.0, 0.0, 0.96]]], device=device.torch_device)  # mean above .5
    assert not adaptive_threshold(almost).any()
    assert not adaptive_threshold(torch.ones(1, 4, 4, device=device.torch_device)).any()
    assert not adaptive_threshold(torch.full((1, 4, 4), 0.5, device=device.torch_device)).any()
    assert adaptive_threshold(torch.tensor([[[1.0, 0.0, 0.4]]], device=device.torch_device)).tolist() == [[[1, 0, 0]]]


@on_real_devices
def test_capped_mask_keeps_certain_pixels_and_is_full_for_zeros(device):
    assert adaptive_threshold(torch.ones(1, 4, 4, device=device.torch_device), variant="capped").all()
    assert adaptive_threshold(torch.zeros(1, 4, 4, device=device.torch_device), variant="capped").all()
    assert not adaptive_threshold(torch.full((1, 4, 4), 0.5, device=device.torch_device), variant="capped").any()


def test_threshold_of_each_map_is_its_own_in_any_number_of_dimensions():
    for spatial in ((1, 4), (2, 2), (2, 1, 2)):
        maps = SALIENCY.reshape(3, *spatial)
        expected = torch.cat([adaptive_threshold(maps[b : b + 1]) for b in range(3)])
        assert torch.equal(adaptive_threshold(maps), expected)
    assert adaptive_threshold(torch.zeros(0, 2, 4)).shape == (0, 2, 4)
    assert adaptive_threshold(torch.zeros(2, 3, 0)).shape == (2, 3, 0)


def test_map_with_a_nan_has_an_empty_mask_and_no_other_has():
    maps = SALIENCY.clone()
    maps[0, 0, 3] = math.nan
    assert adaptive_threshold(maps, variant="capped").sum((1, 2)).tolist() == [0, 3, 1]


@pytest.mark.parametrize(
    ("saliency", "variant", "error", "message"),
    [
        ([0.5], "paper", TypeError, "saliency must be a Tensor, got list"),
        (MASKS, "paper", TypeError, "saliency must have dtype .*, got bool"),
        (torch.zeros(4), "paper", ValueError, r"saliency must have shape .*, got \(4,\)"),
        # A single map: its rows would each get a threshold of their own.
        (
            torch.zeros(32, 48),
            "paper",
            ValueError,
            r"saliency must have shape \(B, H, W\) .* saliency\[None\], got \(32, 48\)",
        ),
        (SALIENCY, 2, TypeError, "variant must be a string, got int"),
        (SALIENCY, "otsu", ValueError, "variant must be one of paper, capped, got 'otsu'"),
    ],
)
def test_threshold_names_a_wrong_argument(saliency, variant, error, message):
    with pytest.raises(error, match=re.compile(f"^adaptive_threshold: {message}")):
        adaptive_threshold(saliency, variant=variant)


@on_every_device
def test_code_usage_of_two_images(device):
    # Image 0: regions 0 and 2 use channel 1, region 1 uses channel 0. Image 1: region 0 uses channel 2, 1 and 2 are absent.
    first = [[0.1, 0.3, 0.8, 0.2], [0.7, 0.6, 0.1, 0.8], [0.2, 0.1, 0.1, 0.0]]
    second = [[0.0, 0.2, 0.9, 0.9], [0.1, 0.3, 0.1, 0.1], [0.9, 0.5, 0.0, 0.0]]
    input = torch.tensor([first, second], device=device.torch_device, requires_grad=True)
    target = torch.tensor([[0, 0, 1, 2], [0, 0, -100, -100]], device=device.torch_device)
    usage = code_usage(input, target, 3)
    assert usage.code.tolist() == [[1, 0, 1], [2, -1, -1]]
    assert usage.regions.tolist() == [[1, 2, 0], [0, 0, 1]]
    assert usage.collapsed.tolist() == [2, 0]
    for field in usage:
        assert field.dtype == torch.int64 and not field.requires_grad


@on_every_device
def test_code_is_that_of_the_mean_and_not_of_most_pixels(device):
    # Two pixels out of three prefer channel 0, the mean prefers channel 1.
    input = torch.tensor([[[0.51, 0.51, 0.0], [0.49, 0.49, 1.0]]], device=device.torch_device)
    target = torch.zeros(1, 3, dtype=torch.uint8, device=device.torch_device)
    assert code_usage(input, target, 1).code.tolist() == [[1]]


@on_every_device
def test_code_of_logits_is_that_of_their_softmax(device):
    # The mean of the logits is largest in channel 0, by one pixel; their softmax prefers channel 1 at two of three.
    logits = torch.tensor([[[100.0, 0.0, 0.0], [0.0, 5.0, 5.0]]], device=device.torch_device)
    target = torch.zeros(1, 3, dtype=torch.uint8, device=device.torch_device)
    assert code_usage(logits, target, 1).code.tolist() == [[0]]
    usage = code_usage(logits, target, 1, activation="softmax")
    assert usage.code.tolist() == [[1]]
    for ours, theirs in zip(usage, code_usage(logits.softmax(1), target, 1), strict=True):
        assert torch.equal(ours, theirs)


@on_every_device
def test_every_region_of_a_collapsed_network_shares_its_code(device):
    input = torch.tensor([0.2, 0.7, 0.1], device=device.torch_device).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    target = torch.arange(20, device=device.torch_device).reshape(4, 5).expand(2, 4, 5) // 5
    usage = code_usage(input, target, 4)
    assert usage.collapsed.tolist() == [4, 4]
    assert usage.regions.sum(0).tolist() == [0, 8, 0]


@on_every_device
def test_regions_with_distinct_codes_are_not_collapsed(device):
    target = torch.arange(3, device=device.torch_device).repeat(4).reshape(1, 12)
    input = torch.nn.functional.one_hot(target, 5).movedim(-1, 1).float()
    usage = code_usage(input, target, 3)
    assert usage.code.tolist() == [[0, 1, 2]] and usage.collapsed.tolist() == [0]
    assert code_usage(input, target, 3, ignore_index=1).code.tolist() == [[0, -1, 2]]


@on_every_device
def test_region_of_nan_descriptors_has_no_code(device):
    input = torch.tensor([[[0.1, 0.9], [math.nan, 0.1]]], device=device.torch_device)
    target = torch.tensor([[0, 1]], device=device.torch_device)
    assert code_usage(input, target, 2).code.tolist() == [[-1, 0]]


@on_every_device
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=str)
def test_code_usage_without_images_or_pixels(device, shape):
    input = torch.zeros(shape, device=device.torch_device)
    target = torch.zeros(shape[0], shape[2], dtype=torch.int64, device=device.torch_device)
    usage = code_usage(input, target, 4)
    assert usage.code.tolist() == [[-1] * 4] * shape[0]
    assert usage.regions.tolist() == [[0] * 3] * shape[0]
    assert usage.collapsed.tolist() == [0] * shape[0]


def test_code_usage_names_a_wrong_argument():
    with pytest.raises(TypeError, match="input must be a Tensor, got list"):
        code_usage([0.5], torch.zeros(1), 3)
    with pytest.raises(ValueError, match=r"num_regions must lie in .*, got 0"):
        code_usage(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64), 0)
    with pytest.raises(ValueError, match=r"activation must be None or 'softmax', got 'relu'"):
        code_usage(torch.zeros(1, 2, 3), torch.zeros(1, 3, dtype=torch.int64), 3, activation="relu")
    with pytest.raises(ValueError, match=r"target must .*got 5"):
        code_usage(torch.zeros(1, 2, 3), torch.full((1, 3), 5), 3)
