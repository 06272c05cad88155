"""What a results file says: ratios, targets that are missed, and how far two runs agree.

`python -m benchmarks.report FILE` prints the table of a run; with a second file of the same machine, how much the
ratios of the two runs differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .cases import ADVERSARIAL_MASKS, SMALL_CASES

OURS = "cas_ext"
NOISE = 0.15  # two runs should agree on every ratio this well
Row = dict
Group = dict[tuple[str, str], Row]  # (impl, phase) -> row, all of one setting


@dataclass(frozen=True)
class Targets:
    """Shares of the ceilings, forward and backward, and ratios of the time of both together."""

    share: float
    adversarial_share: float
    compiled: float  # over the best of `rivals`
    rivals: tuple[str, ...]
    eager: float  # over `eager_impl`, or the best eager implementation
    eager_impl: str | None
    small_eager: float  # the same for a small case, wall time
    unfused: float = 2  # logits: over a softmax followed by cas_ext


TARGETS = {
    "cpu": Targets(0.70, 0.45, 5, ("compiled",), 14, "scatter_add", 14),
    "cuda": Targets(0.92, 0.60, 3, ("compiled", "triton"), 10, None, 5),
}


class ResultsError(Exception):
    """A file that is missing, or holds no results of benchmarks.speed; the message is one line."""


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def load_timings(path: Path) -> dict:
    """What `benchmarks.speed` wrote.

    Raises: ResultsError
    """
    try:
        result = load(path)
    except OSError as error:
        raise ResultsError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise ResultsError(f"{path}: expected JSON, as benchmarks.speed writes it") from error
    rows = result.get("rows") if isinstance(result, dict) else None
    if rows is None or any("ms" not in row for row in rows):
        raise ResultsError(f"{path}: expected the results of benchmarks.speed")
    return result


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def setting_key(row: Row) -> tuple:
    return (row["case"], tuple(row["shape"]), row["dtype"], row["layout"], row["labels"], row["mask"])


def groups(rows: Iterable[Row]) -> dict[tuple, Group]:
    """Rows with a time, by setting, in the order of the file."""
    found: dict[tuple, Group] = {}
    for row in rows:
        if row["ms"] is not None:
            found.setdefault(setting_key(row), {})[row["impl"], row["phase"]] = row
    return found


def is_small(group: Group) -> bool:
    """Whether this is the cost of a call more than of its bytes."""
    return next(iter(group.values()))["case"] in SMALL_CASES


def best(group: Group, phase: str, kinds: tuple[str, ...], column: str = "ms", impl: str | None = None) -> Row | None:
    """The fastest row of these kinds (or of this implementation alone)."""
    rows = [row for (name, p), row in group.items() if p == phase and (name == impl if impl else row["kind"] in kinds)]
    return min(rows, key=lambda row: row[column], default=None)


def ratio(
    group: Group, phase: str, kinds: tuple[str, ...], column: str = "ms", impl: str | None = None
) -> float | None:
    """How many times faster cas_ext is than the best of those; None where either is missing."""
    ours, other = group.get((OURS, phase)), best(group, phase, kinds, column, impl)
    return other[column] / ours[column] if ours and other else None


def at_full_bandwidth(group: Group, other: Row) -> float | None:
    """How many times faster than another implementation (forward and backward) one would be that reached both ceilings.

    What no kernel can exceed on this machine, as far as its memory goes. None without a time of each pass.
    """
    passes = [group.get((OURS, phase)) for phase in ("forward", "backward")]
    if not all(passes):
        return None
    return other["ms"] / sum(row["ms"] * row["share_of_ceiling"] for row in passes if row)


def _below(actual: float, wanted: float) -> str:
    """Two shares, with as many digits as tell them apart."""
    digits = next((d for d in range(3) if f"{actual:.{d}%}" != f"{wanted:.{d}%}"), 3)
    return f"{actual:.{digits}%} < {wanted:.{digits}%}"


def _fewer(actual: float, what: str, wanted: float) -> str:
    """Two ratios, the first with as many digits as tell it from the second."""
    digits = next((d for d in range(1, 3) if f"{actual:.{d}f}" != f"{wanted:.{d}f}"), 3)
    return f"{actual:.{digits}f}x {what} < {wanted}x"


def missed(group: Group, device_type: str) -> list[str]:
    """The targets that this setting misses, in words; a target that was not measured is not missed."""
    targets = TARGETS[device_type]
    any_row, small = next(iter(group.values())), is_small(group)
    found = []
    if not small:
        wanted = targets.adversarial_share if any_row["mask"] in ADVERSARIAL_MASKS else targets.share
        for phase in ("forward", "backward"):
            row = group.get((OURS, phase))
            if row and row["share_of_ceiling"] < wanted:
                found.append(f"{phase} {_below(row['share_of_ceiling'], wanted)}")

    def bound(kinds: tuple[str, ...], impl: str | None = None) -> str:
        other = best(group, "both", kinds, impl=impl)
        most = None if small or other is None else at_full_bandwidth(group, other)
        return "" if most is None else f" (at full bandwidth {most:.1f}x)"

    column = "eager_ms" if small else "ms"
    over_compiled = None if small and device_type == "cuda" else ratio(group, "both", targets.rivals)
    if over_compiled is not None and over_compiled < targets.compiled:
        found.append(_fewer(over_compiled, "compiled", targets.compiled) + bound(targets.rivals))
    over_eager = ratio(group, "both", ("eager",), column, targets.eager_impl)
    wanted = targets.small_eager if small else targets.eager
    if over_eager is not None and over_eager < wanted:
        text = _fewer(over_eager, targets.eager_impl or "eager", wanted)
        found.append(text + bound(("eager",), targets.eager_impl))
    over_unfused = ratio(group, "both", ("unfused",))
    if over_unfused is not None and over_unfused < targets.unfused:
        found.append(_fewer(over_unfused, "unfused", targets.unfused))
    return found


def row_line(row: Row) -> str:
    """One measurement as it is printed during a run: time, share of the ceiling, error."""
    name = f"{row['case']:12} {row['dtype']:8} {row['layout']:13} {row['labels']:6} {row['mask']:12} "
    name += f"{row['impl']:25} {row['phase']:8} "
    if row["ms"] is None:
        return name + f"not measured: {row['note']}"
    error = "not finite" if row["rel_error"] is None else f"{row['rel_error']:.1e}"
    text = f"{row['ms']:10.4f} ms  eager {row['eager_ms']:10.4f} ms  {row['gbps']:7.1f} GB/s"
    text += f" {row['share_of_ceiling']:6.1%}"
    return f"{name}{text}  error {error}  +-{row['spread']:.0%}" + (f"  {row['note']}" if row["note"] else "")


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def bandwidth(result: dict) -> str:
    """The ceilings: on a CPU the medians of what was measured beside the rows, and between what they lay."""
    beside = [row["ceilings"] for row in result["rows"] if row.get("ceilings")]
    texts = []
    for name, verb in (("read_gbps", "read"), ("copy_gbps", "copied")):
        low, high = (f"{end(c[name] for c in beside):.0f}" if beside else "" for end in (min, max))
        texts.append(
            f"{result['ceilings'][name]:.0f} GB/s {verb}" + f" ({low} to {high} during the run)" * (low != high)
        )
    return ", ".join(texts)


COLUMNS = """\
ms: median of one call of cas_ext; share: the time in which PyTorch's own read (forward) or copy (backward) moves the least
bytes, over that; error: the relative error of loss or gradient, the larger, against float64; x: how many times as fast cas_ext
is, forward and backward together, as the fastest compiled, the fastest eager, the scatter_add and the Triton version; missed:
targets of docs/performance.md, with what a kernel would reach that uses all of the bandwidth"""


def summary(result: dict, only_missed: bool = False) -> str:
    """A line per setting: cas_ext's times and shares, ratios over the best of each kind of peer, and missed targets.

    only_missed: no line for a setting that meets every target.
    """
    lines = [
        f"{result['device']}, torch {result['torch']}, threads {result['threads']}, scale {result['scale']}: "
        + bandwidth(result),
        COLUMNS,
        f"{'case':12} {'dtype':8} {'layout':13} {'labels':6} {'mask':12} {'forward ms':>10} {'share':>6} "
        f"{'backward':>9} {'share':>6} {'both ms':>9} {'error':>8} {'x compiled':>10} {'x eager':>8} {'x scatter':>9} "
        f"{'x triton':>8}  missed",
    ]
    for key, group in groups(result["rows"]).items():
        misses = missed(group, result["device_type"])
        if only_missed and not misses:
            continue
        cells = []
        for phase in ("forward", "backward"):
            row = group.get((OURS, phase))
            cells += [_cell(row and row["ms"], ".4f"), _cell(row and row["share_of_ceiling"], ".0%")]
        both = group.get((OURS, "both"))
        cells += [_cell(both and both["ms"], ".4f"), _cell(both and both["rel_error"], ".1e")]
        cells += [_cell(ratio(group, "both", (kind,)), ".1f") for kind in ("compiled", "eager")]
        cells += [_cell(ratio(group, "both", (), impl=impl), ".1f") for impl in ("scatter_add", "triton")]
        widths = (10, 6, 9, 6, 9, 8, 10, 8, 9, 8)
        texts = [f"{key[0]:12} {key[2]:8} {key[3]:13} {key[4]:6} {key[5]:12}"]
        texts += [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
        lines.append(" ".join(texts) + "  " + "; ".join(misses))
    lines += [f"{name} was left out: {reason}" for name, reason in result["unavailable_peers"].items()]
    return "\n".join(lines)


def compare(first: dict, second: dict) -> tuple[str, bool]:
    """How far two runs agree on each implementation's time over cas_ext's; whether all lie within NOISE."""
    ratios = []
    for result in (first, second):
        found = {}
        for key, group in groups(result["rows"]).items():
            for (impl, phase), row in group.items():
                ours = group.get((OURS, phase))
                if ours and impl != OURS:
                    found[(*key, impl, phase)] = row["ms"] / ours["ms"]
        ratios.append(found)
    common = [key for key in ratios[0] if key in ratios[1]]
    if not common:
        return "the two runs have no ratio in common", False
    change = {key: abs(ratios[1][key] / ratios[0][key] - 1) for key in common}
    beyond = sorted((key for key in common if change[key] > NOISE), key=lambda key: -change[key])
    lines = [
        f"{len(common)} ratios in common: median difference {statistics.median(change.values()):.1%}, "
        f"largest {max(change.values()):.1%}, {len(beyond)} beyond {NOISE:.0%}"
    ]
    for key in beyond:
        case, _, *rest = key
        lines.append(f"{' '.join([case, *rest])}: {ratios[0][key]:.2f} and {ratios[1][key]:.2f}")
    return "\n".join(lines), not beyond


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description="Prints the table of a results file, or how far two runs of the same machine agree.",
    )
    parser.add_argument("file", type=Path, help="what benchmarks.speed wrote")
    parser.add_argument(
        "second", type=Path, nargs="?", help="another run of the same machine; exit status 1 if they differ"
    )
    parser.add_argument("--missed", action="store_true", help="only the settings that miss a target")
    options = parser.parse_args(argv)
    try:
        first, *others = [load_timings(path) for path in (options.file, options.second) if path is not None]
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not others:
        print(summary(first, options.missed))
        return 0
    text, agree = compare(first, others[0])
    print(text)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
