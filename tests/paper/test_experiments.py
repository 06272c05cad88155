"""Which runs the experiments consist of, how the sweep chooses, and the processes that run them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.paper import experiments, jobs
from benchmarks.paper.experiments import ALLOWED_LOSSES, DEFAULT_LOSSES, OUTPUTS, PRINTED, Plan, family
from benchmarks.paper.jobs import Job, JobError
from benchmarks.paper.losses import ALPHAS, CAS, SPECS
from benchmarks.paper.options import Options
from benchmarks.paper.pool import Pool, WorkerError

CPU = torch.device("cpu")


def options(command: str, *losses: str, **changes) -> Options:
    asked = {
        "seeds": (0, 1),
        "steps": 3,
        "size": 32,
        "images": 8,
        "batch": 2,
        "rate": 0.003,
        "outputs": OUTPUTS.get(command, ()),
        **changes,
    }
    return Options(command=command, losses=losses or DEFAULT_LOSSES[command], **asked)


def play(command: str, asked: Options, validation=lambda job: 0.5) -> tuple[Plan, list[list[Job]]]:
    """Drive an experiment with made-up validation scores; its plan, and the lists that it yielded."""
    experiment, lists = experiments.EXPERIMENTS[command](asked), []
    found = None
    while True:
        try:
            lists.append(experiment.send(found))
        except StopIteration as end:
            return end.value, lists
        found = {job.name: {"scores": {"validation": validation(job)}} for job in lists[-1]}


def test_low_fidelity_runs_every_loss_at_every_noise_with_every_seed() -> None:
    plan, _ = play("low-fidelity", options("low-fidelity", "ce", PRINTED, noise=(0.0, 0.5)))
    found = {(job.settings.loss, job.source.noise, job.source.seed, job.settings.seed) for job in plan.runs}
    assert found == {(loss, p, s, s) for loss in ("ce", PRINTED) for p in (0.0, 0.5) for s in (0, 1)}
    assert len({job.name for job in plan.runs}) == len(plan.runs) == 8


def test_cas_goes_on_from_the_cross_entropy_of_its_own_seed() -> None:
    plan, lists = play("high-fidelity", options("high-fidelity", "ce", "cace", PRINTED))
    onwards = [job for job in plan.runs if job.initial is not None]
    assert [(job.method, job.source.seed) for job in onwards] == [(f"ce then {PRINTED}", s) for s in (0, 1)]
    for job in onwards:
        first = next(one for one in lists[0] if one.name == job.initial)
        assert (first.settings.loss, first.source) == ("ce", job.source)
    assert len(lists) == 2  # the weights are there when they are needed
    assert len(play("high-fidelity", options("high-fidelity", PRINTED))[1]) == 1


def test_commands_share_the_runs_that_they_have_in_common() -> None:
    low, _ = play("low-fidelity", options("low-fidelity", "ce", noise=(0.0, 0.5)))
    high, _ = play("high-fidelity", options("high-fidelity", "ce"))
    _, lists = play("texture", options("texture", "ce"))
    assert set(high.runs) < set(low.runs)
    assert set(high.runs) < {job for part in lists for job in part}


def test_the_sweep_goes_from_pairs_to_alpha_to_outputs() -> None:
    wanted = {"cas-unordered-log": 0.7, "cas-unordered-log-0.8": 0.8, "cas-mean-log": 0.6}

    def validation(job: Job) -> float:
        return wanted.get(job.settings.loss, 0.5) + 0.01 * (job.settings.outputs == 16)

    plan, lists = play("multi-region", options("multi-region"), validation)
    first, alphas, outputs, finals = lists
    assert {job.settings.loss for job in first} == set(DEFAULT_LOSSES["multi-region"])
    assert all(job.settings.outputs == 8 for job in first + alphas)
    assert {job.settings.loss for job in alphas if "unordered-log" in job.name} == {
        f"cas-unordered-log-{a}" for a in ALPHAS if a != 0.5
    }
    assert all(job.settings.outputs == 16 for job in outputs)
    assert plan.chosen["CAS, log"] == {
        "loss": "cas-unordered-log-0.8",
        "outputs": 16,
        "validation": pytest.approx(0.81),
    }
    assert plan.chosen["CAS, sqeuclidean, as printed"]["loss"] == PRINTED
    assert plan.sweep == first + alphas + outputs and len({job.name for job in plan.sweep}) == len(plan.sweep)
    assert {(j.settings.loss, j.settings.outputs, j.source.seed) for j in finals} == {
        (c["loss"], c["outputs"], s) for c in plan.chosen.values() for s in (0, 1)
    }


def test_the_sweep_sees_no_reported_seed_and_no_test_image() -> None:
    for command in ("multi-region", "texture"):
        plan, _ = play(command, options(command, seeds=(4, 7)))
        assert {job.source.seed for job in plan.sweep} == {8}
        assert {job.judge for job in plan.sweep} == {"validation"}
        assert {job.source.seed for job in plan.runs} == {4, 7} and "validation" not in {j.judge for j in plan.runs}


def test_networks_of_objects_are_judged_on_textures_and_not_trained_again() -> None:
    plan, lists = play("texture", options("texture", "ce", PRINTED))
    moved = [job for job in plan.runs if job.trained is not None]
    assert {(job.settings.loss, job.source.kind) for job in moved} == {("ce", "transfer"), (PRINTED, "transfer")}
    trained = {job.name: job for part in lists[:-1] for job in part}
    assert all(trained[job.trained].source.kind == "salient" for job in moved)


def test_every_family_is_one_distance_of_codes_or_descriptors() -> None:
    assert {family(name) for name in CAS} == {
        "CAS, sqeuclidean", "CAS, euclidean", "CAS, log", "CAS, no softmax",
    }  # fmt: skip
    assert family("triplet") == "triplet"


@pytest.mark.parametrize("command", experiments.EXPERIMENTS)
def test_defaults_are_allowed_and_five_seeds(command: str) -> None:
    from benchmarks.paper.__main__ import parser

    assert set(DEFAULT_LOSSES[command]) <= set(ALLOWED_LOSSES[command]) <= set(SPECS)
    assert len(parser().parse_args([command, "--out", "x"]).seeds) >= 5


def test_swapped_labels_train_the_same_network_to_the_last_bit(tmp_path: Path) -> None:
    asked = options("low-fidelity", "ce", PRINTED, seeds=(0,), noise=(0.0, 0.5))
    _, (runs,) = play("low-fidelity", asked)
    weights: dict[str, list[torch.Tensor]] = {}
    for job in runs:
        jobs.run(job, tmp_path, CPU)
        state = torch.load(job.folder(tmp_path) / jobs.WEIGHTS, weights_only=True)
        weights.setdefault(job.method, []).append(torch.cat([value.flatten().double() for value in state.values()]))
    assert torch.equal(*weights[PRINTED])
    assert not torch.equal(*weights["ce"])


def a_job(**changes) -> Job:
    (job, *_), *_ = play("low-fidelity", options("low-fidelity", "ce", seeds=(0,)))[1]
    return replace(job, **changes)


def test_a_worker_that_dies_is_reported_and_the_rest_can_go_on(tmp_path: Path, monkeypatch) -> None:
    start = Pool.start

    def start_and_kill(self: Pool) -> None:
        start(self)
        for process in self.processes.values():
            process.kill()

    monkeypatch.setattr(Pool, "start", start_and_kill)
    with Pool(tmp_path, CPU, 1) as one, pytest.raises(JobError, match=r"ended with status -9 .*goes on from here"):
        one.results([a_job()], "test")


def test_faults_in_workers_are_told_apart_from_mistakes_of_users(tmp_path: Path) -> None:
    broken = a_job(judge="no such judge")
    missing = a_job(name="other", initial="a run that never was")
    with Pool(tmp_path, CPU, 1) as one:
        with pytest.raises(JobError, match=r"^other: .*weights\.pt: holds no weights"):
            one.results([missing], "test")
        with pytest.raises(WorkerError, match="KeyError: 'no such judge'"):
            one.results([broken], "test")
        assert "TQDM_DISABLE" not in os.environ
    assert not one.processes


def test_a_run_writes_what_a_later_one_starts_from(tmp_path: Path) -> None:
    job = a_job()
    result = jobs.run(job, tmp_path, CPU)
    assert jobs.finished(job, tmp_path) == result
    assert jobs.run(replace(job, name="next", initial=job.name), tmp_path, CPU)["scores"] != result["scores"]
    same = jobs.run(replace(job, name="same", trained=job.name), tmp_path, CPU)
    assert same["scores"] == result["scores"] and same["curves"]["step"] == []
    with pytest.raises(JobError, match=r"source\.noise 0\.0, not 0\.25"):
        jobs.finished(replace(job, source=replace(job.source, noise=0.25)), tmp_path)
    (job.folder(tmp_path) / jobs.RESULT).write_text("{")
    with pytest.raises(JobError, match=r"result\.json: cannot be read as a result"):
        jobs.finished(job, tmp_path)


def test_workers_inherit_nothing_that_draws_bars(tmp_path: Path, capfd) -> None:
    with Pool(tmp_path, CPU, 1) as one:
        one.results([a_job()], "the title")
    shown = capfd.readouterr().err
    assert "the title" in shown and "step/s" not in shown
