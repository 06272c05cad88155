"""Images large enough for several tiles, blocks and threads, on every path of the kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from devices import on_every_device
from oracle import expected_terms, random_like
from strategies import Case
from tolerances import assert_gradient_close, assert_losses_close

import cas_ext

CASES = {
    "two regions": Case(batch=4, channels=2, spatial=(256, 256), regions=2, label_dtype=torch.uint8, num_regions=2),
    "two coherent regions": Case(batch=2, channels=2, spatial=(300, 217), regions=2, mask="runs", num_regions=None),
    "four channels": Case(batch=2, channels=4, spatial=(181, 179), regions=4, mask="runs", num_regions=4),
    "voc": Case(batch=1, channels=21, spatial=(97, 101), regions=20, mask="runs", num_regions=20),
    "voc, random labels": Case(batch=1, channels=21, spatial=(97, 101), regions=20, num_regions=20, ignored=0.1),
    "embedding": Case(batch=1, channels=64, spatial=(64, 64), regions=100, mask="runs", num_regions=100),
    "embedding, random labels": Case(batch=1, channels=64, spatial=(40, 41), regions=100, num_regions=100),
    "line": Case(batch=1, channels=3, spatial=(70_000,), regions=10, num_regions=10),
    "line, checkerboard": Case(batch=1, channels=1, spatial=(70_001,), regions=3, mask="checkerboard"),
    "volume": Case(batch=1, channels=4, spatial=(33, 35, 37), regions=7, mask="runs", num_regions=64),
    "one giant region": Case(batch=1, channels=8, spatial=(200, 333), regions=9, mask="one region", num_regions=9),
    "one pixel among many": Case(batch=1, channels=8, spatial=(200, 333), regions=9, mask="one pixel", num_regions=9),
    "many images": Case(batch=130, channels=2, spatial=(15,), regions=3, mask="empty images", reduction="none"),
    "many channels": Case(batch=1, channels=300, spatial=(41, 43), regions=5, mask="runs", num_regions=5),
    # CUDA cuts an image into blocks whose tables are then merged by 32 lanes or 128 threads: more blocks than either.
    "many blocks": Case(batch=1, channels=1, spatial=(2_200_000,), regions=2, mask="runs", num_regions=2),
    "many blocks with tables": Case(batch=1, channels=5, spatial=(50_000,), regions=1, num_regions=1),
    "more regions than pixels": Case(batch=2, channels=3, spatial=(31,), regions=700, num_regions=1000),
}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
@on_every_device
def test_large_case_equals_the_reference(device, name, dtype, layout):
    case = replace(CASES[name], dtype=dtype, layout=layout)
    input, target = case.tensors(device.torch_device)
    actual = cas_ext.cas_loss(input, target, return_terms=True, **case.options)
    upstream = random_like(actual[0], 1)
    (gradient,) = torch.autograd.grad(actual[0], input, upstream)

    leaf, expected = expected_terms(input, target, **case.options)
    assert_losses_close(actual, expected, input, alpha=case.alpha)
    (wanted,) = torch.autograd.grad(expected[0], leaf, upstream.cpu().double())
    assert_gradient_close(gradient, wanted, input, target)


@pytest.mark.parametrize("label_dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("pixels", [2, 63, 64, 65, 100, 2040, 2047, 2049, 4090])
@on_every_device
def test_last_pixel_may_be_a_region_of_its_own(device, pixels, label_dtype):
    input = random_like(torch.empty(1, 9, pixels), 2).to(device.torch_device)
    target = torch.zeros(1, pixels, dtype=label_dtype)
    target[0, -1] = 1
    found = cas_ext.region_moments(input, target.to(device.torch_device), 2)
    assert found.count.tolist() == [[pixels - 1, 1]]
    assert torch.equal(found.mean[0, 1], input[0, :, -1])
    torch.testing.assert_close(found.mean[0, 0], input[0, :, :-1].double().mean(-1).float(), rtol=1e-6, atol=1e-7)
