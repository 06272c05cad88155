"""Trainings that are killed or stopped, and go on: the same bits as without, in the network and in the logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.paper import train

from .test_logs import events
from .test_train import SETTINGS, STEPS, assert_same, small_data

ROOT = Path(__file__).resolve().parents[2]
CODES = replace(SETTINGS, loss="cas-mean-log")  # which also looks at the terms
HOW = {"kill": (-signal.SIGKILL, 4), "ctrl-c": (-signal.SIGINT, 7)}  # exit status, steps in the checkpoint that is left
pytestmark = pytest.mark.usefixtures("one_thread")


def main(how: str, folder: Path) -> None:
    """A training that is killed while it writes its second checkpoint, or gets a Ctrl-C in the middle of its seventh step."""
    torch.set_num_threads(1)
    save, step = torch.save, torch.optim.Adam.step
    calls = 0

    def die(state: dict, file) -> None:
        if state["step"] == 8:
            file.write(b"half of it")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    def interrupt(self, *rest) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, *rest)

    if how == "kill":
        torch.save = die
    else:
        torch.optim.Adam.step = interrupt
    train.train(CODES, small_data(), folder / "run.pt", logs=folder / "logs")


@pytest.mark.parametrize("how", HOW)
def test_an_interrupted_run_ends_as_if_it_had_not_been(how: str, tmp_path: Path) -> None:
    status, done = HOW[how]
    command = [sys.executable, "-m", "tests.paper.test_interruption", how, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == status, process.stderr
    checkpoint = tmp_path / "run.pt"
    said = [line for line in process.stderr.splitlines() if "stopped" in line]
    assert said == ([] if how == "kill" else [f"cas-mean-log: stopped after step 7 of 12; saved in {checkpoint}"])
    assert torch.load(checkpoint, weights_only=True)["step"] == done

    whole = train.train(CODES, small_data(), tmp_path / "whole.pt", logs=tmp_path / "whole")
    for _ in range(2):  # a finished run is only read
        resumed = train.train(CODES, small_data(), checkpoint, logs=tmp_path / "logs")
        assert_same(resumed, whole)
        assert len(resumed.losses) == STEPS
        text = (tmp_path / "logs" / "metrics.csv").read_text()
        assert text == (tmp_path / "whole" / "metrics.csv").read_text()
        assert events(tmp_path / "logs") == events(tmp_path / "whole")


def in_step(number: int, what, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something in the middle of a step."""
    terms = train.Run.terms

    def disturbed(self, *rest):
        if self.step == number:
            what()
        return terms(self, *rest)

    monkeypatch.setattr(train.Run, "terms", disturbed)


def test_sigterm_ends_the_run_after_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, before = tmp_path / "run.pt", signal.getsignal(signal.SIGTERM)
    assert SETTINGS.loss == "triplet"  # which draws random numbers: the checkpoint holds those as well
    in_step(5, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    with pytest.raises(SystemExit) as caught:
        train.train(SETTINGS, small_data(), checkpoint)
    assert caught.value.code == 128 + signal.SIGTERM
    assert torch.load(checkpoint, weights_only=True)["step"] == 6
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    assert_same(train.train(SETTINGS, small_data(), checkpoint), train.train(SETTINGS, small_data()))


def test_ctrl_c_without_a_checkpoint_says_that_nothing_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    in_step(STEPS - 1, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, small_data())
    assert "triplet: stopped after step 12 of 12; nothing is saved, for want of a checkpoint" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one did nothing")

    in_step(6, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, small_data(), tmp_path / "run.pt")
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 4


def test_under_torchrun_a_signal_may_come_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")

    def twice() -> None:  # from the terminal, and passed on by torchrun
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    in_step(6, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, small_data(), tmp_path / "run.pt")
    assert torch.load(tmp_path / "run.pt", weights_only=True)["step"] == 7


def test_an_ignored_ctrl_c_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    in_step(1, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for `nohup` and `&` in scripts
    try:
        assert len(train.train(replace(SETTINGS, steps=3), small_data()).losses) == 3
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_may_train() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(train.train(replace(SETTINGS, steps=2), small_data())))
    thread.start()
    thread.join()
    assert len(found[0].losses) == 2


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
