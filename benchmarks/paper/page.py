"""docs/experiments.md shows the committed results of every command: the parts between its markers are written here.

`python -m benchmarks.paper.page` writes them anew (`--check` only looks whether they are stale). With `--from DIR`, what
`make paper-cpu PAPER_OUT=DIR` wrote (results.json, report.md and figures of every command) is copied to docs/experiments first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks import report as digests
from benchmarks.readme import ROOT, updated

from . import report
from .jobs import JobError
from .markdown import table

PAGE = ROOT / "docs" / "experiments.md"
COMMITTED = ROOT / "docs" / "experiments"
TIME = "time.txt"  # what `time make paper-cpu` printed last, with the machine above it
# Of the page's headings.
ANCHORS = {
    "low-fidelity": "low-fidelity-training-labels-swapped",
    "high-fidelity": "high-fidelity-clean-labels",
    "multi-region": "many-regions-their-number-unknown",
    "texture": "texture",
}
AGAIN = {"multi-region": ("multi-region-200-steps",)}  # run by hand, with fewer steps
FILES = (report.RESULTS, report.REPORT, report.CURVES, report.PICTURES)


def section(command: str, folder: Path) -> str:
    """The part of the page on one command."""
    path = folder / command / report.RESULTS
    if not path.exists():
        return "No results are committed yet: `make paper-cpu` makes them.\n"
    content = digests.load(path)
    return f"{report.text(content)}\n{report.images(content, f'{folder.name}/{command}/')}"


def claims_of(folder: Path, name: str) -> list[tuple[bool, str]]:
    """The claims that the results in a folder of that name are judged by; none without results."""
    path = folder / name / report.RESULTS
    if not path.exists():
        return []
    content = digests.load(path)
    return report.CLAIMS[content["command"]](content)


def summary(folder: Path) -> str:
    """What holds: a line for each claim of every command, and of those that were run again with other settings."""
    rows = []
    for command in report.TITLES:
        for name in (command, *AGAIN.get(command, ())):
            place = (
                f"[{command}](#{ANCHORS[command]})" if name == command else f"[again]({folder.name}/{name}/report.md)"
            )
            rows += [[place, text, "yes" if holds else "**no**"] for holds, text in claims_of(folder, name)]
    if not rows:
        return "No results are committed yet: `make paper-cpu` makes them.\n"
    return table(["experiment", "claim", "holds?"], rows)


def sections(folder: Path) -> dict[str, str]:
    """All parts of the page by the names of their markers."""
    path = folder / TIME
    time = f"```\n{path.read_text()}```\n" if path.exists() else "How long that takes has not been measured.\n"
    return {
        "time": time,
        "summary": summary(folder),
        **{command: section(command, folder) for command in report.TITLES},
    }


def renewed(page: str, folder: Path) -> str:
    """The page with all its parts written anew.

    Raises: ValueError where the markers of a part are missing.
    """
    for name, text in sections(folder).items():
        page = updated(page, text, name)
    return page


def stale(page: Path, folder: Path) -> list[str]:
    """What is out of date, in words: parts of the page, reports, and figures drawn from other results."""
    old = page.read_text()
    found = [
        f"{page.name}: the part on {name} is out of date"
        for name, text in sections(folder).items()
        if updated(old, text, name) != old
    ]
    for results in sorted(folder.glob(f"*/{report.RESULTS}")):
        digest, name = digests.digest(results).encode(), results.parent.name
        for figure in (results.with_name(report.CURVES), results.with_name(report.PICTURES)):
            if not figure.exists() or digest not in figure.read_bytes():
                found.append(f"{name}/{figure.name}: drawn from other results")
        if results.with_name(report.REPORT).read_text() != report.whole(digests.load(results)):
            found.append(f"{name}/{report.REPORT}: written from other results")
    return found


def commit(source: Path, folder: Path) -> None:
    """Copy the four files of every command.

    Raises: JobError, with nothing copied, where one is missing.
    """
    missing = [source / command / name for command in report.TITLES for name in FILES]
    missing = [path for path in missing if not path.is_file()]
    if missing:
        raise JobError(f"{missing[0]}: no such file; `make paper-cpu PAPER_OUT={source}` writes it")
    for command in report.TITLES:
        (folder / command).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(source / command / name, folder / command / name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper.page", description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="what make paper-cpu wrote")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is stale")
    options = parser.parse_args(arguments)
    if options.check:
        found = stale(PAGE, COMMITTED)
        print("\n".join([*found, "run `make readme-figures`"]) if found else "the page is up to date")
        return 1 if found else 0
    if options.source is not None:
        try:
            commit(options.source, COMMITTED)
        except JobError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    for results in COMMITTED.glob(f"*/{report.RESULTS}"):  # its words can change without new results
        results.with_name(report.REPORT).write_text(report.whole(digests.load(results)))
    PAGE.write_text(renewed(PAGE.read_text(), COMMITTED))
    return 0


if __name__ == "__main__":
    sys.exit(main())
