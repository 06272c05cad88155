"""`python -m benchmarks.plot RESULTS... --out DIR`: the figures of docs and README, four per results file, as SVG.

    NAME-share.svg      share of the memory ceiling per case, against the 100% line
    NAME-regions.svg    time against the number of regions  } from the rows of --sweep
    NAME-channels.svg   time against the number of channels }
    NAME-memory.svg     peak extra memory per case, as a share of the input

Colours are Okabe and Ito's, text is a grey that both light and dark pages show, and the background is transparent. A
figure that a file has no rows for is left out.
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
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from . import report
from .cases import DTYPES, SMALL_CASES
from .report import OURS, Row

GREY = "#808080"  # contrast of about 4 on white and 5 on GitHub's dark background
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
# One colour and marker per way of summing; compiled variants are dashed, or hollow.
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
    """Colour, marker and line of an implementation."""
    name = impl.removesuffix("_compiled").removesuffix("_partitioned")
    color, marker = STYLES.get(name, OTHER_STYLE)
    marker = "<" if impl.endswith("_partitioned") else marker
    lines = {"_compiled": "--", "_partitioned": ":"}
    dashes = next((line for suffix, line in lines.items() if impl.endswith(suffix)), "-")
    width, order = (2.5, 3) if impl == OURS else (1.3, 2)
    return {"color": color, "marker": marker, "linestyle": dashes, "linewidth": width, "zorder": order, "markersize": 5}


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
        ("cas_ext, forward (of a read)", "forward", True, BLUE),
        ("cas_ext, backward (of a copy)", "backward", True, SKY),
        ("best other, forward", "forward", False, VERMILION),
        ("best other, backward", "backward", False, ORANGE),
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
    axes.set_ylabel("share of memory bandwidth")
    key = next(iter(found))
    axes.set_title(title(result, f"How close to the memory's limit: {key[2]}, {key[3]}, {key[5]} regions"), loc="left")
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
        axes.plot(*zip(*sorted(points), strict=True), label=impl, **style(impl))
    _logarithmic(axes, sorted({x for points in lines.values() for x, _ in points}))
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
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def memory_figure(result: dict) -> Figure | None:
    """Dots: peak memory beyond input, target and gradient, over the size of the input, by case."""
    rows = [row for row in base_rows(result["rows"]) if row["sweep"] is None and row["phase"] == "both"]
    rows = [row for row in rows if row["peak_extra_bytes"] is not None]
    if not rows:
        return None
    names = list(dict.fromkeys(row["case"] for row in rows))
    impls = list(dict.fromkeys(row["impl"] for row in rows))
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for i, impl in enumerate(impls):
        mine = [row for row in rows if row["impl"] == impl]
        at = [names.index(row["case"]) + 0.6 * (i / max(len(impls) - 1, 1) - 0.5) for row in mine]
        share = [row["peak_extra_bytes"] / input_bytes(row) for row in mine]
        look = style(impl) | {"linestyle": "none"}
        hollow = impl.endswith(("_compiled", "_partitioned"))
        axes.plot(at, share, label=impl, markerfacecolor="none" if hollow else look["color"], **look)
    axes.axhline(0.01, color=GREY, linestyle="--", linewidth=1)
    axes.axhline(1, color=GREY, linestyle="-", linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("extra memory / input")
    axes.set_title(title(result, "Peak memory beyond input, target and gradient (dashed: 1% of the input)"), loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def input_bytes(row: Row) -> int:
    elements = 1
    for n in row["shape"]:
        elements *= n
    return elements * DTYPES[row["dtype"]].itemsize


FIGURES: dict[str, Callable[[dict], Figure | None]] = {
    "share": share_figure,
    "regions": lambda result: sweep_figure(result, "regions"),
    "channels": lambda result: sweep_figure(result, "channels"),
    "memory": memory_figure,
}


def draw(path: Path, out: Path) -> list[Path]:
    """Writes the figures of one results file, each with the file's digest in it; returns their paths."""
    result = report.load(path)
    written = []
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Description": f"{path.name}, sha256 {report.digest(path)}"}
    with matplotlib.rc_context(RC):
        for name, make in FIGURES.items():
            image = out / f"{path.stem}-{name}.svg"
            figure = make(result)
            if figure is None:
                image.unlink(missing_ok=True)
                continue
            figure.savefig(image, bbox_inches="tight", metadata=metadata)
            plt.close(figure)
            written.append(image)
    return written


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    for path in options.results:
        for written in draw(path, options.out):
            print(written)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
