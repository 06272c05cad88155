"""The operators of `cas_ext.ops`, run by the CUDA kernels on the emulator: CPU tensors in and out.

This does what csrc/cuda/operators.cu does around the kernels; grids, blocks and shared memory come from
the .cu files beside it.
"""

import functools
import pathlib

import torch

from . import build

HERE = pathlib.Path(__file__).resolve().parent
NO_PIXEL = 2**63 - 1  # kNoPixel of csrc/params.h
SCALARS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}  # enum Scalar
LABELS = {  # enum Label
    torch.bool: 0,
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
}


@functools.cache
def kernels():
    """The compiled module; its counters and seed are those of the emulator."""
    launchers = sorted(p for p in (HERE.parents[1] / "csrc" / "cuda").glob("*.cu") if p.name != "operators.cu")
    return build.load("emulated_kernels", [*launchers, HERE / "emulated.cpp"])


def _array(tensor):
    """The tensor's memory as a NumPy array; NumPy has no bfloat16, so its bits."""
    tensor = tensor.detach()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _layout(tensor):
    return kernels().layout(_array(tensor))


def _readable(input):
    return input if _layout(input) else input.contiguous()


def _run(kernel, input, target, num_regions, ignore_index, validate, activation, *options):
    """The results of `accumulate` or `forward` of the module, after the checks of operators.cu."""
    source, labels = _readable(input), target.contiguous()
    *results, first_invalid, counting = kernel(
        _array(source),
        SCALARS[input.dtype],
        _array(labels),
        LABELS[target.dtype],
        num_regions,
        ignore_index,
        activation,
        *options,
    )
    assert not counting.any()
    for image, pixel in enumerate(first_invalid if validate else ()):
        if pixel != NO_PIXEL:
            label = int(labels.flatten(1)[image, pixel]) if labels.dim() > 1 else int(labels[image])
            raise ValueError(
                kernels().label_message(list(target.shape), image, pixel, label, num_regions, ignore_index)
            )
    return tuple(torch.from_numpy(result) for result in results)


def accumulate(input, target, num_regions, ignore_index, validate, activation=0):
    return _run(kernels().accumulate, input, target, num_regions, ignore_index, validate, activation)


def finalise(count, mean, scatter, alpha, pairs, wide):
    results = kernels().finalise(_array(count), _array(mean), _array(scatter), alpha, pairs, wide)
    return tuple(torch.from_numpy(result) for result in results)


def forward(input, target, num_regions, ignore_index, validate, activation, alpha, pairs, reduction):
    options = (alpha, pairs, reduction)
    return _run(kernels().forward, input, target, num_regions, ignore_index, validate, activation, *options)


def apply(input, target, weight, average, scale, center, offset, ignore_index, activation=0):
    source, labels, gradient = _readable(input), target.contiguous(), torch.empty_like(input)
    written = gradient
    if _layout(written) != _layout(source):
        source = source.contiguous()
        written = torch.empty_like(source)
    result = torch.from_numpy(
        kernels().apply(
            _array(source),
            SCALARS[input.dtype],
            _array(labels),
            LABELS[target.dtype],
            _array(weight),
            1 / max(len(input), 1) if average else 1.0,
            _array(scale),
            _array(center),
            _array(offset),
            ignore_index,
            list(written.stride()),
            activation,
        )
    )
    if input.dtype == torch.bfloat16:
        result = result.view(torch.bfloat16)
    return gradient.copy_(result)
