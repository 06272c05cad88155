"""`python -m benchmarks.plot RESULTS... --out DIR`: the figures of docs and README, up to four per results file, as SVG.

    NAME-share.svg      speed relative to PyTorch's own read and copy, by case
    NAME-regions.svg    time against the number of regions  } from the rows of --sweep
    NAME-channels.svg   time against the number of channels }
    NAME-memory.svg     peak extra memory per case, as a share of the input (CUDA; a CPU's: benchmarks.memory)

Colours are Okabe and Ito's; hollow markers and dashed lines are compiled versions. The background is transparent, and text is
a dark grey, or a light one where the reader prefers dark pages. A figure that a file has no rows for is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from . import memory_table, report
from .cases import SMALL_CASES
from .memory_table import SERIES, input_bytes
from .report import OURS, ResultsError, Row

# No grey has a contrast of 4.5 on white and on GitHub's dark background (#0d1117), so there is one for each.
GREY, LIGHT_GREY = "#6e6e6e", "#a0a0a0"  # contrasts of 5.1 and 7.2
DARK_PAGES = (
    "<style>@media (prefers-color-scheme: dark) {"
    + "".join(f'[style*="{what}: {GREY}"] {{{what}: {LIGHT_GREY} !important}} ' for what in ("fill", "stroke"))
    + "}</style>"
)
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
# One colour and marker per way of summing; compiled versions are dashed and hollow.
STYLES = {
    OURS: (BLUE, "o"),
    "onehot": (VERMILION, "s"),
    "onehot_uncentred": (ORANGE, "D"),
    "scatter_add": (GREEN, "^"),
    "index_add": (PURPLE, "v"),
    "masked_sum": (SKY, "P"),
    "triton": (SKY, "X"),
}
OTHER_STYLE = (GREY, "H")  # a marker that can be hollow
KIND_COLORS = {"ours": BLUE, "eager": VERMILION, "compiled": VERMILION}  # of the best of a kind, whatever way it sums
NAMES = {
    "onehot": "one-hot, einsum",
    "onehot_uncentred": "one-hot, uncentred",
    "masked_sum": "masked sums",
}
RC = {
    "svg.hashsalt": "cas_ext",  # the same file for the same figures
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
    **{"axes.grid": True, "grid.color": GREY, "grid.alpha": 0.25, "axes.axisbelow": True},
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


def base_rows(rows: list[Row]) -> list[Row]:
    """The rows with a time that share the first row's dtype, layout and mask and have the smaller labels."""
    timed = [row for row in rows if row["ms"] is not None]
    if not timed:
        return []
    axes = ("dtype", "layout", "mask")
    small = any(row["labels"] != "int64" for row in timed)
    return [
        row
        for row in timed
        if all(row[axis] == timed[0][axis] for axis in axes) and (row["labels"] != "int64" or not small)
    ]


def style(impl: str) -> dict:
    """Colour, marker, line and name of an implementation."""
    name = impl.removesuffix("_compiled").removesuffix("_partitioned")
    color, marker = STYLES.get(name, OTHER_STYLE)
    lines, words = (
        {"_compiled": "--", "_partitioned": ":"},
        {"_compiled": ", compiled", "_partitioned": ", partitioned"},
    )
    suffix = impl.removeprefix(name)
    width, order = (2.5, 3) if impl == OURS else (1.3, 2)
    return {
        "color": color,
        "marker": marker,
        "markerfacecolor": "none" if suffix else color,
        "markersize": 5,
        "linestyle": lines.get(suffix, "-"),
        "linewidth": width,
        "zorder": order,
        "label": NAMES.get(name, name) + words.get(suffix, ""),
    }


def title(result: dict, text: str) -> str:
    threads = f", {result['threads']} thread{'s' * (result['threads'] != 1)}" if result["threads"] else ""
    scaled = "" if result["scale"] == "full" else ", sizes scaled down"
    text += ", logits" * (result.get("activation") == "softmax")
    return f"{text}\n{result['device']}{threads}{scaled}, torch {result['torch']}"


def share_figure(result: dict) -> Figure | None:
    """Bars: cas_ext and the best PyTorch variant, forward and backward, by case."""
    found = report.groups(row for row in base_rows(result["rows"]) if row["sweep"] is None)
    needed = [(OURS, "forward"), (OURS, "backward")]
    found = {key: g for key, g in found.items() if key[0] not in SMALL_CASES and all(n in g for n in needed)}
    if not found:
        return None
    bars = [
        ("cas_ext, forward / read", "forward", True, BLUE),
        ("cas_ext, backward / copy", "backward", True, SKY),
        ("fastest other, forward / read", "forward", False, VERMILION),
        ("fastest other, backward / copy", "backward", False, ORANGE),
    ]
    figure, axes = plt.subplots(figsize=(8, 3.6))
    width = 0.8 / len(bars)
    for i, (label, phase, ours, color) in enumerate(bars):
        kinds = ("ours",) if ours else ("eager", "compiled", "triton", "library")
        rows = [report.best(group, phase, kinds) for group in found.values()]
        heights = [row["share_of_ceiling"] if row else 0 for row in rows]
        at = [x + (i - (len(bars) - 1) / 2) * width for x in range(len(found))]
        axes.bar(at, heights, width * 0.92, label=label, color=color)
        if ours:
            for x, height in zip(at, heights, strict=True):
                place = (x, 1 if 0.93 < height < 1 else height)  # no number across the line of 100%
                offset = {"xytext": (0, 1), "textcoords": "offset points", "ha": "center"}
                axes.annotate(f"{100 * height:.0f}", place, fontsize=7, color=GREY, **offset)
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    sizes = [("x".join(map(str, shape[:2])), "x".join(map(str, shape[2:]))) for _, shape, *_ in found]
    labels = [f"{key[0]}\n{batch}\n{spatial}" for key, (batch, spatial) in zip(found, sizes, strict=True)]
    axes.set_xticks(range(len(found)), labels)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0, top=max(1.12, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("of the speed of a read / copy")
    key = next(iter(found))
    text = f"Speed relative to PyTorch's own read / copy: {key[2]}, {key[3]}, {key[5]} masks (above 100%: faster than that)"
    axes.set_title(title(result, text), loc="left", fontsize=9)
    axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def sweep_figure(result: dict, sweep: str) -> Figure | None:
    """Lines: time of forward and backward of every implementation, over the regions or the channels."""
    rows = base_rows([row for row in result["rows"] if row["sweep"] == sweep])
    rows = [row for row in rows if row["phase"] == "both" and row["kind"] != "authors"]
    if not rows:
        return None
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        x = row["regions"] if sweep == "regions" else row["shape"][1]
        lines.setdefault(row["impl"], []).append((x, row["ms"]))
    figure, axes = plt.subplots(figsize=(8, 3.8))
    for impl, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), **style(impl))
    _logarithmic(axes, sorted({x for points in lines.values() for x, _ in points}))
    axes.set_ylim(
        bottom=0.5 * min(ms for points in lines.values() for _, ms in points)
    )  # a label below the lowest line
    axes.set_xlabel(sweep)
    axes.set_ylabel("forward + backward, ms")
    batch, channels, *spatial = rows[0]["shape"]
    size = "x".join(map(str, (batch, channels if sweep == "regions" else "M", *spatial)))
    fixed = "" if sweep == "regions" else f", {rows[0]['regions']} regions"
    axes.set_title(title(result, f"Time against {sweep}: {size}{fixed}, {rows[0]['dtype']}"), loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _logarithmic(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def memory_figure(result: dict) -> Figure | None:
    """Of a run on CUDA; what files say of a CPU is left to benchmarks.memory."""
    if result["device_type"] != "cuda":
        return None
    rows = [row for row in base_rows(result["rows"]) if row["sweep"] is None and row["phase"] == "both"]
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for row in rows:
        if row["peak_extra_bytes"] is not None and row["kind"] in SERIES:
            case, size = found.setdefault(row["case"], {}), input_bytes(row)
            share = row["peak_extra_bytes"] / size
            case[row["kind"]] = min(case.get(row["kind"], (share, size)), (share, size))
    return shares_of_memory(result, found)


def memory_figure_of_cpu(result: dict) -> Figure | None:
    """Of the file of benchmarks.memory."""
    return shares_of_memory(
        result,
        {
            case: {kind: (memory_table.share(row), input_bytes(row)) for kind, row in rows.items()}
            for case, rows in memory_table.least(result).items()
        },
    )


def shares_of_memory(result: dict, found: dict[str, dict[str, tuple[float, int]]]) -> Figure | None:
    """Dots: peak memory beyond input, target and gradient, over the size of the input.

    found: case -> kind -> (share, bytes of the input), of the version of its kind that takes least.
    """
    if not found:
        return None
    figure, axes = plt.subplots(figsize=(8, 3.4))
    for i, (kind, name) in enumerate(SERIES.items()):
        here = [(x, rows[kind][0]) for x, rows in enumerate(found.values()) if kind in rows]
        if not here:
            continue
        color = KIND_COLORS[kind]
        marker = {"marker": STYLES[OURS][1] if kind == "ours" else OTHER_STYLE[1], "markersize": 6, "linestyle": "none"}
        fill = "none" if kind == "compiled" else color
        at = [x + 0.2 * (i - 1) for x, _ in here]
        label = name if kind == "ours" else f"{name}, the version that takes least"
        axes.plot(at, [share for _, share in here], color=color, markerfacecolor=fill, label=label, **marker)
        for x, share in zip(at, (share for _, share in here), strict=True):
            offset = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
            axes.annotate(memory_table.percent(share), (x, share), fontsize=7, color=GREY, **offset)
    axes.axhline(0.01, color=GREY, linestyle="--", linewidth=1)
    axes.axhline(1, color=GREY, linestyle="-", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(top=2 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    sizes = [memory_table.in_words(next(iter(rows.values()))[1]) for rows in found.values()]
    axes.set_xticks(range(len(found)), [f"{case}\n{size}" for case, size in zip(found, sizes, strict=True)])
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("extra memory / input")
    text = "Peak memory beyond input, target and gradient, over the input (dashed: 1%)"
    axes.set_title(title(result, text), loc="left", fontsize=9)
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return figure


FIGURES: dict[str, Callable[[dict], Figure | None]] = {
    "share": share_figure,
    "regions": lambda result: sweep_figure(result, "regions"),
    "channels": lambda result: sweep_figure(result, "channels"),
    "memory": memory_figure,
}


def save(figure: Figure, results: Path, image: Path) -> None:
    """Writes a figure with the digest of its results file in it."""
    image.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Description": f"{results.name}, sha256 {report.digest(results)}"}
    figure.savefig(image, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    before, defs, after = image.read_text().partition("<defs>")
    image.write_text(f"{before}{DARK_PAGES}\n {defs}{after}")


def draw(path: Path, out: Path) -> list[Path]:
    """Writes the figures of one results file; returns their paths.

    Raises: ResultsError for a file that is missing or of another kind.
    """
    result = report.load_timings(path)
    written = []
    with matplotlib.rc_context(RC):
        for name, make in FIGURES.items():
            image = out / f"{path.stem}-{name}.svg"
            figure = make(result)
            if figure is None:
                image.unlink(missing_ok=True)
                continue
            save(figure, path, image)
            written.append(image)
    return written


def draw_memory(path: Path, image: Path) -> None:
    """The figure of a file of benchmarks.memory."""
    with matplotlib.rc_context(RC):
        figure = memory_figure_of_cpu(report.load(path))
        if figure is not None:
            save(figure, path, image)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description="Draws the figures of results files, as SVG."
    )
    parser.add_argument("results", nargs="+", type=Path, help="what benchmarks.speed wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    options = parser.parse_args(argv)
    for path in options.results:
        try:
            written = draw(path, options.out)
        except ResultsError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
