"""The training loop: seeds, what it learns and records, whose checkpoint it takes, and the errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.paper import models, scenes, train
from benchmarks.paper.data import Labelled
from benchmarks.paper.losses import SPECS
from benchmarks.paper.train import Settings, TrainingError

STEPS = 12
SETTINGS = Settings(loss="triplet", outputs=4, steps=STEPS, batch=2, checkpoint_every=4, terms_every=2)


def small_data() -> Labelled:
    return scenes.salient_scenes(6, 32, "train", seed=0)


def assert_same(one: train.Trained, other: train.Trained) -> None:
    assert torch.equal(one.losses, other.losses) and torch.equal(one.terms, other.terms)
    theirs = other.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.network.state_dict().items())


def test_the_seed_decides_the_run() -> None:
    one, again, other = (train.train(replace(SETTINGS, steps=3, seed=s), small_data()) for s in (0, 0, 1))
    assert_same(one, again)
    assert not torch.equal(one.losses, other.losses)


@pytest.mark.parametrize("name", SPECS)
def test_every_loss_trains_and_codes_record_their_terms(name: str) -> None:
    result = train.train(Settings(loss=name, outputs=2, steps=3, batch=2, terms_every=2), small_data())
    assert len(result.losses) == 3 and result.losses.isfinite().all()
    assert result.terms[:, 0].tolist() == ([0, 2] if SPECS[name].output == "codes" else [])
    assert (result.terms[:, 1:] >= 0).all()


def test_cas_learns_the_shapes_from_swapped_labels() -> None:
    data = scenes.with_region_noise(scenes.salient_scenes(16, 32, "train", seed=0), 0.5, seed=0)
    result = train.train(Settings(steps=60, batch=4), data)
    assert result.losses[-10:].mean() < result.losses[:10].mean() - 0.1


def test_training_starts_from_given_weights() -> None:
    first = train.train(Settings(loss="ce", steps=5, batch=2), small_data())
    onwards = train.train(Settings(steps=1, batch=2, rate=1e-12), small_data(), initial=first.network.state_dict())
    weights = first.network.state_dict()
    for name, value in onwards.network.named_parameters():
        torch.testing.assert_close(value, weights[name], atol=1e-9, rtol=1e-6)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    train.train(replace(SETTINGS, steps=1), small_data(), checkpoint)
    with pytest.raises(TrainingError, match=r"run\.pt: is the checkpoint of another run: seed 0, not 3"):
        train.train(replace(SETTINGS, steps=1, seed=3), small_data(), checkpoint)
    swapped = scenes.with_region_noise(small_data(), 1.0, 0)
    with pytest.raises(TrainingError, match="labels"):
        train.train(replace(SETTINGS, steps=1), swapped, checkpoint)
    brighter = replace(small_data(), images=small_data().images + 1)
    with pytest.raises(TrainingError, match="images"):
        train.train(replace(SETTINGS, steps=1), brighter, checkpoint)
    weights = models.build("small", 1, SETTINGS.outputs).state_dict()
    with pytest.raises(TrainingError, match=r"initial None, not '\w+'$"):
        train.train(replace(SETTINGS, steps=1), small_data(), checkpoint, weights)
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"run\.pt: cannot be read as a checkpoint"):
        train.train(replace(SETTINGS, steps=1), small_data(), checkpoint)


def test_weights_of_another_network_are_refused() -> None:
    weights = models.build("small", 1, 3).state_dict()
    with pytest.raises(models.ModelError, match=r"^initial: holds no weights for small \(.*size mismatch.*\)$"):
        train.train(SETTINGS, small_data(), initial=weights)


@pytest.mark.parametrize("every", [1, 50])
def test_a_loss_that_is_not_finite_ends_the_run(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(5))

    def build():
        return lambda output, labels: output.sum() * (torch.nan if next(steps) == 2 else 1)

    monkeypatch.setitem(SPECS, "ce", replace(SPECS["ce"], build=build))
    settings = Settings(loss="ce", steps=4, batch=2, checkpoint_every=every)
    with pytest.raises(TrainingError, match="ce: the loss is nan in step 2"):
        train.train(settings, small_data(), tmp_path / "run.pt")
    assert next(steps) == (3 if every == 1 else 4)  # noticed with the next checkpoint
    assert (tmp_path / "run.pt").exists() == (every == 1)  # which is not written


@pytest.mark.parametrize(
    ("name", "value"), [("loss", "dice"), ("steps", 0), ("batch", 0), ("outputs", 0), ("amp", "float8")]
)
def test_wrong_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Settings: {name} must be"):
        Settings(**{name: value})


def test_prediction_covers_all_images_in_their_order() -> None:
    network = models.build("small", 1, 3)
    images = scenes.salient_scenes(train.EVALUATION_BATCH + 3, 32, "test", seed=0).images
    found = train.predict(network, images)
    assert found.shape == (len(images), 3, 32, 32)
    torch.testing.assert_close(found[-1:], network(images[-1:]).detach(), atol=1e-5, rtol=1e-5)
