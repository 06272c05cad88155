"""Peak memory of a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .measure import BufferSet, gradient_of
from .peers import Loss


def peak_extra_bytes(loss: Loss, buffers: BufferSet, regions: int) -> dict[str, int]:
    """The most that a call holds at once beyond input, target and gradient, by phase.

    On CUDA as the caching allocator counts; on the CPU as PyTorch's allocator does, so without a library's own scratch.
    """

    def forward() -> Tensor:
        return loss(buffers.input, buffers.target, regions)

    peak = cuda_peak if buffers.input.is_cuda else cpu_peak
    in_forward = peak(forward)
    in_both = peak(lambda: gradient_of(forward(), buffers.input))
    extra = max(in_forward, in_both - buffers.input.nbytes)  # whichever side of the gradient's birth the peak is on
    return {"forward": in_forward, "backward": extra, "both": extra}


def cuda_peak(call: Callable[[], Tensor]) -> int:
    """Bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak(call: Callable[[], Tensor]) -> int:
    """Bytes; what is freed must have been allocated inside the call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet_stderr(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's C++ side writes lines there that would tear the progress bar."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
