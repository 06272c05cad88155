"""The figures of a command: curves.svg, from its results.json, and pictures.png, from its runs.

Both carry the digest of the results.json that they belong to.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from benchmarks import plot, report

from .data import Labelled
from .experiments import Plan
from .jobs import PICTURES, Job
from .losses import IGNORED
from .region_scores import contour
from .sources import load

COLORS = (plot.BLUE, plot.VERMILION, plot.GREEN, plot.ORANGE, plot.SKY, plot.PURPLE, plot.GREY)
DASHES = ("-", "--", ":", "-.")
CELL = 1.35  # inches
DPI = 100
HEADING = 17  # characters a line
# Regions: Okabe and Ito's colours and their halves, so that neighbours differ for all eyes.
PALETTE = ListedColormap([
    "#0072B2", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#56B4E9", "#555555",
    "#003958", "#734F00", "#004F39", "#78721F", "#663C53", "#6A2F00", "#2B5A74", "#AAAAAA",
])  # fmt: skip


def _metadata(results: Path) -> dict[str, str | None]:
    return {"Description": f"{results.name}, sha256 {report.digest(results)}"}


def draw_curves(content: dict[str, Any], results: Path, path: Path) -> None:
    """Uniformer and discriminator along the training, averaged over seeds; every loss of codes has them."""
    with plt.rc_context(plot.RC):
        figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharex=True)
        for axes, name in zip(panels, ("uniformer", "discriminator"), strict=True):
            for index, (method, found) in enumerate(content["curves"].items()):
                color, dash = COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]
                axes.plot(found["step"], found[name], dash, color=color, linewidth=1.5, label=method)
            axes.set_xlabel("step")
            axes.set_title(f"{name} of training batches", loc="left", fontsize=9)
        if content["curves"]:  # embeddings have none
            panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None, **_metadata(results)})
        plt.close(figure)


def matched_colours(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Each found region gets the true id that most of its pixels have, so that equal colours mean equal regions."""
    coloured = np.zeros_like(truth)
    for region in np.unique(found):
        inside = found == region
        ids, counts = np.unique(truth[inside], return_counts=True)
        coloured[inside] = ids[counts.argmax()]
    return coloured


def _show_regions(axes: Axes, colours: np.ndarray, regions: np.ndarray) -> None:
    """Regions in their colours, with the lines between them in black: a true region that was cut shows it."""
    shown = np.where(colours == IGNORED, len(PALETTE.colors) - 1, colours % len(PALETTE.colors))
    extent = (-0.5, regions.shape[1] - 0.5, regions.shape[0] - 0.5, -0.5)
    axes.imshow(shown, cmap=PALETTE, vmin=0, vmax=len(PALETTE.colors) - 1, interpolation="nearest", extent=extent)
    lines = contour(regions)
    ink = np.zeros((*lines.shape, 4))
    ink[lines] = (0, 0, 0, 1)
    axes.imshow(ink, interpolation="nearest", extent=extent)


def _grey(axes: Axes, values: np.ndarray, largest: float) -> None:
    axes.imshow(values, cmap="gray", vmin=0, vmax=largest)


def draw_pictures(plan: Plan, runs: Path, results: Path, device: torch.device, path: Path) -> None:
    """The first test images, one a row, with every loss of the first seed at the highest noise: no choosing among them."""
    seed = plan.runs[0].source.seed
    noise = max(job.source.noise for job in plan.runs)
    jobs: dict[str, Job] = {
        job.method: job for job in plan.runs if (job.source.seed, job.source.noise) == (seed, noise)
    }
    maps = {method: np.load(job.folder(runs) / PICTURES) for method, job in jobs.items()}
    test: Labelled = next(iter(load(plan.runs[0].source, device).tests.values()))
    rows, columns = min(len(found) for found in maps.values()), 2 + len(maps)
    with plt.rc_context(plot.RC):
        figure, grid = plt.subplots(
            rows, columns, figsize=(columns * CELL, rows * CELL), squeeze=False, layout="compressed"
        )
        for row in range(rows):
            image = test.images[row].cpu().permute(1, 2, 0).numpy()
            truth = test.labels[row].cpu().numpy().astype(np.int64)
            grid[row, 0].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            saliency = jobs[next(iter(jobs))].judge == "saliency"
            if saliency:
                _grey(grid[row, 1], truth, 1)
            else:
                _show_regions(grid[row, 1], truth, truth)
            for axes, found in zip(grid[row, 2:], maps.values(), strict=True):
                if saliency:
                    _grey(axes, found[row].astype(np.float32), 1)
                else:
                    _show_regions(axes, matched_colours(truth, found[row]), found[row])
        for axes, heading in zip(grid[0], ("image", "truth", *maps), strict=True):
            axes.set_title(fill(heading, HEADING), fontsize=7)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            axes.spines[:].set_visible(True)
        figure.savefig(path, dpi=DPI, metadata=_metadata(results))
        plt.close(figure)
