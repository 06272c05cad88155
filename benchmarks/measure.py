"""Timers for the CPU and for CUDA.

Both rotate over enough sets of buffers that nothing is left in the last-level cache, outputs included, and give
medians. Backward is timed alone, after a forward that is not timed.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .peers import Loss

MIN_SAMPLES, MAX_SAMPLES = 5, 200
# A CPU sample lasts this long, one of CUDA that long: many times the cost of reading the clock or of launching a graph.
CPU_SAMPLE_S, CUDA_SAMPLE_S = 5e-4, 1e-3
MAX_CALLS = 64  # calls in a sample, and sets of buffers, at most
FLUSHED_BYTES = 1 << 20  # inputs smaller than this are measured warm: they stand for the cost of a call


@dataclass
class BufferSet:
    """An input that requires grad, its target, and room to keep the gradient until this set's turn comes again."""

    input: Tensor
    target: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True)
class Timing:
    """ms: one call, median; device time on CUDA, wall time on the CPU. eager_ms: wall time per call.

    spread: the interquartile range over the median. timer: "wall", "graph" (CUDA graph replay) or "events".
    """

    ms: float
    eager_ms: float
    spread: float
    samples: int
    timer: str


def gradient_of(loss: Tensor, input: Tensor) -> Tensor:
    return torch.autograd.grad(loss, input)[0]


def _spread(samples: list[float]) -> float:
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / middle if middle else 0.0


class _Rotation:
    """Calls of one loss on the sets in turn."""

    def __init__(self, loss: Loss, sets: list[BufferSet], regions: int) -> None:
        self.loss, self.sets, self.regions, self.turn = loss, sets, regions, 0

    def next_sets(self, calls: int) -> list[BufferSet]:
        chosen = [self.sets[(self.turn + i) % len(self.sets)] for i in range(calls)]
        self.turn = (self.turn + calls) % len(self.sets)
        return chosen

    def forward(self, sets: list[BufferSet]) -> list[Tensor]:
        return [self.loss(s.input, s.target, self.regions) for s in sets]

    def backward(self, losses: list[Tensor], sets: list[BufferSet]) -> None:
        for loss, s in zip(losses, sets, strict=True):
            s.gradient = gradient_of(loss, s.input)

    def both(self, sets: list[BufferSet]) -> None:
        for s in sets:
            s.gradient = gradient_of(self.loss(s.input, s.target, self.regions), s.input)

    def wall_seconds(self, phase: str, calls: int, before: Callable[[], None]) -> float:
        """Of `calls` calls, until the device has done them; `before` runs right before the clock starts."""
        sets = self.next_sets(calls)
        losses = self.forward(sets) if phase == "backward" else []
        before()
        start = time.perf_counter()
        if phase == "forward":
            losses = self.forward(sets)
        elif phase == "backward":
            self.backward(losses, sets)
        else:
            self.both(sets)
        if self.sets[0].input.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _planned(seconds_each: float, budget_s: float) -> int:
    return max(MIN_SAMPLES, min(MAX_SAMPLES, int(budget_s / max(seconds_each, 1e-9))))


def time_cpu(
    losses: dict[str, Loss],
    sets: list[BufferSet],
    regions: int,
    phase: str,
    budget_s: float,
    flush: Callable[[], None],
    look: Callable[[], None],
) -> dict[str, Timing]:
    """Wall times of several implementations, their samples interleaved so that a slow spell of the machine meets all.

    `flush` empties the cache between an untimed forward and a timed backward; `look` runs before each round of samples.
    Each loss must have run once, so that it is compiled.
    """
    before = flush if phase == "backward" and sets[0].input.nbytes >= FLUSHED_BYTES else _nothing
    rotations = {name: _Rotation(loss, sets, regions) for name, loss in losses.items()}
    calls, planned = {}, {}
    with _no_garbage_collection():
        for name, rotation in rotations.items():
            seconds = rotation.wall_seconds(phase, 1, _nothing)  # a warm-up too
            calls[name] = max(1, min(MAX_CALLS, round(CPU_SAMPLE_S / max(seconds, 1e-9))))
            start = time.perf_counter()
            rotation.wall_seconds(phase, calls[name], before)
            planned[name] = _planned(time.perf_counter() - start, budget_s)
        rounds = max(planned.values(), default=0)
        samples: dict[str, list[float]] = {name: [] for name in losses}
        for r in range(rounds):
            look()
            for name, rotation in rotations.items():
                if (r + 1) * planned[name] // rounds > r * planned[name] // rounds:
                    seconds = rotation.wall_seconds(phase, calls[name], before)
                    samples[name].append(1e3 * seconds / calls[name])
    return {
        name: Timing(statistics.median(ms), statistics.median(ms), _spread(ms), len(ms), "wall")
        for name, ms in samples.items()
    }


def _nothing() -> None:
    pass


def time_cuda(loss: Loss, sets: list[BufferSet], regions: int, phase: str, budget_s: float) -> Timing:
    """Wall time, and device time of replays of a CUDA graph of many calls (of the calls where capture fails)."""
    rotation = _Rotation(loss, sets, regions)
    for _ in range(3):
        seconds = rotation.wall_seconds(phase, len(sets), torch.cuda.synchronize) / len(sets)
    with _no_garbage_collection():
        eager = []
        for _ in range(_planned(seconds * len(sets), budget_s / 2)):
            eager.append(1e3 * rotation.wall_seconds(phase, len(sets), torch.cuda.synchronize) / len(sets))
        _drop_gradients(sets)
        calls = max(len(sets), min(MAX_CALLS, round(CUDA_SAMPLE_S / seconds)))
        timer, stream = "graph", torch.cuda.current_stream()
        try:
            prepare, work = _captured(rotation, phase, calls)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation that cannot be captured
            torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own
            torch.cuda.synchronize()
            timer = "events"
            prepare, work = _uncaptured(rotation, phase, calls)
        ms = [t / calls for t in _event_times(prepare, work, budget_s / 2)]
    del prepare, work
    _drop_gradients(sets)
    return Timing(statistics.median(ms), statistics.median(eager), _spread(ms), len(ms), timer)


def _drop_gradients(sets: list[BufferSet]) -> None:
    for s in sets:
        s.gradient = None
    torch.cuda.empty_cache()


Steps = tuple[Callable[[], None], Callable[[], None]]  # untimed, timed


def _captured(rotation: _Rotation, phase: str, calls: int) -> Steps:
    sets = rotation.next_sets(calls)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # capture asks for a warm-up on another stream
        rotation.both(sets[:2])
    torch.cuda.current_stream().wait_stream(side)
    _drop_gradients(sets)
    if phase == "both":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rotation.both(sets)
        return _nothing, graph.replay
    forward, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    with torch.cuda.graph(forward, pool=pool):
        losses = rotation.forward(sets)
    if phase == "forward":
        return _nothing, forward.replay
    backward = torch.cuda.CUDAGraph()  # shares the pool: it reads what the forward graph saved
    with torch.cuda.graph(backward, pool=pool):
        rotation.backward(losses, sets)
    return forward.replay, backward.replay


def _uncaptured(rotation: _Rotation, phase: str, calls: int) -> Steps:
    sets = rotation.next_sets(calls)
    if phase == "forward":
        return _nothing, lambda: _ignore(rotation.forward(sets))
    if phase == "both":
        return _nothing, lambda: rotation.both(sets)
    losses: list[Tensor] = []

    def prepare() -> None:
        losses[:] = rotation.forward(sets)

    return prepare, lambda: rotation.backward(losses, sets)


def _ignore(_: object) -> None:
    pass


def _event_times(prepare: Callable[[], None], work: Callable[[], None], budget_s: float) -> list[float]:
    """Milliseconds of `work` on the device. Nothing waits in between, so the queue never runs dry."""

    def enqueue(times: int) -> list[float]:
        pairs = []
        for _ in range(times):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            prepare()
            start.record()
            work()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    begin = time.perf_counter()
    enqueue(2)
    samples = _planned((time.perf_counter() - begin) / 2, budget_s)
    return enqueue(samples + 1)[1:]  # before the first, the queue is empty
