"""The command line of benchmarks.speed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from . import cases
from .peers import DEFAULT_PEERS, PEERS, SOFTMAX_PEERS, Peer

DESCRIPTION = """\
Times cas_ext and its peers, PyTorch's own versions of the loss, over a grid of settings.

A setting is a case with a dtype, a layout, a type of labels and a mask. cas_ext is measured on every combination of those
that are asked for. Its peers are slower, and measured on fewer (--peer-grid). The file is rewritten after every setting, so
an interrupted run leaves what it has measured.

With --budget 0.06 --peer-grid base a run on a CPU takes about a quarter of an hour; with the defaults, hours (an
estimate).
"""
PEER_DISTANCE = {"base": 0, "star": 1, "full": 4}  # axes on which a setting with peers may differ from the base


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def many(option: str, choices: Iterable[str], default: Iterable[str] | None, what: str, shown: str = "") -> None:
        choices = list(choices)
        default = None if default is None else list(default)
        shown = shown or ("all" if default == choices else " ".join(default or ()) or "none")
        text = f"{what}: any of {', '.join(choices)} (default: {shown})"
        parser.add_argument(option, nargs="*", choices=choices, default=default, metavar="NAME", help=text)

    parser.add_argument("--device", choices=("cpu", "cuda"), required=True, help="where to measure")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file that is written")
    many("--cases", cases.SIZES, cases.SIZES, "shapes and numbers of regions")
    many("--dtypes", cases.DTYPES, ["float32", "bfloat16"], "of the descriptors")
    many("--layouts", cases.LAYOUTS, cases.LAYOUTS, "of the descriptors; nchw is contiguous")
    many("--labels", cases.LABELS, cases.LABELS, "types; small is uint8, or int16 beyond 256 regions")
    many("--masks", cases.MASKS, cases.MASKS, "how the regions lie (benchmarks/masks.py)")
    many(
        "--peers",
        SOFTMAX_PEERS,
        None,
        "implementations, cas_ext among them",
        "all but reference and reference_compiled",
    )
    many("--phases", cases.PHASES, cases.PHASES, "what is timed")
    many("--sweep", cases.SWEEPS, [], "also over so many regions, or channels")
    parser.add_argument(
        "--activation", choices=("none", "softmax"), default="none",
        help="softmax: inputs are logits; cas_ext fuses it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--peer-grid", choices=PEER_DISTANCE, default="star",
        help="where peers are measured, by how many of dtype, layout, labels and mask differ from the first of their "
        "list: base: none; star: at most one; full: any (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scale", choices=cases.SCALES,
        help="sizes of the cases; tiny is for tests, its times mean nothing (default: full on cuda, else cpu)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: PyTorch's own choice)")
    parser.add_argument(
        "--budget", type=float, default=0.5, metavar="SECONDS",
        help="for each setting, implementation and phase (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--allocator", choices=("keep", "default"), default="keep",
        help="what glibc does with freed memory: keep it, as CUDA's allocator does, or its default (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    available = peers_of(options)
    if options.peers is None:
        options.peers = [name for name in available if name in DEFAULT_PEERS or name not in PEERS]
    for name in options.peers:
        if name not in available:
            parser.error(f"--peers: expected {name} with --activation softmax only")
    options.scale = options.scale or ("full" if options.device == "cuda" else "cpu")
    for axis in ("dtypes", "layouts", "labels", "masks", "phases"):
        if not getattr(options, axis):
            parser.error(f"--{axis}: expected at least one name")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: expected a CUDA device, got none")
    return options


def peers_of(options: argparse.Namespace) -> dict[str, Peer]:
    return SOFTMAX_PEERS if options.activation == "softmax" else PEERS
