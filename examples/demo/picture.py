"""demo.png: image, truth and the map of each loss, side by side."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files; needs no display

import matplotlib.pyplot as plt
from torch import Tensor

from .data import Split
from .metrics import Scores

ROWS = 5  # test images shown
CELL = 1.9  # inches a cell of the grid is wide and high
DPI = 130  # pixels an inch


def save_picture(
    path: Path, test: Split, maps: dict[str, Tensor], scores: dict[str, Scores], title: str, caption: str
) -> None:
    """Draw the first test images, one a row: no choosing among them."""
    rows, columns = min(ROWS, len(test)), 2 + len(maps)
    top, bottom = 1.15, 0.75  # inches for the titles and for the caption
    width, height = columns * CELL + 0.2, rows * CELL + top + bottom
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    figure.subplots_adjust(0.1 / width, bottom / height, 1 - 0.1 / width, 1 - top / height, 0.04, 0.04)

    for row in range(rows):
        image = test.images[row].cpu().permute(1, 2, 0).numpy()
        cells = [image.squeeze(), test.masks[row].cpu().numpy(), *(saliency[row].numpy() for saliency in maps.values())]
        for axis, cell in zip(axes[row], cells, strict=True):
            axis.imshow(cell, cmap="gray", vmin=0, vmax=255 if cell.dtype == "uint8" else 1)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(color="0.6", linewidth=0.8)
        for axis, result in zip(axes[row, 2:], scores.values(), strict=True):
            axis.text(
                0.97, 0.03, f"{result.per_image[row]:.2f}", transform=axis.transAxes, ha="right", va="bottom",
                fontsize=8, color="white", bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "linewidth": 0},
            )  # fmt: skip

    headings = [("image", ""), ("truth", "")]
    headings += [(name, rf"$F_\beta$ {s.f_beta:.3f}   MAE {s.mae:.3f}") for name, s in scores.items()]
    for axis, (heading, figures) in zip(axes[0], headings, strict=True):
        axis.set_title(figures, fontsize=10, pad=6)
        axis.annotate(
            heading, (0.5, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom",
            fontsize=12, fontweight="bold",
        )  # fmt: skip
    figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="top", fontsize=13)
    figure.text(0.5, (bottom - 0.12) / height, caption, ha="center", va="top", fontsize=9, color="0.25")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
