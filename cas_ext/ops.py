"""Loads the operator libraries and names their operators.

The operators are module attributes, looked up at every call, so that a test can put others in their place. Shapes and
dtypes: docs/design.md. Users call `cas_ext.cas_loss` and `cas_ext.region_moments` instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16")  # csrc/cpu/isa_*.cpp
ACTIVATIONS = {None: 0, "softmax": 1}  # enum Activation in csrc/params.h
PAIRS = {"ordered": 0, "unordered": 1, "mean": 2}  # enum Pairs in csrc/params.h
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # enum Reduction in csrc/params.h


def _load(name: str) -> str | None:
    """Loads a library; returns None, or why it is not there."""
    found = sorted(_FOLDER.glob(f"{name}.*so")) + sorted(_FOLDER.glob(f"{name}.pyd"))
    if not found:
        return f"{name} was not built"
    try:
        torch.ops.load_library(str(found[0]))
    except OSError as error:
        return f"{found[0].name} does not load: {error}"
    return None


_missing_cpu = _load("_C")
if _missing_cpu is not None:
    raise ImportError(
        f"cas_ext: the operator library is missing ({_missing_cpu}). From a clone, run `pip install -e . "
        "--no-build-isolation`; if you only want the installed package, start Python outside the clone."
    )

if torch.version.cuda is None:
    cuda_status = f"not loaded: torch {torch.__version__} is a build without CUDA"
else:
    _missing_cuda = _load("_cuda")
    cuda_status = "loaded" if _missing_cuda is None else f"not loaded: {_missing_cuda}"

# Not to look for the derivatives of exported.py at every call; an internal of PyTorch, which takes longer without.
_BelowAutograd = getattr(torch._C, "_AutoDispatchBelowAutograd", None)


def below_autograd(operator: Any) -> Any:
    """The operator for autograd functions: they bring the derivatives."""
    if _BelowAutograd is None:
        return operator

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling():
            return operator(*arguments)
        with _BelowAutograd():
            return operator(*arguments)

    return call


accumulate = below_autograd(torch.ops.cas_ext.accumulate.default)
finalise = torch.ops.cas_ext.finalise.default
forward = below_autograd(torch.ops.cas_ext.forward.default)
apply = torch.ops.cas_ext.apply.default


def cpu_kernels() -> str:
    """The instruction set of the CPU kernels: the best this processor has, or what CAS_EXT_CPU_ISA asks for."""
    return INSTRUCTION_SETS[torch.ops.cas_ext.cpu_kernels()]


def _fake_accumulate(
    input: Tensor, target: Tensor, num_regions: int, ignore_index: int, validate: bool, activation: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    B, M = input.shape[:2]
    return (
        input.new_empty((B, num_regions), dtype=torch.int64),
        input.new_empty((B, num_regions, M), dtype=torch.float64),
        input.new_empty((B, num_regions), dtype=torch.float64),
    )


def _fake_finalise(
    count: Tensor, mean: Tensor, scatter: Tensor, alpha: float, pairs: int, wide: bool
) -> tuple[Tensor, ...]:
    dtype = torch.float64 if wide else torch.float32
    per_image = mean.shape[:1]
    shapes = (per_image, per_image, per_image, count.shape, mean.shape, mean.shape)
    return tuple(mean.new_empty(shape, dtype=dtype) for shape in shapes)


def _fake_forward(
    input: Tensor,
    target: Tensor,
    num_regions: int,
    ignore_index: int,
    validate: bool,
    activation: int,
    alpha: float,
    pairs: int,
    reduction: int,
) -> tuple[Tensor, ...]:
    moments = _fake_accumulate(input, target, num_regions, ignore_index, validate, activation)
    *terms, scale, center, offset = _fake_finalise(*moments, alpha, pairs, input.dtype == torch.float64)
    if reduction != REDUCTIONS["none"]:
        terms = [term.new_empty(()) for term in terms]
    return *terms, scale, center, offset, *moments


def _fake_apply(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    average: bool,
    scale: Tensor,
    center: Tensor,
    offset: Tensor,
    ignore_index: int,
    activation: int = 0,
) -> Tensor:
    return torch.empty_like(input)


for _name, _fake in (
    ("accumulate", _fake_accumulate),
    ("finalise", _fake_finalise),
    ("forward", _fake_forward),
    ("apply", _fake_apply),
):
    torch.library.register_fake(f"cas_ext::{_name}", _fake)
