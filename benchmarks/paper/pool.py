"""Runs side by side in processes of one thread each, under one progress bar; or one after the other by torchrun's processes.

A worker ends with its parent, whatever ends that: two programs never write the same checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from examples.demo.data import DemoError
from examples.demo.training import bar_interval

from . import parallel
from .errors import TrainingError
from .jobs import Job, JobError, finished, run
from .models import ModelError

USER_ERRORS = (JobError, TrainingError, ModelError, DemoError, OSError)
Results = dict[str, dict[str, Any]]
BARLESS = {"TQDM_DISABLE": "1"}  # the bars of single trainings would overwrite each other
# PyTorch, scikit-learn and NumPy bring a pool of threads each.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerError(Exception):
    """A fault of the program in a worker; its message is the worker's traceback."""


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Variables that processes started within inherit."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _die_with(parent: Any) -> None:
    wait([parent.sentinel])
    os._exit(1)


def _work(channel: Connection, runs: Path, device: torch.device) -> None:
    """Runs jobs as they come until None does; answers ("done", None), ("refused", one line) or ("broken", traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_die_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    tqdm.set_lock(threading.RLock())  # its own lock is a system semaphore, which outlives a worker that is ended
    while (job := channel.recv()) is not None:
        try:
            run(job, runs, device)
            channel.send(("done", None))
        except USER_ERRORS as error:
            channel.send(("refused", str(error)))
        except Exception:
            channel.send(("broken", traceback.format_exc()))


class Pool:
    """`workers` processes, started with the first job and ended by `close`."""

    def __init__(self, runs: Path, device: torch.device, workers: int) -> None:
        self.runs, self.device, self.workers = runs, device, workers
        self.processes: dict[Connection, Any] = {}

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA and threads survive no fork
        with _environment(BARLESS if self.device.type != "cpu" else BARLESS | ONE_THREAD):
            for _ in range(self.workers):
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, self.runs, self.device), daemon=True)
                process.start()
                theirs.close()
                self.processes[mine] = process

    def close(self) -> None:
        for channel, process in self.processes.items():
            process.terminate()
            process.join()
            channel.close()
        self.processes = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def results(self, jobs: Sequence[Job], title: str) -> Results:
        """Run those of `jobs` that are not done yet; the results of all by name.

        Raises: JobError for a run that the user can put right, WorkerError for one that failed otherwise.
        """
        waiting = [job for job in jobs if finished(job, self.runs) is None]
        with tqdm(
            total=len(jobs), initial=len(jobs) - len(waiting), desc=title, unit="run", mininterval=bar_interval(),
            file=sys.stderr, smoothing=0,
        ) as bar:  # fmt: skip
            if waiting:
                self._run(waiting, bar)
        return {job.name: finished(job, self.runs) or {} for job in jobs}

    def _run(self, waiting: list[Job], bar: tqdm) -> None:
        if not self.processes:
            self.start()
        waiting = waiting[::-1]
        busy: dict[Connection, Job] = {}

        def give(channel: Connection) -> None:
            busy[channel] = waiting.pop()
            with suppress(BrokenPipeError):  # of a worker that is dead: there is no answer either, which is told below
                channel.send(busy[channel])

        for channel in list(self.processes)[: len(waiting)]:
            give(channel)
        while busy:
            for channel in wait(list(busy)):
                job = busy.pop(channel)
                try:
                    outcome, message = channel.recv()
                except (EOFError, ConnectionResetError):
                    process = self.processes[channel]
                    process.join()
                    raise JobError(
                        f"{job.name}: its process ended with status {process.exitcode} "
                        "(out of memory?); the same command goes on from here"
                    ) from None
                if outcome == "refused":
                    raise JobError(message if job.name in message else f"{job.name}: {message}")
                if outcome == "broken":
                    raise WorkerError(f"{job.name}:\n{message}")
                bar.set_postfix_str(job.name, refresh=False)
                bar.update()
                if waiting:
                    give(channel)


class Together:
    """The processes of torchrun: each trains on its share of every batch of every run."""

    def __init__(self, runs: Path, device: torch.device) -> None:
        self.runs, self.device = runs, device

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def results(self, jobs: Sequence[Job], title: str) -> Results:
        """As `Pool.results`; all processes call it alike.

        Raises: as `run`.
        """
        found = {}
        for number, job in enumerate(jobs, 1):
            if parallel.is_first():
                print(f"{title}: run {number} of {len(jobs)}, {job.name}", file=sys.stderr)
            found[job.name] = run(job, self.runs, self.device)
        return found
