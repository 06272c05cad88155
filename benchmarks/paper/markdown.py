"""What the reports are made of: means and deviations over seeds, tables in Markdown, claims that are checked."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Content = dict[str, Any]
Run = dict[str, Any]
GENERATED = "synthetic analogue"
REAL = "same data set"


def label(content: Content) -> str:
    return GENERATED if content["options"]["data"] is None else REAL


def spread(values: Sequence[float | None], digits: int = 3) -> str:
    """Mean +- sample standard deviation; the value alone where there is one, a dash where any is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def methods(content: Content) -> list[str]:
    return list(dict.fromkeys(run["method"] for run in content["runs"]))


def of(content: Content, method: str, **where: Any) -> list[Run]:
    return [r for r in content["runs"] if r["method"] == method and all(r[k] == v for k, v in where.items())]


def values(runs: Iterable[Run], *path: str) -> list[Any]:
    """One score of every run, down a path of keys."""
    found = []
    for run in runs:
        value: Any = run["scores"]
        for key in path:
            value = value[key]
        found.append(value)
    return found


def mean(runs: Iterable[Run], *path: str) -> float:
    return statistics.fmean(values(runs, *path))


def claims(lines: Iterable[tuple[bool, str]]) -> str:
    return "".join(f"- {'**holds**' if holds else '**does not hold**'}: {text}\n" for holds, text in lines)
