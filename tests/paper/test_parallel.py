"""Two processes under torchrun: together they train as one process does, and they stop, fail and go on together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from benchmarks.paper import parallel, scenes, train
from benchmarks.paper.data import Labelled
from benchmarks.paper.losses import IGNORED
from benchmarks.paper.train import Settings, TrainingError

ROOT = Path(__file__).resolve().parents[2]
# A small rate, because Adam makes rounding errors of small gradients into steps of the size of the rate.
SETTINGS = Settings(loss="cas-mean-log", steps=4, batch=4, rate=1e-4, seed=1, checkpoint_every=2, terms_every=2)
LOSSES = ("cas-mean-log", "ce", "discriminative")
TOLERANCE = 1e-4
ENDLESS = replace(SETTINGS, steps=100_000, checkpoint_every=50_000)


def data() -> Labelled:
    """Six images with ever more ignored pixels, up to all, so that the two halves of a batch are unlike."""
    whole = scenes.salient_scenes(6, 32, "train", seed=0)
    labels = whole.labels.to(torch.int8)
    for image in range(6):
        labels[image, : 8 * image] = IGNORED
    return Labelled(whole.images, labels, whole.description)


def caught(settings: Settings, images: Labelled, *rest) -> str:
    try:
        train.train(settings, images, *rest)
    except TrainingError as error:
        return str(error)
    return "no error"


@contextmanager
def disturbed_in_step(step: int, rank: int, what: Callable[[], None]) -> Iterator[None]:
    """One of the processes does something in the middle of a step."""
    terms = train.Run.terms

    def disturbed(self, *rest):
        if self.step == step and parallel.rank() == rank:
            what()
        return terms(self, *rest)

    with mock.patch.object(train.Run, "terms", disturbed):
        yield


def stop_and_go_on(folder: Path) -> tuple[train.Trained, train.Trained]:
    """The second process alone is told to stop, in step 1. The loss draws random numbers, others on each process."""
    settings = replace(SETTINGS, loss="triplet")
    with disturbed_in_step(1, rank=1, what=lambda: signal.raise_signal(signal.SIGTERM)):
        try:
            train.train(settings, data(), folder / "stopped.pt", logs=folder / "stopped")
        except SystemExit as end:
            assert end.code == 128 + signal.SIGTERM
    assert torch.load(folder / "stopped.pt", weights_only=True)["step"] == 2
    resumed = train.train(settings, data(), folder / "stopped.pt", logs=folder / "stopped")
    return resumed, train.train(settings, data(), logs=folder / "whole")


def as_tensors(result: train.Trained) -> dict[str, torch.Tensor]:
    return {"losses": result.losses, "terms": result.terms, **result.network.state_dict()}


def main(folder: Path) -> None:
    """What each of the processes does; the tests look at what it writes down."""
    torch.set_num_threads(1)
    with parallel.processes("cpu") as device:
        images = data().to(device)
        rank = parallel.rank()
        found = {loss: as_tensors(train.train(replace(SETTINGS, loss=loss), images)) for loss in LOSSES}
        train.COMPILER = "eager"  # compiles in a second
        found["compiled"] = as_tensors(train.train(replace(SETTINGS, compile=True), images))
        found["bfloat16"] = as_tensors(train.train(replace(SETTINGS, amp=True), images))
        found["resumed"], found["whole"] = map(as_tensors, stop_and_go_on(folder))
        found["indivisible"] = caught(replace(SETTINGS, batch=3), images)
        found["other data"] = caught(SETTINGS, images.take(torch.arange(6 - rank)))
        found["other checkpoint"] = caught(SETTINGS, images, folder / f"only-{rank}.pt")
        found["helpers"] = (parallel.size(), parallel.gather(rank), parallel.largest(7 - rank), parallel.is_first())
        torch.save(found, folder / f"{rank}.pt")
        # To torchrun, as from a cluster that wants its machine back.
        with disturbed_in_step(10, rank=0, what=lambda: os.kill(os.getppid(), signal.SIGTERM)):
            train.train(ENDLESS, images, folder / "endless.pt", logs=folder / "endless")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes wrote: one start for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "only-1.pt").touch()
    module = ("-m", "tests.paper.test_parallel", str(folder))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *module]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)
    assert (folder / "1.pt").exists(), ended.stderr
    (folder / "stderr").write_text(ended.stderr)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def alone(**changes) -> dict[str, torch.Tensor]:
    return as_tensors(train.train(replace(SETTINGS, **changes), data()))


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("loss", LOSSES)
def test_two_processes_train_as_one_does(loss: str, results: list[dict]) -> None:
    assert_near(results[0][loss], alone(loss=loss), TOLERANCE)


def test_shared_batch_normalisation_is_pytorchs() -> None:
    """With one process; what several add to it, the tests above see."""
    torch.manual_seed(0)
    ours, theirs = (kind(3) for kind in (parallel.SharedBatchNorm, torch.nn.BatchNorm2d))
    for network in (ours, theirs):
        torch.nn.init.constant_(network.weight, 0.7)
        torch.nn.init.constant_(network.bias, -0.2)
    found = []
    for network in (ours, theirs):
        images = torch.linspace(-1, 3, 2 * 3 * 2 * 2).reshape(2, 3, 2, 2).requires_grad_()
        for _ in range(3):
            output = network(images)
        gradients = torch.autograd.grad(output.pow(3).sum(), [images, *network.parameters()])
        evaluated = network.eval()(images)
        found.append([output, *gradients, evaluated, *network.state_dict().values()])
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


def test_half_precision_in_parallel(results: list[dict]) -> None:
    assert_near(results[0]["bfloat16"], alone(amp=True), 0.02)


def test_compiled_in_parallel(results: list[dict]) -> None:
    assert_near(results[0]["compiled"], results[0]["cas-mean-log"], TOLERANCE)


def test_a_share_without_a_valid_pixel_is_among_the_cases() -> None:
    """For CE, whose mean over no pixels is NaN."""
    valid = data().labels.flatten(1).ne(IGNORED).any(1)
    shares = valid[train.Run(SETTINGS, data(), None).batches].unflatten(1, (2, 2)).any(2)  # (steps, processes)
    assert shares.any(1).all() and not shares.all()


@pytest.mark.parametrize("name", [*LOSSES, "bfloat16", "compiled", "resumed", "whole"])
def test_both_processes_end_with_the_same_bits(name: str, results: list[dict]) -> None:
    one, other = (result[name] for result in results)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) or value.isnan().any() for key, value in one.items())


def test_processes_stop_together_and_go_on_with_the_same_bits(folder: Path, results: list[dict]) -> None:
    for result in results:
        assert all(torch.equal(value, result["whole"][key]) for key, value in result["resumed"].items())
    texts = [(folder / name / "metrics.csv").read_text() for name in ("stopped", "whole")]
    assert texts[0] == texts[1]


def test_what_the_processes_cannot_share_is_an_error_on_all(results: list[dict]) -> None:
    for result in results:
        assert result["indivisible"] == "batch must be divisible by the number of processes, 2, got 3"
        assert result["other data"].startswith("process 1 has another run than process 0: images [5, 1, 32, 32, ")
        assert result["other checkpoint"].endswith("process 0: checkpoint found True, not False")


def test_helpers_of_the_command_line(results: list[dict]) -> None:
    assert [result["helpers"] for result in results] == [(2, [0, 1], 7, True), (2, [0, 1], 7, False)]
    assert (parallel.size(), parallel.rank(), parallel.gather("x"), parallel.largest(3)) == (1, 0, ["x"], 3)
    with parallel.processes("cpu") as device:
        assert device == torch.device("cpu") and parallel.is_first()


def test_sigterm_to_torchrun_saves_once(folder: Path) -> None:
    step = torch.load(folder / "endless.pt", weights_only=True)["step"]
    assert 10 < step < ENDLESS.steps
    said = [line for line in (folder / "stderr").read_text().splitlines() if "endless.pt" in line]
    assert said == [f"cas-mean-log: stopped after step {step} of {ENDLESS.steps}; saved in {folder / 'endless.pt'}"]
    assert len((folder / "endless" / "metrics.csv").read_text().splitlines()) == 1 + step


if __name__ == "__main__":
    main(Path(sys.argv[1]))
