"""report.md, curves.svg and pictures.png of a command, beside its results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import figures, quoted, tables
from .experiments import Plan
from .jobs import write_text

TITLES = {
    "low-fidelity": ("Low fidelity", quoted.TABLE_1),
    "high-fidelity": ("High fidelity", quoted.TABLE_2),
    "multi-region": ("Multi-region, number of regions unknown", quoted.TABLE_3),
    "texture": ("Texture", quoted.TABLE_4),
}
PROTOCOL = {
    "saliency": (
        "The salient channel is the one most correlated with the clean masks of the validation images. F_beta: beta^2 = 0.3, of "
        "the mask S > 2 mean(S), per image; capped: S >= min(2 mean(S), 1); best: at the one of 256 thresholds that suits the "
        "test set best. MAE of the map; the last column: of the mask, as the authors' code takes it.\n"
    ),
    "regions": (
        "Loss, number of outputs M and alpha are chosen by the GT covering of the validation images of one seed that is not "
        "reported; the clustering, its radius and the smallest region by the same score on each seed's own validation images, "
        "alike for every loss. No choice looks at a test image. The network is not told the number of regions.\n"
    ),
}


def text(content: dict[str, Any]) -> str:
    """The Markdown of report.md below its title: the same on the page that shows it."""
    table = TITLES[content["command"]][1]
    judged = "saliency" if content["command"].endswith("fidelity") else "regions"
    notes = "".join(f"- Table {table.number} of the paper: {note}\n" for note in table.notes)
    return "\n".join([tables.summary(content), PROTOCOL[judged], tables.body(content), notes])


def write(content: dict[str, Any], plan: Plan, out: Path, device: torch.device) -> Path:
    """Write the three files; returns the path of report.md."""
    results = out / "results.json"
    figures.draw_curves(content, results, out / figures.CURVES)
    figures.draw_pictures(plan, out, results, device, out / figures.PICTURES)
    title, _ = TITLES[content["command"]]
    noise = max(run["noise"] for run in content["runs"])
    images = (
        f"![Test images, truth and what each loss makes of them{f', at p = {noise:g}' if noise else ''}]({figures.PICTURES})\n\n"
        f"![Uniformer and discriminator along the training]({figures.CURVES})\n"
    )
    write_text(out / "report.md", f"# {title}\n\n{text(content)}\n{images}")
    return out / "report.md"
