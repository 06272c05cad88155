"""What the benchmarks measure with: byte floors, rotation of buffers, the CUDA timer, peak memory."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_benchmark_peers import setting

import cas_ext
from benchmarks import cases, machine, measure, memory, peers, report
from benchmarks.cases import Setting


def test_floors_are_those_of_the_documentation():
    # Forward e + l/M, backward that and e more; at M = 2, float32, uint8: 3.25 times the input in all.
    paper = Setting(cases.case("paper", "full"), "float32", "nchw", "small", "coherent")
    assert cases.floor_bytes(paper, "both") == 3.25 * paper.input_bytes
    assert cases.floor_bytes(paper, "forward") == paper.input_bytes + paper.case.pixels


def test_rotation_uses_every_buffer_set_in_turn_and_keeps_gradients():
    case_setting = setting("tiny")
    input, target = cases.make_input(case_setting, "cpu"), cases.make_target(case_setting, "cpu")
    sets = [measure.BufferSet(input.detach().clone().requires_grad_(), target) for _ in range(3)]
    losses, looks = {"a": peers.onehot, "b": peers.scatter_add}, []
    times = measure.time_cpu(losses, sets, 2, "backward", 0.005, lambda: None, lambda: looks.append(1))
    assert len(looks) == max(timing.samples for timing in times.values())
    assert all(s.gradient is not None and s.gradient.shape == input.shape for s in sets)
    assert all(timing.ms > 0 and timing.samples >= measure.MIN_SAMPLES for timing in times.values())


def test_ceilings_seen_are_those_of_the_looks_since_the_last_call(monkeypatch):
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.0)
    looked_at = machine.Memory("cpu", 1 << 16)
    assert len(looked_at.buffers) == 2
    seconds = iter([1.0, 4.0, 2.0, 8.0, 2.0, 8.0, 5.0, 9.0, 0.5, 1.0, 0.5, 1.0])  # of a read and a copy in turn
    monkeypatch.setattr(looked_at, "_seconds", lambda call: next(seconds))
    for _ in range(2):
        looked_at.look()
    size = looked_at.buffers[0].nbytes / 1e9
    assert looked_at.seen() == {"read_gbps": size / 2.0, "copy_gbps": 2 * size / 8.0}
    looked_at.look()
    assert looked_at.seen() == {"read_gbps": size / 0.5, "copy_gbps": 2 * size / 1.0}


@pytest.mark.parametrize("phase", cases.PHASES)
@pytest.mark.parametrize("capturable", [True, False])
def test_cuda_timer_replays_forward_before_backward(monkeypatch, phase, capturable):
    """time_cuda with a stand-in for torch.cuda: what is captured, and in which order it runs."""
    ran = []

    class Graph:
        @contextlib.contextmanager
        def capture(self):
            if not capturable:
                raise RuntimeError("operation not permitted when stream is capturing")
            before = len(ran)
            yield
            self.steps = ran[before:]

        def replay(self):
            ran.extend(self.steps)

    class Event:
        def record(self):
            self.at = len(ran)

        def elapsed_time(self, end):
            return float(end.at - self.at)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = SimpleNamespace(
        CUDAGraph=Graph,
        Event=lambda enable_timing: Event(),
        Stream=lambda: stream,
        current_stream=lambda: stream,
        set_stream=lambda s: None,
        stream=lambda s: contextlib.nullcontext(),
        graph=lambda graph, pool=None: graph.capture(),
        graph_pool_handle=lambda: 1,
        empty_cache=lambda: None,
        synchronize=lambda: None,
    )
    monkeypatch.setattr(measure.torch, "cuda", fake)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, target, regions):
            ran.append("forward")
            ctx.save_for_backward(input)
            return input.sum()

        @staticmethod
        def backward(ctx, weight):
            ran.append("backward")
            return torch.ones_like(ctx.saved_tensors[0]), None, None

    sets = [measure.BufferSet(torch.ones(2, requires_grad=True), torch.zeros(2)) for _ in range(3)]
    timing = measure.time_cuda(Loss.apply, sets, 2, phase, 0.001)
    assert timing.timer == ("graph" if capturable else "events")
    assert timing.ms == (2 if phase == "both" else 1)  # steps of a call between its events
    last = ran[-2 * len(sets) :]
    if phase == "backward":
        half = len(ran) - ran[::-1].index("forward")
        assert set(ran[half:]) == {"backward"} and ran[half - 1] == "forward"
    else:
        assert last == (["forward"] * 2 if phase == "forward" else ["forward", "backward"]) * len(sets)


needs_memray = pytest.mark.skipif(memory.counted_by("cpu") is None, reason=memory.MISSING)


@needs_memray
def test_peak_memory_is_what_a_call_holds_beyond_its_gradient():
    def loss(input, target, regions):
        return (input * torch.ones(regions * input.numel()).reshape(regions, -1).sum(0).view_as(input)).sum()

    input = torch.ones(100_000, requires_grad=True)
    peak = memory.peak_extra_bytes(loss, measure.BufferSet(input, torch.zeros(100_000)), 7)
    assert 7 * input.nbytes <= peak["forward"] <= 9.1 * input.nbytes
    assert peak["forward"] <= peak["both"] <= 9.1 * input.nbytes


@needs_memray
def test_peak_memory_counts_what_is_allocated_past_pytorch():
    def loss(input, target, regions):
        np.ones(1_000_000)  # 8 MB, freed before the next
        return input.sum() * np.ones(2_000_000)[0]

    input = torch.ones(10, requires_grad=True)
    peak = memory.peak_extra_bytes(loss, measure.BufferSet(input, torch.zeros(10)), 1)
    assert 16_000_000 <= peak["forward"] <= 16_100_000


@needs_memray
def test_peak_memory_counts_the_scratch_of_the_kernels():
    """A table of 1000 regions in 32 channels is 256 KB of doubles, and no tensor of PyTorch's."""
    input, target = torch.rand(1, 32, 100, 100, requires_grad=True), torch.randint(1000, (1, 100, 100))

    def loss(input, target, regions):
        return cas_ext.cas_loss(input, target, num_regions=regions)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss(input, target, 1000)
    by_pytorch = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
    counted = memory.peak_extra_bytes(loss, measure.BufferSet(input, target), 1000)["forward"]
    assert counted > by_pytorch + 256_000


@needs_memray
def test_what_stays_from_an_earlier_call_is_no_memory_of_a_call():
    kept = []

    def call():
        if not kept:
            kept.append(np.ones(1_000_000))

    assert memory.cpu_peak(call) < 1_000_000


def test_without_memray_there_is_no_figure_rather_than_a_wrong_one(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: None)
    input = torch.ones(10, requires_grad=True)
    peak = memory.peak_extra_bytes(lambda input, *_: input.sum(), measure.BufferSet(input, input), 1)
    assert peak == {"forward": None, "backward": None, "both": None}
    assert memory.main(["--out", str(tmp_path / "memory.json")]) == 2
    assert "memray is not installed" in capsys.readouterr().err


@needs_memray
def test_the_memory_command_writes_a_row_for_every_implementation(tmp_path, monkeypatch):
    def broken(input, target, regions):
        raise NotImplementedError("not on this machine\nmore")

    chosen = ("cas_ext", "onehot", "scatter_add")
    monkeypatch.setattr(memory, "DEFAULT_PEERS", chosen)
    monkeypatch.setitem(memory.PEERS, "scatter_add", peers.Peer(broken, "eager"))
    path, threads = tmp_path / "memory.json", torch.get_num_threads()
    assert memory.main(["--out", str(path), "--scale", "tiny", "--cases", "paper"]) == 0
    torch.set_num_threads(threads)
    result = report.load(path)
    assert result["memory"] == "memray" and [row["impl"] for row in result["rows"]] == list(chosen)
    ours, onehot, failed = result["rows"]
    assert 0 < ours["forward_bytes"] < onehot["forward_bytes"] and ours["step_bytes"] < onehot["step_bytes"]
    assert failed["forward_bytes"] is None and failed["note"] == "NotImplementedError: not on this machine"
