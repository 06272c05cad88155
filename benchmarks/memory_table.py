"""What the file of benchmarks.memory says, in Markdown: cas_ext beside the eager and the compiled version that take least."""

from __future__ import annotations

import os
from pathlib import Path

from .cases import DTYPES, SMALL_CASES
from .tables import changed_since, on

Row = dict
SERIES = {"ours": "cas_ext", "eager": "eager PyTorch", "compiled": "compiled PyTorch"}  # kinds that are shown


def extra_bytes(row: Row) -> int:
    """The most that is held at once beyond input, target and gradient, in forward and backward."""
    return max(row["forward_bytes"], row["step_bytes"])


def input_bytes(row: Row) -> int:
    elements = 1
    for n in row["shape"]:
        elements *= n
    return elements * DTYPES[row["dtype"]].itemsize


def least(result: dict) -> dict[str, dict[str, Row]]:
    """Case -> kind -> the row that takes least. Empty for a file that was not counted by memray."""
    found: dict[str, dict[str, Row]] = {}
    for row in result["rows"] if result.get("memory") == "memray" else []:
        if row["note"] or row["kind"] not in SERIES:
            continue
        case = found.setdefault(row["case"], {})
        if row["kind"] not in case or extra_bytes(row) < extra_bytes(case[row["kind"]]):
            case[row["kind"]] = row
    return {case: rows for case, rows in found.items() if "ours" in rows}


def share(row: Row) -> float:
    return extra_bytes(row) / input_bytes(row)


def percent(value: float) -> str:
    return f"{value:.0%}" if value >= 0.1 else f"{100 * value:.2g}%"


def summary(result: dict) -> str:
    """One sentence."""
    large = [rows for case, rows in least(result).items() if case not in SMALL_CASES]
    small = [(case, rows["ours"]) for case, rows in least(result).items() if case in SMALL_CASES]
    if not large:
        return ""

    def span(kind: str) -> str:
        shares = [share(rows[kind]) for rows in large if kind in rows]
        return f"{percent(min(shares))} to {percent(max(shares))}" if shares else "-"

    ours = span("ours") + " of the input's memory"
    for case, row in small:
        ours += f" (`{case}`: {extra_bytes(row) / 1e3:.0f} KB)"
    return (
        f"At its peak cas_ext takes {ours} beyond input, target and gradient, by a count of every allocation; the most frugal "
        f"version in eager PyTorch takes {span('eager')}, in compiled PyTorch {span('compiled')}."
    )


def table(result: dict) -> list[str]:
    """A line per case."""
    lines = [
        "| case | input | cas_ext: forward alone | forward and backward | eager | compiled |",
        "|---|---|---|---|---|---|",
    ]
    for case, rows in least(result).items():
        ours = rows["ours"]
        size = input_bytes(ours)
        cells = [in_words(size)]
        cells += [f"{in_words(ours[key])} ({percent(ours[key] / size)})" for key in ("forward_bytes", "step_bytes")]
        for kind in ("eager", "compiled"):
            row = rows.get(kind)
            cells.append(f"{in_words(extra_bytes(row))} ({percent(share(row))}), {row['impl']}" if row else "-")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return lines


def in_words(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def section(result: dict, path: Path, page: Path, text: str) -> str:
    """The part of docs/benchmarks.md."""
    return "\n".join(
        [
            "## Memory",
            "",
            f"**{on(result)}**: what a call has allocated and holds at its peak, every allocation counted by "
            "memray: in forward alone beyond input and target, in forward and backward beyond the gradient too. *eager* and "
            "*compiled*: the larger of the two, in the version that takes least. float32, nchw, coherent masks. "
            f"torch {result['torch']}, {result['date'][:10]}: `{result['command']}`",
            "",
            *table(result),
            "",
            changed_since(result),
            "",
            image(path, page, text),
            "",
        ]
    )


def figure_path(path: Path) -> Path:
    """Beside the figures of the other results."""
    return path.parents[1] / "plots" / f"memory-{path.stem}.svg"


def image(path: Path, page: Path, text: str) -> str:
    return f"![{text}]({Path(os.path.relpath(figure_path(path), page.parent)).as_posix()})"
