"""Settings for speed: half precision and torch.compile. Neither may change what a checkpoint is."""

from __future__ import annotations

import functools
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from devices import on_devices
from torch._dynamo.testing import CompileCounterWithBackend

from benchmarks.paper import train
from benchmarks.paper.train import Settings, TrainingError
from examples.demo.network import SmallFCN

from .test_interruption import in_step
from .test_train import assert_same, small_data

SETTINGS = Settings(loss="cas-mean-log", steps=6, batch=2, terms_every=2)
FLOAT16 = replace(SETTINGS, steps=4, amp="float16")


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch):
    """A compiler that takes milliseconds: it runs the graphs it is given as they are, and counts them."""
    counter = CompileCounterWithBackend("eager")
    monkeypatch.setattr(train, "COMPILER", counter)
    yield counter
    torch.compiler.reset()


def trained_in_two_parts(settings: Settings, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> train.Trained:
    with monkeypatch.context() as patch:
        in_step(2, lambda: signal.raise_signal(signal.SIGINT), patch)
        with pytest.raises(KeyboardInterrupt):
            train.train(settings, small_data(), checkpoint)
    assert torch.load(checkpoint, weights_only=True)["step"] == 3
    return train.train(settings, small_data(), checkpoint)


@pytest.mark.parametrize("loss", ["cas-mean-log", "ce", "cace", "triplet"])
def test_compiled_network_and_loss_train_alike(loss: str, backend: CompileCounterWithBackend, tmp_path: Path) -> None:
    settings = replace(SETTINGS, loss=loss, steps=3)
    plain = train.train(settings, small_data(), tmp_path / "plain.pt")
    assert backend.frame_count == 0
    compiled = train.train(replace(settings, compile=True), small_data(), tmp_path / "compiled.pt")
    assert_same(compiled, plain)
    sources = " ".join(graph.print_readable(print_output=False) for graph in backend.graphs)
    assert "conv2d" in sources
    assert {"cas-mean-log": "cas_ext", "ce": "cross_entropy", "cace": "log_softmax", "triplet": ""}[loss] in sources
    keys = [list(torch.load(tmp_path / f"{name}.pt", weights_only=True)["network"]) for name in ("plain", "compiled")]
    assert keys[0] == keys[1] == list(compiled.network.state_dict())


def test_a_compiled_run_goes_on_compiled_and_not_otherwise(
    backend: CompileCounterWithBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, compile=True)
    assert_same(trained_in_two_parts(settings, tmp_path / "run.pt", monkeypatch), train.train(settings, small_data()))
    with pytest.raises(TrainingError, match="another run: compile True, not False"):
        train.train(SETTINGS, small_data(), tmp_path / "run.pt")


def test_the_runs_before_do_not_decide_how_one_is_compiled(backend: CompileCounterWithBackend) -> None:
    counts = [0]
    for outputs in (2, 3, 2):  # of which PyTorch would make one graph for any number
        train.train(replace(SETTINGS, steps=1, outputs=outputs, compile=True), small_data())
        counts.append(backend.frame_count)
    assert counts == [0, counts[1], 2 * counts[1], 3 * counts[1]]


@pytest.mark.slow  # half a minute of g++
def test_inductor_trains_alike() -> None:
    settings = replace(SETTINGS, steps=2)
    plain, compiled = (train.train(replace(settings, compile=value), small_data()) for value in (False, True))
    torch.testing.assert_close(compiled.losses, plain.losses, rtol=1e-4, atol=1e-5)
    assert not torch.equal(compiled.losses, plain.losses)  # other kernels: in the last digits they do differ


@pytest.mark.parametrize(
    ("amp", "dtype"),
    [("off", torch.float32), (False, torch.float32), ("bfloat16", torch.bfloat16), (True, torch.bfloat16)],
)
def test_the_forward_pass_has_the_precision_asked_for(
    amp: str | bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, forward = [], SmallFCN.forward

    def watched(self, images):
        output = forward(self, images)
        seen.append(output.dtype)
        return output

    monkeypatch.setattr(SmallFCN, "forward", watched)
    result = train.train(replace(SETTINGS, steps=2, amp=amp), small_data())
    assert seen == [dtype, dtype]
    assert result.losses.isfinite().all()
    assert {value.dtype for value in result.network.parameters()} == {torch.float32}


def test_amp_by_flag_and_by_name_are_one_run() -> None:
    assert Settings(amp=True) == Settings(amp="bfloat16") and Settings(amp=False) == Settings()


def test_float16_is_refused_on_the_cpu() -> None:
    with pytest.raises(
        TrainingError, match=r"^amp float16 needs a CUDA device, got cpu; bfloat16 runs on every device$"
    ):
        train.train(FLOAT16, small_data())


def test_the_scale_of_gradients_is_in_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "SCALED_ON", ("cpu",))
    scaler = functools.partial(torch.amp.GradScaler, init_scale=16.0, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    whole = train.train(FLOAT16, small_data(), tmp_path / "whole.pt")
    assert_same(trained_in_two_parts(FLOAT16, tmp_path / "run.pt", monkeypatch), whole)
    one, other = (torch.load(tmp_path / name, weights_only=True)["scaler"] for name in ("run.pt", "whole.pt"))
    assert one == other and one["scale"] == 16 * 2**2


@on_devices("cuda")
@pytest.mark.parametrize("amp", ["off", "float16"])
@pytest.mark.parametrize("loss", ["cas-mean-log", "ce"])
def test_steps_do_not_wait_for_the_gpu(device, loss: str, amp: str) -> None:
    run = train.Run(replace(SETTINGS, loss=loss, amp=amp), small_data().to(device.torch_device), None)
    run.network.train()
    run.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.history.drain()[:, 1].isfinite().all()
