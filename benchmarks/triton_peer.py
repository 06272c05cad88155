"""A fairly written Triton version: one pass over the pixels each way, with atomics.

A block sums the regions that it meets in registers, one after the other, and adds each sum to the table with one atomic
per region and channel, where an atomic per element would saturate the L2. Labels and descriptors are read in their own
types, strides are honoured, and the gradient needs no temporary of the size of the image. Sums are float32 and not
centred, as atomics allow nothing better in one pass.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_PIXELS = 1024
BLOCK_ELEMENTS = 8192  # of a tile of pixels times channels: 64 registers in each of 128 threads
MAX_BLOCK_CHANNELS = 16


@triton.jit
def _sums_kernel(
    s_ptr,
    label_ptr,
    count_ptr,  # (B, N), float32 like the two below, all zero at the start
    sum_ptr,  # (B, N, M)
    square_ptr,  # (B, N)
    P,
    M,
    stride_b,
    stride_m,
    stride_p,
    N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < P
    label = tl.load(label_ptr + b * P + p, mask=inside, other=0).to(tl.int32)
    label = tl.where(inside, label, -1)  # in no region
    lowest = tl.min(tl.where(inside, label, N), 0)
    highest = tl.max(label, 0)
    square = tl.zeros((BLOCK_P,), tl.float32)
    for first in range(0, M, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        valid = inside[:, None] & (m < M)[None, :]
        where = b * stride_b + p.to(tl.int64)[:, None] * stride_p + m.to(tl.int64)[None, :] * stride_m
        s = tl.load(s_ptr + where, mask=valid, other=0.0).to(tl.float32)
        square += tl.sum(s * s, 1)
        for i in range(lowest, highest + 1):
            if tl.max((label == i).to(tl.int32), 0) > 0:
                part = tl.sum(tl.where((label == i)[:, None], s, 0.0), 0)
                tl.atomic_add(sum_ptr + (b * N + i) * M + m, part, mask=m < M)
    for i in range(lowest, highest + 1):
        pixels = tl.sum((label == i).to(tl.float32), 0)
        if pixels > 0:
            tl.atomic_add(count_ptr + b * N + i, pixels)
            tl.atomic_add(square_ptr + b * N + i, tl.sum(tl.where(label == i, square, 0.0), 0))


@triton.jit
def _gradient_kernel(
    s_ptr,
    label_ptr,
    weight_ptr,  # the gradient of the loss, a scalar
    scale_ptr,  # (B, N)
    offset_ptr,  # (B, N, M)
    out_ptr,  # strides of s
    P,
    M,
    stride_b,
    stride_m,
    stride_p,
    N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < P
    label = tl.load(label_ptr + b * P + p, mask=inside, other=0).to(tl.int32)
    row = b * N + label
    weight = tl.load(weight_ptr)
    scale = tl.load(scale_ptr + row, mask=inside, other=0.0) * weight
    for first in range(0, M, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        valid = inside[:, None] & (m < M)[None, :]
        where = b * stride_b + p.to(tl.int64)[:, None] * stride_p + m.to(tl.int64)[None, :] * stride_m
        s = tl.load(s_ptr + where, mask=valid, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + row[:, None] * M + m[None, :], mask=valid, other=0.0)
        gradient = scale[:, None] * s + offset * weight
        tl.store(out_ptr + where, gradient.to(out_ptr.dtype.element_ty), mask=valid)


def _launch(input: Tensor) -> tuple[tuple[int, int], tuple[int, ...], dict[str, int]]:
    """Grid, (P, M, strides) and block sizes for (B, M, *spatial), contiguous or channels_last."""
    B, M = input.shape[:2]
    P = input.numel() // (B * M)
    block_m = min(triton.next_power_of_2(M), MAX_BLOCK_CHANNELS)
    block_p = min(BLOCK_PIXELS, BLOCK_ELEMENTS // block_m)
    strides = (input.stride(0), input.stride(1), input.stride(-1))
    return (triton.cdiv(P, block_p), B), (P, M, *strides), {"BLOCK_P": block_p, "BLOCK_M": block_m}


class _TritonLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, regions: int) -> Tensor:
        B, M = input.shape[:2]
        grid, sizes, blocks = _launch(input)
        table = input.new_zeros(B, regions, M + 2, dtype=torch.float32).flatten()
        count, square, sums = table.split([B * regions, B * regions, B * regions * M])
        _sums_kernel[grid](input, target, count, sums, square, *sizes, N=regions, **blocks)
        count, square, sums = count.view(B, regions), square.view(B, regions), sums.view(B, regions, M)
        size = count.clamp(min=1)
        present = (count > 0).float()
        n = present.sum(1)
        mean = sums / size[:, :, None]
        center = mean.sum(1, keepdim=True) / n.clamp(min=1)[:, None, None]
        away = (mean - center) * present[:, :, None]  # the pair sum is 2 n sum |mean_i - center|^2
        uniformer = (square / size - mean.square().sum(2)).sum(1)
        discriminator = 2 * n * away.square().sum((1, 2))
        ctx.save_for_backward(input, target, mean, away, size, n)
        return (0.5 * uniformer - 0.5 * discriminator).mean()

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None, None]:
        input, target, mean, away, size, n = ctx.saved_tensors
        B, regions, _ = mean.shape
        scale = 1 / (B * size)
        offset = scale[:, :, None] * (-mean - 2 * n[:, None, None] * away)
        gradient = torch.empty_like(input)
        grid, sizes, blocks = _launch(input)
        _gradient_kernel[grid](input, target, weight, scale, offset, gradient, *sizes, N=regions, **blocks)
        return gradient, None, None


def cas_loss(input: Tensor, target: Tensor, regions: int) -> Tensor:
    """Alpha 0.5, ordered pairs, mean over images; `input` contiguous or channels_last, `target` contiguous."""
    return _TritonLoss.apply(input, target, regions)
