"""`python -m benchmarks.readme` draws the figures of all committed results and writes what README and docs say of them.

README gets a summary, one table and two figures; docs/benchmarks.md every table and figure. `--check` writes nothing and
fails where a page or a figure is stale.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import call_cost, memory_table, report
from .report import OURS, Group, groups, ratio
from .tables import changed_since, described, in_table, legend, on, span, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CALL_COST = RESULTS / "call-cost" / "cpu.json"
MEMORY = RESULTS / "memory" / "cpu.json"
NO_RESULTS = "No results are committed yet: `python -m benchmarks.speed` makes them.\n"
FIGURES = {  # name of the figure (plot.py) -> its text for those who do not see it
    "share": "Speed relative to PyTorch's own read and copy, by case",
    "regions": "Time against the number of regions",
    "channels": "Time against the number of channels",
    "memory": "Peak extra memory, by case",
}


def is_main(result: dict) -> bool:
    """Whether a file has the descriptors themselves, in the cases of the grid."""
    return result.get("activation") != "softmax" and any(row["sweep"] is None for row in result["rows"])


def main_file(files: list[Path]) -> Path | None:
    """The file whose table README shows: of the machine measured last, with the fewest threads."""
    found = {path: report.load(path) for path in files}
    found = {path: result for path, result in found.items() if is_main(result)}
    if not found:
        return None
    newest = max(found.values(), key=lambda result: result["date"])["device"]
    return min(
        (path for path in found if found[path]["device"] == newest), key=lambda path: found[path]["threads"] or 0
    )


def results_files(results: Path) -> list[Path]:
    return sorted(results.glob("*.json"), key=lambda path: path.stem)


def section(results: Path, memory: Path, page: Path) -> str:
    """README's part: what it comes to, what the words mean, one table, two figures."""
    path = main_file(results_files(results))
    if path is None:
        return NO_RESULTS
    result = report.load(path)
    found = groups(row for row in result["rows"] if row["sweep"] is None)
    lines = [summary(result, found, memory), "", legend(result["device_type"]), described(result), ""]
    lines += [*table(path, ROOT, result, found), changed_since(result), "", *_images(path, page, ("share",))]
    if memory.exists():
        lines += ["", memory_table.image(memory, page, FIGURES["memory"])]
    return "\n".join(lines) + "\n"


def all_results(results: Path, memory: Path, page: Path) -> str:
    """docs/benchmarks.md: every table and every figure."""
    files = results_files(results)
    if not files:
        return NO_RESULTS
    parts = [legend(report.load(files[0])["device_type"])]
    parts += [_of_file(path, report.load(path), page) for path in files]
    if memory.exists():
        parts.append(memory_table.section(report.load(memory), memory, page, FIGURES["memory"]))
    return "\n".join(parts)


def summary(result: dict, found: dict[tuple, Group], memory: Path) -> str:
    """Three sentences: against PyTorch, against the memory, and the memory that is taken."""
    shown = [group for key, group in found.items() if in_table(key, next(iter(found))) and (OURS, "both") in group]
    large = [group for group in shown if not report.is_small(group)]
    small = [group for group in shown if report.is_small(group)]

    def times(kind: str, chosen: list[Group]) -> str:
        return (
            span([r for r in (ratio(group, "both", (kind,)) for group in chosen) if r is not None], "{:.1f}") + " times"
        )

    text = (
        f"In the table below ({on(result)}), cas_ext is {times('compiled', large)} as fast as the fastest compiled PyTorch and "
        f"{times('eager', large)} as the fastest eager one, forward and backward together"
    )
    for group in small:
        overhead = f"{times('compiled', [group])} and {times('eager', [group])}"
        text += f" (`{group[OURS, 'both']['case']}`, which is all overhead: {overhead})"
    forward, backward = (
        span([group[OURS, phase]["share_of_ceiling"] for group in large if (OURS, phase) in group], "{:.0%}")
        for phase in ("forward", "backward")
    )
    text += (
        f". Forward runs at {forward} of the speed of PyTorch's own read of the input, backward at {backward} of that of "
        "its own copy."
    )
    return text + (" " + memory_table.summary(report.load(memory)) if memory.exists() else "")


def _of_file(path: Path, result: dict, page: Path) -> str:
    lines = [f"## {path.stem}", "", described(result), ""]
    found = groups(row for row in result["rows"] if row["sweep"] is None)
    if found:
        lines += table(path, ROOT, result, found)
    lines += [changed_since(result), ""]
    second = path.parent / "second-run" / path.name
    if second.exists():
        agreement = report.compare(result, report.load(second))[0].splitlines()[0]
        lines += [
            f"How noisy the machine is, by a second run of a part of it: {agreement} (times over those of cas_ext).",
            "",
        ]
    return "\n".join([*lines, *_images(path, page, tuple(FIGURES))]) + "\n"


def _images(path: Path, page: Path, figures: tuple[str, ...]) -> list[str]:
    return [
        f"![{FIGURES[figure]}]({link(figure_path(path, figure), page)})"
        for figure in figures
        if figure_path(path, figure).exists()
    ]


def link(image: Path, page: Path) -> str:
    return Path(os.path.relpath(image, page.parent)).as_posix()


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


def memory_of_a_call(path: Path) -> str:
    """What docs/performance.md says of the memory."""
    if not path.exists():
        return "No results are committed yet: `python -m benchmarks.memory` makes them.\n"
    return memory_table.summary(report.load(path)) + "\n"


def pages() -> dict[Path, str]:
    """Every page with its generated parts written anew."""
    readme, benchmarks, performance = (
        ROOT / "README.md",
        ROOT / "docs" / "benchmarks.md",
        ROOT / "docs" / "performance.md",
    )
    costs = updated(performance.read_text(), cost_of_a_call(CALL_COST), "call-cost")
    return {
        readme: updated(readme.read_text(), section(RESULTS, MEMORY, readme)),
        benchmarks: updated(benchmarks.read_text(), all_results(RESULTS, MEMORY, benchmarks)),
        performance: updated(costs, memory_of_a_call(MEMORY), "memory"),
    }


def stale() -> list[str]:
    """What `python -m benchmarks.readme` would change of pages and figures, in words."""
    found = [
        f"{page.name}: a generated part is out of date" for page, text in pages().items() if page.read_text() != text
    ]
    drawn = {path: [figure_path(path, figure) for figure in FIGURES] for path in results_files(RESULTS)}
    if MEMORY.exists():
        drawn[MEMORY] = [memory_table.figure_path(MEMORY)]
    for path, figures in drawn.items():
        images = [image for image in figures if image.exists()]
        if not images:
            found.append(f"{path.name}: its figures are missing")
        found += [f"{i.name}: drawn from other results" for i in images if report.digest(path) not in i.read_text()]
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.readme",
        description="Draws the figures of all committed results and writes what README and docs say of them.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is stale")
    options = parser.parse_args(argv)
    if options.check:
        found = stale()
        print("\n".join([*found, "run `make readme-figures`"]) if found else "the pages are up to date")
        return 1 if found else 0
    from .plot import draw, draw_memory  # needs matplotlib, which --check does not

    for path in results_files(RESULTS):
        draw(path, RESULTS / "plots")
    if MEMORY.exists():
        draw_memory(MEMORY, memory_table.figure_path(MEMORY))
    for page, text in pages().items():
        page.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
