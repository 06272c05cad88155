"""Results are bitwise the same from call to call, and on the CPU for any number of threads."""

from __future__ import annotations

import pytest
import torch
from devices import on_devices, on_every_device
from strategies import DTYPES, Case

import cas_ext

LAYOUTS = ("contiguous", "channels_last", "transposed")


def everything(case, device):
    """Loss, terms, gradient and Hessian-vector product."""
    input, target = case.tensors(device.torch_device)
    terms = cas_ext.cas_loss(input, target, return_terms=True, **case.options)
    (gradient,) = torch.autograd.grad(terms[0], input, torch.ones_like(terms[0]), create_graph=True)
    (product,) = torch.autograd.grad(gradient, input, input.detach())
    return [tensor.detach().cpu() for tensor in (*terms, gradient, product)]


def bits(tensor):
    """NaN-proof: -0.0 and 0.0 differ, equal NaNs do not."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def assert_bitwise(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.stride() == b.stride()
        assert torch.equal(bits(a), bits(b))


def case_for(device, dtype, layout, mask, channels):
    spatial = (67, 71) if device.name == "emulated" else (190, 211)
    return Case(
        batch=2,
        channels=channels,
        spatial=spatial,
        regions=5,
        num_regions=5,
        dtype=dtype,
        layout=layout,
        mask=mask,
        ignored=0.1,
    )


@on_every_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mask", ["random", "runs"])
def test_repeated_calls_agree_bitwise(device, dtype, layout, mask):
    case = case_for(device, dtype, layout, mask, channels=3)
    first = everything(case, device)
    for _ in range(1 if device.name == "emulated" else 4):
        assert_bitwise(everything(case, device), first)


@pytest.fixture
def threads():
    """Sets the number of threads, and puts it back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@on_devices("cpu")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "regions", "activation"), [(2, 5, None), (19, 5, None), (19, 100, None), (40, 100, "softmax")]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_number_of_threads_does_not_change_a_bit(device, threads, dtype, layout, channels, regions, activation, batch):
    case = Case(
        batch=batch,
        channels=channels,
        spatial=(190, 211),
        regions=regions,
        num_regions=regions,
        dtype=dtype,
        layout=layout,
        reduction="none",
        activation=activation,
    )
    # Behind a softmax, second derivatives are sums that PyTorch takes, thread by thread.
    kept = slice(None) if activation is None else slice(-1)
    threads(1)
    alone = everything(case, device)[kept]
    for count in (2, 3, 5):
        threads(count)
        assert_bitwise(everything(case, device)[kept], alone)


@on_every_device
def test_result_does_not_depend_on_what_the_memory_held_before(device):
    # Freed NaN blocks are handed out again by the caching allocator: an element nobody wrote would show.
    case = case_for(device, torch.float32, "contiguous", "runs", channels=3)
    first = everything(case, device)
    for _ in range(3):
        dirt = [
            torch.full((n,), torch.nan, device=device.torch_device)
            for n in (2, 10, 30, 100, 2 * 3 * 190 * 211, 1 << 16)
        ]
        del dirt
        assert_bitwise(everything(case, device), first)
