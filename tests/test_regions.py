"""compact_regions: arbitrary ids of a mask become 0..N-1 within each image."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from devices import for_all, on_devices, on_every_device
from hypothesis import strategies as st
from strategies import LABEL_DTYPES, TARGET_LAYOUTS, Case, lay_out_target

import cas_ext
from cas_ext import compact_regions

on_real_devices = on_devices("cpu", "cuda")  # there is no kernel in it


def ends(dtype):
    """The smallest and the largest id of a dtype."""
    if dtype == torch.bool:
        return 0, 1
    return torch.iinfo(dtype).min, torch.iinfo(dtype).max


@dataclass(frozen=True)
class Mask:
    """A mask of ids drawn from a pool, and what of it is ignored."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pool: tuple[int, ...]
    ignore_index: int | tuple[int, ...]
    layout: str
    seed: int

    def tensor(self, device: str) -> torch.Tensor:
        chosen = torch.randint(len(self.pool), self.shape, generator=torch.Generator().manual_seed(self.seed))
        return lay_out_target(torch.tensor(self.pool)[chosen].to(self.dtype).to(device), self.layout)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    dtype = draw(st.sampled_from(LABEL_DTYPES))
    low, high = ends(dtype)
    one_id = st.integers(low, high) | st.sampled_from([low, high, 0, 1])
    pool = draw(st.lists(one_id, min_size=1, max_size=40))
    any_id = st.sampled_from(pool) | st.sampled_from([-100, -1, 255, 156, 2**63 - 1, -(2**63)])
    return Mask(
        shape=tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))),
        dtype=dtype,
        pool=tuple(pool),
        ignore_index=draw(any_id | st.lists(any_id, max_size=4).map(tuple)),
        layout=draw(st.sampled_from(TARGET_LAYOUTS)),
        seed=draw(st.integers(0, 1 << 16)),
    )


def renumbered(image: list[int], ignored: set[int]) -> tuple[list[int], int]:
    """The oracle: one image in plain Python."""
    labels = {region: label for label, region in enumerate(sorted(set(image) - ignored))}
    return [labels.get(region, -100) for region in image], len(labels)


@for_all(examples=1000, drawn=lambda device: masks(), devices=on_real_devices)
def test_ids_are_renumbered_as_a_dictionary_would(device, mask):
    target = mask.tensor(device.torch_device)
    result, num_regions = compact_regions(target, ignore_index=mask.ignore_index)

    ignored = set(mask.ignore_index) if isinstance(mask.ignore_index, tuple) else {mask.ignore_index}
    images = [renumbered(image.to(torch.int64).flatten().tolist(), ignored) for image in target.cpu()]
    assert result.shape == target.shape and result.device == target.device and result.is_contiguous()
    assert [image.flatten().tolist() for image in result.cpu()] == [labels for labels, _ in images]
    assert type(num_regions) is int
    assert num_regions == max([1, *(count for _, count in images)])


@on_real_devices
def test_two_images_of_ids_by_hand(device):
    target = torch.tensor([[[255, 0], [255, 7]], [[9, 9], [7, 255]]], device=device.torch_device)
    result, num_regions = compact_regions(target, ignore_index=255)
    assert result.tolist() == [[[-100, 0], [-100, 1]], [[1, 1], [0, -100]]]
    assert num_regions == 2
    result, num_regions = compact_regions(target, ignore_index=(7, 255))
    assert result.tolist() == [[[-100, 0], [-100, -100]], [[0, 0], [-100, -100]]]
    assert num_regions == 1
    assert compact_regions(target)[0].tolist() == [[[2, 0], [2, 1]], [[1, 1], [0, 2]]]


@on_real_devices
@pytest.mark.parametrize("collection", [tuple, list, set, frozenset])
def test_several_ids_may_be_ignored(device, collection):
    target = torch.tensor([[0, 255, 3, -1, 254]], device=device.torch_device)
    result, num_regions = compact_regions(target, ignore_index=collection([255, -1]))
    assert (result.tolist(), num_regions) == ([[0, -100, 1, -100, 2]], 3)
    assert compact_regions(target, ignore_index=collection([]))[1] == 5


def test_ignored_ids_may_be_numpys():
    target = torch.tensor([[0, 255, 3, 254]])
    assert compact_regions(target, ignore_index=np.uint8(255))[0].tolist() == [[0, -100, 1, 2]]
    assert compact_regions(target, ignore_index=list(np.array([255, 254])))[0].tolist() == [[0, -100, 1, -100]]


@on_real_devices
@pytest.mark.parametrize("dtype", [dtype for dtype in LABEL_DTYPES if dtype != torch.bool])
def test_ids_at_both_ends_of_their_type_stay_apart(device, dtype):
    low, high = ends(dtype)
    target = torch.tensor([[high, low, high - 1, low + 1, low]], dtype=dtype, device=device.torch_device)
    assert compact_regions(target, ignore_index=())[0].tolist() == [[3, 0, 2, 1, 0]]
    assert compact_regions(target, ignore_index=(low, high))[0].tolist() == [[-100, -100, 1, 0, -100]]


@on_real_devices
@pytest.mark.parametrize("ignore_index", [-1, 256, 2**63 - 1, -(2**63)])
def test_ignored_id_that_the_type_cannot_hold_ignores_nothing(device, ignore_index):
    target = torch.tensor([[255, 0]], dtype=torch.uint8, device=device.torch_device)
    assert compact_regions(target, ignore_index=ignore_index)[0].tolist() == [[1, 0]]
    assert compact_regions(target != 0, ignore_index=ignore_index)[0].tolist() == [[1, 0]]


@on_real_devices
@pytest.mark.parametrize(
    ("regions", "dtype"),
    [(1, torch.int16), (129, torch.int16), (32768, torch.int16), (32769, torch.int32)],
)
def test_result_is_16_bits_wide_or_as_wide_as_it_must_be(device, regions, dtype):
    target = 3 * torch.arange(regions, device=device.torch_device).flip(0)[None]
    result, num_regions = compact_regions(target)
    assert result.dtype == dtype and num_regions == regions
    assert torch.equal(result, torch.arange(regions, device=device.torch_device).flip(0)[None].to(dtype))


@on_real_devices
@pytest.mark.parametrize("dtype", LABEL_DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (3, 4, 0, 2)], ids=str)
def test_masks_without_pixels(device, shape, dtype):
    result, num_regions = compact_regions(torch.empty(shape, dtype=dtype, device=device.torch_device))
    assert result.shape == shape and result.dtype == torch.int16 and num_regions == 1


@on_real_devices
def test_image_that_is_ignored_whole(device):
    target = torch.tensor([[255, 255], [3, 4]], device=device.torch_device)
    assert compact_regions(target[:1], ignore_index=255)[0].tolist() == [[-100, -100]]
    assert compact_regions(target[:1], ignore_index=255)[1] == 1
    assert compact_regions(target, ignore_index=255)[0].tolist() == [[-100, -100], [0, 1]]


@on_real_devices
def test_mask_without_spatial_dimensions(device):
    target = torch.tensor([7, -3, 255], device=device.torch_device)
    result, num_regions = compact_regions(target, ignore_index=255)
    assert (result.tolist(), num_regions) == ([0, 0, -100], 1)


@on_real_devices
def test_mask_is_not_modified(device):
    target = Case(spatial=(9, 7), regions=4).tensors(device.torch_device)[1] * 50 - 30
    kept = target.clone()
    result, _ = compact_regions(target, ignore_index=20)
    assert torch.equal(target, kept) and result.data_ptr() != target.data_ptr()


@on_every_device
@pytest.mark.parametrize("new_ids", [[0, 255], [-7, 2**62], [901, 12]], ids=str)
def test_loss_and_gradient_do_not_depend_on_the_ids(device, new_ids):
    case = Case(batch=3, channels=4, spatial=(11, 13), regions=2, num_regions=2, ignored=0.2)
    input, target = case.tensors(device.torch_device)
    expected = cas_ext.cas_loss(input, target, num_regions=2)
    (expected_gradient,) = torch.autograd.grad(expected, input)

    ids = torch.tensor([*new_ids, -5], device=device.torch_device)
    compacted, num_regions = compact_regions(ids[target.where(target >= 0, 2)], ignore_index=-5)
    actual = cas_ext.cas_loss(input, compacted, num_regions=num_regions)
    (gradient,) = torch.autograd.grad(actual, input)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


def test_ignored_pixels_are_what_the_loss_ignores_by_default():
    ignored = compact_regions(torch.tensor([[255]]), ignore_index=255)[0].item()
    assert inspect.signature(cas_ext.cas_loss).parameters["ignore_index"].default == ignored


@on_real_devices
def test_memory_does_not_grow_with_the_ids(device):
    # One pass per region, or a table as long as the ids, would never end here.
    pixels = 1 << 17
    target = torch.arange(pixels, device=device.torch_device)[None] * (2**63 // pixels)
    result, num_regions = compact_regions(target)
    assert num_regions == pixels
    assert torch.equal(result, torch.arange(pixels, device=device.torch_device, dtype=torch.int32)[None])


@on_real_devices
def test_compiled_function_with_compact_regions_inside_gives_the_same(device):
    # Reading num_regions back breaks the graph; the result is the same.
    target = torch.tensor([[255, 0, 255, 7]], device=device.torch_device)
    torch.compiler.reset()
    compiled = torch.compile(lambda t: compact_regions(t, ignore_index=0), backend="aot_eager")
    result, num_regions = compiled(target)
    torch.compiler.reset()
    assert (result.tolist(), num_regions) == ([[1, -100, 1, 0]], 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(target=[[0, 1]]), TypeError, "target must be a Tensor, got list"),
        (dict(target=torch.zeros(2, 3)), TypeError, "target must have dtype bool, uint8, .*, got float32"),
        (dict(target=torch.tensor([[0, 1]]).to_sparse()), TypeError, "target must be a dense tensor, got .*sparse"),
        (dict(target=torch.tensor(3)), ValueError, r"target must have shape \(B, \*spatial\), got \(\)"),
        (dict(target=torch.zeros(2, 3, dtype=torch.int64, device="meta")), ValueError, "target must hold .* meta"),
        (dict(ignore_index=None), TypeError, "ignore_index must be an int or .*, got None"),
        (dict(ignore_index=1.0), TypeError, "ignore_index must be an int or .*, got 1.0"),
        (dict(ignore_index=True), TypeError, "ignore_index must be an int or .*, got True"),
        (dict(ignore_index=torch.tensor(1)), TypeError, r"ignore_index must be an int or .*, got tensor\(1\)"),
        (dict(ignore_index="255"), TypeError, "ignore_index must be an int or .*, got '255'"),
        (dict(ignore_index=(255, "0")), TypeError, r"ignore_index must be an int or .*, got \(255, '0'\)"),
        (dict(ignore_index=2**63), ValueError, f"ignore_index must fit 64 bits, got {2**63}"),
        (dict(ignore_index=[0, -(2**63) - 1]), ValueError, "ignore_index must fit 64 bits, got -"),
    ],
)
def test_wrong_argument_is_named(arguments, error, message):
    arguments = {"target": torch.tensor([[0, 1]])} | arguments
    with pytest.raises(error, match=re.compile(f"^compact_regions: {message}")):
        compact_regions(arguments.pop("target"), **arguments)
