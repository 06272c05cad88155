"""report.md, curves.svg and pictures.png of a command, beside its results.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from . import quoted, region_tables, saliency_tables
from .experiments import Plan
from .jobs import write_text
from .markdown import Content, label

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
        "Pairs, alpha and the number of outputs M are chosen by the GT covering of the validation images of one seed that is not "
        "reported; the clustering, its radius and the smallest region by the same score on each seed's own validation images, "
        "alike for every loss. No choice looks at a test image. The network is not told the number of regions.\n"
    ),
}


BODIES: dict[str, Callable[[Content], str]] = {
    "low-fidelity": saliency_tables.low_fidelity,
    "high-fidelity": saliency_tables.high_fidelity,
    "multi-region": region_tables.multi_region,
    "texture": region_tables.texture,
}
CLAIMS: dict[str, Callable[[Content], list[tuple[bool, str]]]] = {
    "low-fidelity": saliency_tables.low_fidelity_claims,
    "high-fidelity": saliency_tables.high_fidelity_claims,
    "multi-region": region_tables.multi_region_claims,
    "texture": region_tables.texture_claims,
}
RESULTS, REPORT, CURVES, PICTURES = "results.json", "report.md", "curves.svg", "pictures.png"


def body(content: Content) -> str:
    """The tables and claims of a command."""
    return BODIES[content["command"]](content)


def summary(content: Content) -> str:
    """What was run, on what, with which versions: one paragraph."""
    options, versions = content["options"], content["versions"]
    sets = "; ".join(f"{'test' if name == 'generated' else name}: {text}" for name, text in content["sets"].items())
    return (
        f"**{label(content).capitalize()}.** {sets}. Model {options['model']}, {options['steps']} steps of "
        f"{options['batch']} images, seeds {', '.join(map(str, options['seeds']))}. {versions['device']}, torch "
        f"{versions['torch']}, commit {(versions['commit'] or 'unknown')[:10]}.\n"
    )


def images(content: Content, folder: str = "") -> str:
    """The figures, as Markdown that lies beside or above their folder."""
    noise = max(run["noise"] for run in content["runs"])
    shown = f", at p = {noise:g}" if noise else ""
    seed = content["options"]["seeds"][0]
    return (
        f"The first test images of seed {seed}{shown}, not chosen, and what each loss makes of them:\n\n"
        f"![Test images, truth and what each loss makes of them{shown}]({folder}{PICTURES})\n\n"
        'Uniformer and discriminator (with pairs "mean") of every loss of codes, averaged over seeds:\n\n'
        f"![Uniformer and discriminator along the training]({folder}{CURVES})\n"
    )


def text(content: Content) -> str:
    """The Markdown of report.md below its title: the same on the page that shows it."""
    table = TITLES[content["command"]][1]
    judged = "saliency" if content["command"].endswith("fidelity") else "regions"
    notes = "".join(f"- Table {table.number} of the paper: {note}\n" for note in table.notes)
    return "\n".join([summary(content), PROTOCOL[judged], body(content), notes])


def whole(content: Content) -> str:
    """report.md."""
    return f"# {TITLES[content['command']][0]}\n\n{text(content)}\n{images(content)}"


def write(content: Content, plan: Plan, runs: Path, out: Path, device: torch.device) -> Path:
    """Write the three files; returns the path of report.md."""
    from . import figures  # needs matplotlib, which the text does not

    results = out / RESULTS
    figures.draw_curves(content, results, out / CURVES)
    figures.draw_pictures(plan, runs, results, device, out / PICTURES)
    write_text(out / REPORT, whole(content))
    return out / REPORT
