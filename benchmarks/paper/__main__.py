"""`python -m benchmarks.paper COMMAND --out DIR`: the experiments of Sharma et al. (2021), on generated images or their data.

A command that was killed goes on when it is given again. `torchrun --nproc_per_node 2 -m benchmarks.paper ...` trains each
network with several processes, or GPUs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .experiments import ALLOWED_LOSSES, DEFAULT_LOSSES, OUTPUTS

INTERRUPTED = 130  # the exit status of a program stopped by Ctrl-C
SEEDS = (0, 1, 2, 3, 4)
NOISE = (0.0, 0.25, 0.5)
DATA_SIZE = 256  # pixels, as in the paper; with --data
IMAGES = 400  # to train on, generated
RATE = 1e-2
MAX_WORKERS = 8  # processes of one thread each on a CPU, one a core; each takes some 500 MB


@dataclass(frozen=True)
class Default:
    """Of a command: steps and images a step of one training, and pixels along a generated image."""

    steps: int = 400
    batch: int = 4
    size: int = 96


# The three on two regions share trainings, so they share these. Small, so that `make paper-cpu` ends soon: docs/experiments.md.
DEFAULTS = {
    "low-fidelity": Default(),
    "high-fidelity": Default(),
    "multi-region": Default(steps=250, batch=8, size=64),
    "texture": Default(),
}


WHAT = {
    "low-fidelity": "Table 1: region labels swapped in a share of the training images",
    "high-fidelity": "Table 2: clean labels",
    "multi-region": "Table 3: the number of regions unknown; with a sweep of the loss's settings",
    "texture": "Table 4: textures with arbitrary region ids",
    "quote": "prints the paper's own numbers",
}


def words(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    """A type of argument: these names."""

    def name(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (expected any of {described(allowed)})")
        return text

    return name


def described(losses: Sequence[str]) -> str:
    """Names of losses, in which a pattern stands for the many settings of CAS."""
    from .losses import ALPHA, CAS, Setting

    named = [loss for loss in losses if loss not in CAS]
    for prefix, softmax in (("cas", True), ("cas-raw", False)):
        settings = [CAS[loss] for loss in losses if loss in CAS and CAS[loss].softmax == softmax]
        parts = [dict.fromkeys(getattr(one, part) for one in settings) for part in ("pairs", "distance", "alpha")]
        combined = [Setting(*part, softmax=softmax).name for part in product(*parts)]
        if len(settings) < 3 or {one.name for one in settings} != set(combined):
            named += [one.name for one in settings]
            continue
        alphas = [f"-{alpha}" for alpha in parts[2] if alpha != ALPHA]
        suffix = f"[{'|'.join(alphas)}]" if alphas else ""
        named.append(f"{prefix}-{{{'|'.join(parts[0])}}}-{{{'|'.join(parts[1])}}}{suffix}")
    return ", ".join(named)


def parser() -> argparse.ArgumentParser:
    from .models import MODELS
    from .train import PRECISIONS

    top = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, allowed in ALLOWED_LOSSES.items():
        one = commands.add_parser(command, help=WHAT[command], description=WHAT[command] + ".")
        one.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
        one.add_argument(
            "--runs", type=Path, metavar="DIR",
            help="folder of the trainings; commands that share it share what they have in common (default: OUT/runs)",
        )  # fmt: skip
        one.add_argument(
            "--data", type=Path, metavar="DIR",
            help="folder of the paper's data sets (docs/paper.md); without it images are generated",
        )  # fmt: skip
        one.add_argument("--model", choices=MODELS, default="small", help="network (default: %(default)s)")
        one.add_argument("--weights", type=Path, metavar="FILE", help="first weights: a state dict of this network")
        one.add_argument(
            "--loss", nargs="+", type=one_of(allowed), default=list(DEFAULT_LOSSES[command]), metavar="LOSS",
            help=f"any of {described(allowed)} (default: {described(DEFAULT_LOSSES[command])})",
        )  # fmt: skip
        one.add_argument(
            "--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N",
            help=f"each has its own images, noise and weights (default: {words(SEEDS)})",
        )  # fmt: skip
        if command == "low-fidelity":
            shares = f"shares of training images with swapped labels (default: {words(NOISE)})"
            one.add_argument("--noise", nargs="+", type=float, default=list(NOISE), metavar="SHARE", help=shares)
        if command in OUTPUTS:
            tried = "numbers of channels M: the sweep begins with the first and then tries the others"
            tried += f" (default: {words(OUTPUTS[command])})"
            one.add_argument("--outputs", nargs="+", type=int, default=list(OUTPUTS[command]), metavar="M", help=tried)
        default = DEFAULTS[command]
        one.add_argument(
            "--steps", type=int, default=default.steps, metavar="N", help="of one training (default: %(default)s)"
        )
        one.add_argument(
            "--batch", type=int, default=default.batch, metavar="N", help="images a step (default: %(default)s)"
        )
        one.add_argument(
            "--rate",
            type=float,
            default=RATE,
            help="highest learning rate of the one-cycle schedule (default: %(default)s)",
        )
        sizes = f"width and height in pixels, even (default: {default.size}; with --data {DATA_SIZE})"
        one.add_argument("--size", type=int, metavar="PIXELS", help=sizes)
        one.add_argument(
            "--images", type=int, metavar="N", help=f"generated to train on (default: {IMAGES}); not with --data"
        )
        one.add_argument(
            "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (default: %(default)s)"
        )
        one.add_argument(
            "--workers", type=int, metavar="N", help="trainings at a time (default: one a core, 1 on a GPU)"
        )
        one.add_argument(
            "--amp", choices=tuple(PRECISIONS), default="off",
            help="precision of the forward pass; float16 on a GPU only (default: %(default)s)",
        )  # fmt: skip
        one.add_argument("--compile", action="store_true", help="network and loss by torch.compile")
    commands.add_parser("quote", help=WHAT["quote"], description=WHAT["quote"] + ".")
    return top


def check(options: argparse.Namespace, fail: argparse.ArgumentParser) -> None:
    """Exits with status 2 and one line where an option cannot be."""
    if options.size is None:
        options.size = DEFAULTS[options.command].size if options.data is None else DATA_SIZE
    if options.size < 32 or options.size % 2:
        fail.error(f"argument --size: expected an even number of at least 32, got {options.size}")
    if options.data is not None and options.images is not None:
        fail.error("argument --images: expected without --data, whose images are all used")
    if options.data is not None and not options.data.is_dir():
        fail.error(f"argument --data: expected a folder, got {options.data}")
    if options.weights is not None and not options.weights.is_file():
        fail.error(f"argument --weights: expected a file, got {options.weights}")
    options.images = IMAGES if options.images is None else options.images
    for name, least in (("images", 8), ("steps", 1), ("batch", 1), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            fail.error(f"argument --{name}: expected at least {least}, got {value}")
    if options.workers is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        fail.error("argument --workers: expected without torchrun, whose processes train one network together")
    if not options.rate > 0:
        fail.error(f"argument --rate: expected more than 0, got {options.rate}")
    for name in ("loss", "seeds", "noise", "outputs"):
        values = getattr(options, name, [])
        if len(set(values)) < len(values):
            fail.error(f"argument --{name}: expected different values, got {' '.join(map(str, values))}")
    if any(seed < 0 for seed in options.seeds):
        fail.error(f"argument --seeds: expected 0 or more, got {min(options.seeds)}")
    if any(count < 2 for count in getattr(options, "outputs", [])):
        fail.error(f"argument --outputs: expected at least 2, got {min(options.outputs)}")
    for share in getattr(options, "noise", []):
        if not 0 <= share <= 1:
            fail.error(f"argument --noise: expected shares from 0 to 1, got {share}")


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Holds the folder by its file .lock. Raises DemoError where another program does, or the folder cannot be made."""
    from examples.demo.data import DemoError

    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise DemoError(f"{out}: cannot be used as a folder ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f"{out}: another program is writing there") from None
        yield


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(options: argparse.Namespace) -> None:
    """Train, score and report."""
    from examples.demo.__main__ import choose_device

    from . import parallel, report
    from .options import Options
    from .results import execute

    asked = Options(
        command=options.command, losses=tuple(options.loss), seeds=tuple(options.seeds), steps=options.steps,
        size=options.size, images=options.images, model=options.model, noise=tuple(getattr(options, "noise", (0.0,))),
        data=options.data, weights=options.weights, batch=options.batch, rate=options.rate, amp=options.amp,
        compile=options.compile, outputs=tuple(getattr(options, "outputs", ())),
    )  # fmt: skip
    runs = options.runs or options.out / "runs"
    with ExitStack() as stack:
        device = stack.enter_context(parallel.processes(choose_device(options.device)))
        if parallel.is_first():
            for folder in dict.fromkeys((options.out.resolve(), runs.resolve())):
                stack.enter_context(only_one(folder))
        parallel.barrier()
        workers = options.workers or (min(cores(), MAX_WORKERS) if device.type == "cpu" else 1)
        content, plan = execute(asked, runs, options.out, device, workers)
        if parallel.is_first():
            path = report.write(content, plan, runs, options.out, device)
            print(f"{report.body(content)}\nReport: {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    top = parser()
    options = top.parse_args(arguments)
    if options.command == "quote":
        from . import quoted

        print("\n".join(quoted.as_text(table) for table in quoted.TABLES), end="")
        return 0
    check(options, top)
    from .pool import USER_ERRORS

    try:
        run(options)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
