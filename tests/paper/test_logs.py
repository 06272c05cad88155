"""metrics.csv and TensorBoard's events: exact, complete, and without a step twice."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.paper import train
from benchmarks.paper.losses import SPECS
from benchmarks.paper.train import Settings, TrainingError

from .test_train import small_data

CODES = Settings(loss="ce", steps=7, batch=2, checkpoint_every=3, terms_every=2)


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values of every curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {name: [(event.step, event.value) for event in shown.Scalars(name)] for name in shown.Tags()["scalars"]}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def rates(settings: Settings) -> list[float]:
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps + 1)
    found = []
    for _ in range(settings.steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_both_logs_hold_every_step_and_look(tmp_path: Path) -> None:
    result = train.train(CODES, small_data(), logs=tmp_path / "a" / "b")
    rows = table(tmp_path / "a" / "b")
    assert list(rows[0]) == ["step", "loss", "rate", "uniformer", "discriminator"]
    assert [int(row["step"]) for row in rows] == list(range(CODES.steps))
    assert [float(row["loss"]) for row in rows] == result.losses.tolist()
    assert [float(row["rate"]) for row in rows] == pytest.approx(rates(CODES), rel=1e-12)
    looks = [[row["step"], row["uniformer"], row["discriminator"]] for row in rows if row["uniformer"]]
    assert [[float(value) for value in look] for look in looks] == result.terms.tolist()
    assert result.terms[:, 0].tolist() == [0, 2, 4, 6]

    shown = events(tmp_path / "a" / "b")
    for name in ("loss", "rate", "uniformer", "discriminator"):
        expected = [(int(row["step"]), float(np.float32(row[name]))) for row in rows if row[name]]
        assert shown[name] == expected


def test_a_run_from_the_start_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    train.train(CODES, small_data(), logs=tmp_path)
    fresh = train.train(replace(CODES, seed=1, steps=3), small_data(), logs=tmp_path)
    assert [float(row["loss"]) for row in table(tmp_path)] == fresh.losses.tolist()
    assert [step for step, _ in events(tmp_path)["loss"]] == [0, 1, 2]


def test_logs_asked_for_later_are_complete(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    result = train.train(CODES, small_data(), checkpoint)
    train.train(CODES, small_data(), checkpoint, logs=tmp_path / "logs")
    assert [float(row["loss"]) for row in table(tmp_path / "logs")] == result.losses.tolist()
    assert [step for step, _ in events(tmp_path / "logs")["loss"]] == list(range(CODES.steps))


def test_a_loss_that_is_not_finite_is_in_the_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = replace(SPECS["ce"], build=lambda: lambda output, labels: output.sum() * torch.nan)
    monkeypatch.setitem(SPECS, "ce", nan)
    with pytest.raises(TrainingError):
        train.train(replace(CODES, steps=2), small_data(), logs=tmp_path)
    assert table(tmp_path)[0]["loss"] == "nan"


@pytest.mark.parametrize("missing", ["tensorboard", "torch.utils.tensorboard"])
def test_logs_without_tensorboard_say_what_is_missing(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(TrainingError) as caught:
        train.train(CODES, small_data(), logs=tmp_path / "logs")
    message = str(caught.value)
    assert message.startswith("logs need tensorboard, which cannot be imported (") and "\n" not in message
    assert not (tmp_path / "logs").exists()
