"""`python -m benchmarks.readme` draws the figures of all committed results and writes what README and docs say of them.

`--check` writes nothing and fails where a page or a figure is stale.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import call_cost, report
from .report import OURS, Group, groups, missed, ratio

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CALL_COST = RESULTS / "call-cost" / "cpu.json"
FIGURES = {  # name of the figure (plot.py) -> its text for those who do not see it
    "share": "Share of the memory bandwidth that is reached, by case",
    "regions": "Time against the number of regions",
    "channels": "Time against the number of channels",
    "memory": "Peak extra memory, by case",
}
HEADER = "| case | input | regions | forward | backward | share of bandwidth | compiled | eager | error | misses |"


def section(results: Path) -> str:
    """The text between the markers: a table and the figures of every results file."""
    files = sorted(results.glob("*.json"), key=lambda path: path.stem)
    if not files:
        return "No results are committed yet: `python -m benchmarks.speed` makes them.\n"
    return "\n".join(_of_file(path, report.load(path)) for path in files)


def _of_file(path: Path, result: dict) -> str:
    threads = f", {result['threads']} thread{'s' * (result['threads'] != 1)}" if result["threads"] else ""
    scaled = "" if result["scale"] == "full" else "; sizes scaled down for this machine"
    scaled += "; inputs are logits, with the softmax in front of the loss" * (result.get("activation") == "softmax")
    lines = [
        f"**{result['device']}**{threads}: {_bandwidth(result)}{scaled}. "
        f"torch {result['torch']}, {result['date'][:10]}, commit {(result['commit'] or 'unknown')[:10]}: `{result['command']}`",
        "",
    ]
    found = groups(row for row in result["rows"] if row["sweep"] is None)
    if found:
        lines += _table(path, result["device_type"], found)
    second = path.parent / "second-run" / path.name
    if second.exists():
        agreement = report.compare(result, report.load(second))[0].splitlines()[0]
        lines += [
            f"How noisy the machine is, by a second run of a part of it: {agreement} (times over those of cas_ext).",
            "",
        ]
    for figure, text in FIGURES.items():
        image = figure_path(path, figure)
        if image.exists():
            lines.append(f"![{text}]({image.relative_to(ROOT) if image.is_relative_to(ROOT) else image})")
    return "\n".join(lines) + "\n"


def _bandwidth(result: dict) -> str:
    """The ceilings, and between what they lay beside the rows where they were looked at there (on a CPU)."""
    beside = [row["ceilings"] for row in result["rows"] if row.get("ceilings")]
    texts = []
    for name, verb in (("read_gbps", "read"), ("copy_gbps", "copied")):
        low, high = (f"{end(c[name] for c in beside):.0f}" if beside else "" for end in (min, max))
        texts.append(
            f"{result['ceilings'][name]:.0f} GB/s {verb}" + f" ({low} to {high} during the run)" * (low != high)
        )
    return ", ".join(texts)


def _table(path: Path, device_type: str, found: dict[tuple, Group]) -> list[str]:
    """The settings that differ from the first one in their case alone, and how many of all meet the targets."""
    lines = [HEADER, "|---" * (HEADER.count("|") - 1) + "|"]
    base = next(iter(found))
    for key, group in found.items():
        small = key[4] != "int64" or base[4] == "int64"
        if key[2:4] == base[2:4] and key[5] == base[5] and small and (OURS, "both") in group:
            lines.append("| " + " | ".join(_cells(key, group, device_type)) + " |")
    complete = [group for group in found.values() if (OURS, "both") in group]
    met = sum(not missed(group, device_type) for group in complete)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    over_unfused = [ratio(group, "both", ("unfused",)) for group in found.values()]
    fused = [r for r in over_unfused if r is not None]
    return [
        *lines,
        "",
        f"{', '.join(base[i] for i in (2, 3, 5))}; `compiled` and `eager`: how many times faster than "
        "the best compiled and the best eager PyTorch, forward and backward together; share of bandwidth: of a plain "
        "read and of a copy, on a CPU beside the row; error: against float64. "
        f"{met} of all {len(complete)} settings meet every target measured there; "
        f"`python -m benchmarks.report {name}` lists them. At full bandwidth: what a kernel would reach that moved "
        "no byte twice and used all of the bandwidth measured here."
        + (
            f" A softmax followed by cas_ext takes {min(fused):.1f} to {max(fused):.1f} times as long." if fused else ""
        ),
        "",
    ]


def _cells(key: tuple, group: Group, device_type: str) -> list[str]:
    case, shape, *_ = key
    both = group[OURS, "both"]
    times, shares = [], []
    for phase in ("forward", "backward"):
        row = group.get((OURS, phase))
        times.append(_milliseconds(row["ms"]) if row else "-")
        shares.append(f"{row['share_of_ceiling']:.0%}" if row else "-")
    ratios = [ratio(group, "both", (kind,)) for kind in ("compiled", "eager")]
    return [
        case,
        "x".join(map(str, shape)),
        str(both["regions"]),
        *times,
        " / ".join(shares),
        *("-" if r is None else f"{r:.1f}x" for r in ratios),
        "not finite" if both["rel_error"] is None else f"{both['rel_error']:.0e}",
        "; ".join(missed(group, device_type)).replace("<", "&lt;") or "none",
    ]


def _milliseconds(ms: float) -> str:
    return f"{ms:.2f} ms" if ms >= 1 else f"{1e3 * ms:.1f} us"


def figure_path(results_file: Path, figure: str) -> Path:
    return results_file.parent / "plots" / f"{results_file.stem}-{figure}.svg"


def updated(page: str, text: str, name: str = "performance") -> str:
    """A page with the part between the markers of a section replaced.

    Raises: ValueError where the markers are missing.
    """
    marks = [f"<!-- {name}:{end} -->" for end in ("begin", "end")]
    before, begin, rest = page.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"benchmarks.readme: expected {marks[0]} and {marks[1]} in the page")
    return f"{before}{marks[0]}\n{text}{marks[1]}{after}"


def cost_of_a_call(path: Path) -> str:
    """The table of call_cost.py."""
    if not path.exists():
        return "No results are committed yet: `python -m benchmarks.call_cost` makes them.\n"
    return call_cost.table(report.load(path))


def stale(readme: Path, results: Path) -> list[str]:
    """What `python -m benchmarks.readme` would change of README and the figures, in words."""
    old = readme.read_text()
    found = [] if updated(old, section(results)) == old else [f"{readme.name}: the performance section is out of date"]
    for path in sorted(results.glob("*.json")):
        images = [image for image in (figure_path(path, figure) for figure in FIGURES) if image.exists()]
        if not images:
            found.append(f"{path.name}: its figures are missing")
        found += [f"{i.name}: drawn from other results" for i in images if report.digest(path) not in i.read_text()]
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is stale")
    options = parser.parse_args(argv)
    readme, performance = ROOT / "README.md", ROOT / "docs" / "performance.md"
    old = performance.read_text()
    new = updated(old, cost_of_a_call(CALL_COST), "call-cost")
    if options.check:
        found = stale(readme, RESULTS)
        if new != old:
            found.append(f"{performance.name}: the cost of a call is out of date")
        print("\n".join([*found, "run `make readme-figures`"]) if found else "the pages are up to date")
        return 1 if found else 0
    from .plot import draw  # needs matplotlib, which --check does not

    for path in sorted(RESULTS.glob("*.json")):
        draw(path, RESULTS / "plots")
    readme.write_text(updated(readme.read_text(), section(RESULTS)))
    performance.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
