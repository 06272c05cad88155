"""The contract of the operators with PyTorch: schemas, fake kernels, autograd (opcheck)."""

from __future__ import annotations

import itertools

import pytest
import torch
from devices import on_devices
from strategies import Case

import cas_ext

on_real_devices = on_devices("cpu", "cuda")
pytestmark = pytest.mark.usefixtures("fresh_compiler")


def operator_arguments(device, dtype, layout, activation):
    """Arguments of every operator."""
    input, target = Case(channels=5, spatial=(6, 7), dtype=dtype, layout=layout).tensors(device.torch_device)
    input, wide = input.detach(), dtype == torch.float64
    moments = torch.ops.cas_ext.accumulate(input, target, 3, -100, False, activation)
    loss, _, _, scale, center, offset = torch.ops.cas_ext.finalise(*moments, 0.5, 0, wide)
    weight = torch.ones_like(loss)
    return {
        "accumulate": (input, target, 3, -100, False, activation),
        "finalise": (*moments, 0.5, 0, wide),
        "forward": (input, target, 3, -100, False, activation, 0.5, 0, 1),
        "apply": (input, target, weight, True, scale, center, offset, -100, activation),
    }


@on_real_devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channel slice", "transposed"])
@pytest.mark.parametrize(
    ("name", "activation"),
    [("finalise", None), *itertools.product(["accumulate", "forward", "apply"], cas_ext.ops.ACTIVATIONS)],
    ids=str,
)
def test_operator_keeps_its_contract_with_pytorch(device, name, activation, dtype, layout):
    operator = getattr(torch.ops.cas_ext, name).default
    arguments = operator_arguments(device, dtype, layout, cas_ext.ops.ACTIVATIONS[activation])
    torch.library.opcheck(operator, arguments[name])


@on_real_devices
@pytest.mark.parametrize("name", ["accumulate", "forward"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operator_keeps_its_contract_with_a_gradient(device, name, dtype):
    input, *others = operator_arguments(device, dtype, "contiguous", 0)[name]
    # Not test_aot_dispatch_dynamic: it adds all outputs up, and fails to add doubles to the int64 counts.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    operator = getattr(torch.ops.cas_ext, name).default
    torch.library.opcheck(operator, (input.requires_grad_(), *others), test_utils=checks)


@on_real_devices
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)])
def test_operators_keep_their_contract_for_empty_inputs(device, shape):
    input = torch.zeros(shape, device=device.torch_device)
    target = torch.zeros(shape[0], shape[2], dtype=torch.uint8, device=device.torch_device)
    torch.library.opcheck(torch.ops.cas_ext.accumulate.default, (input, target, 3, -100, False))
