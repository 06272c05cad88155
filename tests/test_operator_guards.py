"""Operators called directly refuse tables that kernels could not read, before any kernel runs."""

import pytest
import torch

import cas_ext  # noqa: F401

IMAGES, REGIONS, CHANNELS = 2, 3, 4


def moments():
    return {
        "count": torch.ones(IMAGES, REGIONS, dtype=torch.int64),
        "mean": torch.zeros(IMAGES, REGIONS, CHANNELS, dtype=torch.float64),
        "scatter": torch.zeros(IMAGES, REGIONS, dtype=torch.float64),
    }


def finalise(**tables):
    return torch.ops.cas_ext.finalise(*{**moments(), **tables}.values(), 0.5, 0, False)


def apply(**tables):
    input, target = torch.rand(IMAGES, CHANNELS, 5), torch.zeros(IMAGES, 5, dtype=torch.uint8)
    _, _, _, scale, center, offset = finalise()
    arguments = {"weight": torch.ones(IMAGES), "scale": scale, "center": center, "offset": offset, **tables}
    weight, *others = arguments.values()
    return torch.ops.cas_ext.apply(input, target, weight, False, *others, -100, 0)


def test_right_tables_are_taken():
    assert apply().shape == (IMAGES, CHANNELS, 5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"count": torch.ones(IMAGES, REGIONS + 1, dtype=torch.int64)}, r"\(B, N\), \(B, N, M\)"),
        ({"scatter": torch.zeros(IMAGES, REGIONS, 1, dtype=torch.float64)}, r"\(B, N\), \(B, N, M\)"),
        ({"mean": torch.zeros(IMAGES * REGIONS, CHANNELS, dtype=torch.float64)}, r"\(B, N\), \(B, N, M\)"),
        ({"count": torch.ones(IMAGES, REGIONS, dtype=torch.int32)}, "count must be int64"),
        ({"mean": torch.zeros(IMAGES, REGIONS, CHANNELS)}, "mean and scatter float64"),
        ({"mean": torch.zeros(IMAGES, CHANNELS, REGIONS, dtype=torch.float64).mT}, "contiguous"),
    ],
)
def test_finalise_refuses(table, message):
    with pytest.raises(ValueError, match=message):
        finalise(**table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"weight": torch.ones(IMAGES + 1)}, r"weight must have shape \(B,\)"),
        ({"scale": torch.ones(IMAGES, REGIONS + 1)}, r"\(B, N\), \(B, N, M\)"),
        ({"center": torch.ones(IMAGES, REGIONS, CHANNELS - 1)}, r"\(B, N\), \(B, N, M\)"),
        ({"offset": torch.ones(IMAGES, REGIONS, CHANNELS).double()}, "else float32"),
        ({"offset": torch.ones(IMAGES, CHANNELS, REGIONS).mT}, "contiguous"),
    ],
)
def test_apply_refuses(table, message):
    with pytest.raises(ValueError, match=message):
        apply(**table)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_apply_refuses_tables_of_another_device():
    input, target = torch.rand(1, 2, 5, device="cuda"), torch.zeros(1, 5, dtype=torch.uint8, device="cuda")
    scale, table = torch.ones(1, 3, device="cuda"), torch.ones(1, 3, 2, device="cuda")
    with pytest.raises(ValueError, match="device of input"):
        torch.ops.cas_ext.apply(input, target, torch.ones(1), False, scale, table, table, -100, 0)
    with pytest.raises(ValueError, match="device of input"):
        torch.ops.cas_ext.apply(input, target, torch.ones(1, device="cuda"), False, scale, table.cpu(), table, -100, 0)
