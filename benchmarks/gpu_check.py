"""`python -m benchmarks.gpu_check --out DIR`: builds, tests, sanitizes and times on a machine with a GPU, offline.

Writes log.txt (everything that the stages printed), junit.xml (the tests) and timings.json (benchmarks.speed) into DIR.
A stage that fails or runs out of time does not stop the others. It exits with 1 if one failed, 2 without GPU or nvcc.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import torch

ROOT = Path(__file__).parents[1]
TOTAL_S = 570  # "under 10 minutes"
LEAST_S = 10  # a stage that would have less than this is not started
TEST_WORKERS = max(1, (os.cpu_count() or 1) * 3 // 4)  # processes, which share the GPU
STAGES = ("build", "timings", "tests", "memcheck", "racecheck")  # in the order of what is missed most if time runs out


@dataclass(frozen=True)
class Stage:
    """A command with its time limit. `skip` says why it is not run, which is no failure."""

    name: str
    command: list[str]
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)
    skip: str | None = None


@dataclass(frozen=True)
class Outcome:
    """status: "passed", "skipped: why", "failed: exit 3", "failed: more than 60 s" or "failed: no time left"."""

    name: str
    status: str
    seconds: float

    @property
    def failed(self) -> bool:
        return self.status.startswith("failed")


def find_tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on PATH, in CUDA_HOME, or where toolkits usually lie."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [shutil.which(name), *(str(Path(home, "bin", name)) for home in homes if home)]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def run_stage(stage: Stage, log: IO[bytes], deadline: float) -> Outcome:
    """Runs one stage with its output in the log; `deadline` is in seconds of time.monotonic()."""
    if stage.skip is not None:
        return Outcome(stage.name, f"skipped: {stage.skip}", 0.0)
    start = time.monotonic()
    limit = min(stage.limit_s, deadline - start)
    if limit < min(LEAST_S, stage.limit_s):
        return Outcome(stage.name, "failed: no time left", 0.0)
    log.write(f"\n==== {stage.name}: {' '.join(stage.command)}\n".encode())
    log.flush()
    process = subprocess.Popen(
        stage.command,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **stage.environment},
        start_new_session=True,  # so that a time-out ends its children too
    )
    try:
        code = process.wait(timeout=limit)
        status = "passed" if code == 0 else f"failed: exit {code}"
    except subprocess.TimeoutExpired:
        status = f"failed: more than {limit:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Outcome(stage.name, status, time.monotonic() - start)


def build_stage(capability: tuple[int, int]) -> Stage:
    """For the device at hand alone: an environment may ask for many more."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    architecture = ".".join(map(str, capability))
    return Stage("build", command, 360, {"MAX_JOBS": str(os.cpu_count() or 1), "TORCH_CUDA_ARCH_LIST": architecture})


def test_stage(out: Path) -> Stage:
    """What needs a GPU; `make test` does the rest anywhere. With names, so that the log of a run cut short is worth reading."""
    command = [sys.executable, "-m", "pytest", "-v", "-m", "cuda and not slow", f"--junit-xml={out / 'junit.xml'}"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(TEST_WORKERS)]
    return Stage("tests", command, 300)


def sanitizer_stage(tool: str, device: str = "cuda") -> Stage:
    """`tool` is memcheck or racecheck. Without the caching allocator every tensor has bounds of its own."""
    sanitizer = find_tool("compute-sanitizer")
    command = [str(sanitizer), f"--tool={tool}", "--error-exitcode=9"]
    command += ["--report-api-errors=no"] * (tool == "memcheck")  # PyTorch asks for what a device may not have
    command += [sys.executable, "-m", "benchmarks.sanitize_case", f"--device={device}"]
    skip = None if sanitizer else "compute-sanitizer is not installed"
    return Stage(tool, command, 100, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, skip)


def timing_stage(out: Path, device: str = "cuda", scale: str = "full") -> Stage:
    """cas_ext against the eager reference and torch.compile of it, on three cases."""
    command = [sys.executable, "-m", "benchmarks.speed", f"--device={device}", f"--scale={scale}", "--budget=0.3"]
    command += ["--cases", "paper", "voc", "embedding", "--dtypes", "float32", "--layouts", "nchw", "--labels", "small"]
    command += ["--masks", "coherent", "random", "--phases", "forward", "backward", "both"]
    command += ["--peers", "cas_ext", "reference", "reference_compiled", f"--out={out / 'timings.json'}"]
    return Stage("timings", command, 200)


def run_all(stages: list[Stage], out: Path, total_s: float = TOTAL_S) -> list[Outcome]:
    """Runs the stages one after the other and prints each outcome as it comes."""
    deadline = time.monotonic() + total_s
    outcomes = []
    with open(out / "log.txt", "ab") as log:
        for stage in stages:
            print(f"gpu_check: {stage.name} ...", flush=True)
            outcomes.append(run_stage(stage, log, deadline))
            log.write(f"==== {summary(outcomes[-1:])}\n".encode())
    return outcomes


def summary(outcomes: list[Outcome]) -> str:
    """A line per stage: name, seconds, status."""
    return "\n".join(f"{o.name:10} {o.seconds:6.1f} s  {o.status}" for o in outcomes)


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def missing(cuda_available: bool, nvcc: str | None) -> str | None:
    """Why this machine cannot be used, or None."""
    if not cuda_available:
        return "gpu_check: expected a CUDA device, got none"
    if nvcc is None:
        return "gpu_check: expected nvcc on PATH, in CUDA_HOME or in /usr/local/cuda, got none"
    return None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for log.txt, junit.xml and timings.json")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="what to run (default: everything)")
    options = parser.parse_args(argv)
    out = options.out.resolve()
    reason = missing(torch.cuda.is_available(), find_tool("nvcc"))
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    written = {"tests": "junit.xml", "timings": "timings.json"}
    for name in ("log.txt", *(file for stage, file in written.items() if stage in options.stages)):
        (out / name).unlink(missing_ok=True)
    sanitizers = [sanitizer_stage(tool) for tool in ("memcheck", "racecheck")]
    stages = [build_stage(torch.cuda.get_device_capability()), timing_stage(out), test_stage(out), *sanitizers]
    outcomes = run_all([stage for stage in stages if stage.name in options.stages], out)
    print(tail(out / "log.txt"))
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}; all output is in {out / 'log.txt'}")
    print(summary(outcomes))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
