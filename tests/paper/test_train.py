"""The training loop: seeds, checkpoints, a kill in the middle, and the errors."""

from __future__ import annotations

import builtins
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.paper import models, scenes, train
from benchmarks.paper.data import Labelled
from benchmarks.paper.losses import SPECS
from benchmarks.paper.train import Settings, TrainingError

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
# The triplet loss draws random numbers in every step, which a resumed run has to draw again.
SETTINGS = Settings(loss="triplet", outputs=4, steps=STEPS, batch=2, checkpoint_every=4, terms_every=2)

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from benchmarks.paper import train
from test_train import SETTINGS, small_data

torch.set_num_threads(1)
advance = train.Run.advance
def die_in_step_7(self):
    if self.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self)
train.Run.advance = die_in_step_7
train.train(SETTINGS, small_data(), Path(sys.argv[1]))
"""


def small_data() -> Labelled:
    return scenes.salient_scenes(6, 32, "train", seed=0)


@pytest.fixture(autouse=True)
def _one_thread():
    """As many threads here as in the process that is killed: sums depend on them in the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(one: train.Trained, other: train.Trained) -> None:
    assert torch.equal(one.losses, other.losses) and torch.equal(one.terms, other.terms)
    theirs = other.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in one.network.state_dict().items())


def test_a_killed_run_ends_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.pt"
    paths = [str(ROOT), str(ROOT / "tests" / "paper")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{KILLED}"
    killed = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(checkpoint, weights_only=True)["step"] == 4  # steps 4 to 6 are lost, and done again
    resumed, whole = train.train(SETTINGS, small_data(), checkpoint), train.train(SETTINGS, small_data())
    assert len(whole.losses) == STEPS
    assert_same(resumed, whole)
    assert_same(train.train(SETTINGS, small_data(), checkpoint), whole)  # a finished run is only read


def test_death_while_writing_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, save = tmp_path / "run.pt", torch.save

    def die_in_the_second(state: dict, file) -> None:
        if state["step"] == 8:
            file.write(b"half of it")
            raise KeyboardInterrupt
        save(state, file)

    monkeypatch.setattr(torch, "save", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        train.train(SETTINGS, small_data(), checkpoint)
    monkeypatch.undo()
    assert torch.load(checkpoint, weights_only=True)["step"] == 4
    assert_same(train.train(SETTINGS, small_data(), checkpoint), train.train(SETTINGS, small_data()))


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


def test_half_precision_trains() -> None:
    assert train.train(Settings(steps=2, batch=2, amp=True), small_data()).losses.isfinite().all()


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
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"run\.pt: cannot be read as a checkpoint"):
        train.train(replace(SETTINGS, steps=1), small_data(), checkpoint)


def test_a_loss_that_is_not_finite_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        SPECS, "ce", replace(SPECS["ce"], build=lambda: lambda output, labels: output.sum() * torch.nan)
    )
    with pytest.raises(TrainingError, match="ce: the loss is nan in step 0"):
        train.train(Settings(loss="ce", steps=2, batch=2), small_data())


@pytest.mark.parametrize(("name", "value"), [("loss", "dice"), ("steps", 0), ("batch", 0), ("outputs", 0)])
def test_wrong_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"Settings: {name} must be"):
        Settings(**{name: value})


def test_prediction_covers_all_images_in_their_order() -> None:
    network = models.build("small", 1, 3)
    images = scenes.salient_scenes(train.EVALUATION_BATCH + 3, 32, "test", seed=0).images
    found = train.predict(network, images)
    assert found.shape == (len(images), 3, 32, 32)
    torch.testing.assert_close(found[-1:], network(images[-1:]).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("error", [ImportError("no module named torchvision"), RuntimeError("built for CUDA 13\nmore")])
def test_models_without_torchvision_say_what_is_missing(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest, **more):
        if name.startswith("torchvision"):
            raise error
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(models.ModelError) as caught:
        models.build("fcn_resnet101", 3, 2)
    message = str(caught.value)
    assert message.startswith("fcn_resnet101 needs torchvision") and str(error).splitlines()[0] in message
    assert "\n" not in message


def test_models_are_built_by_name_and_weights_are_read(tmp_path: Path) -> None:
    network = models.build("small", 3, 5)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    copy = models.build("small", 3, 5, tmp_path / "weights.pt")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), copy.parameters(), strict=True))
    with pytest.raises(models.ModelError, match=r"weights\.pt: holds no weights for small"):
        models.build("small", 3, 2, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"name must be one of small, .*, got 'unet'"):
        models.build("unet", 3, 2)


def test_standardised_networks_see_three_channels_of_mean_0() -> None:
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(pixels)
            return {"out": pixels[:, :2]}

    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert models.Standardised(Recorder())(images).shape == (2, 2, 8, 8)
    assert seen[0].shape == (2, 3, 8, 8)
    torch.testing.assert_close(seen[0].mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[0][:, 0].std((1, 2)), torch.ones(2), atol=0.05, rtol=0)
