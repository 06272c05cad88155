"""The tables and claims of low-fidelity and high-fidelity, from their results.json."""

from __future__ import annotations

from . import quoted
from .experiments import PRINTED, THEN
from .markdown import Content, claims, mean, methods, of, spread, table, values

ENOUGH_F, ENOUGH_NEAR = 0.95, 0.02  # what CAS is to reach under label noise, and how near to its own result without
COLLAPSED_F = 0.5  # a loss has collapsed whose F_beta is below, at the paper's threshold
# Rows of the paper beside ours, by method.
TABLE_1 = {"ce": "ResNet-CE", "cace": "ResNet-CACE", "authors": "ResNet-CAS", PRINTED: "ResNet-CAS"}
TABLE_2 = {"ce": "ResNet-CE", PRINTED: "ResNet-CAS", f"ce{THEN}{PRINTED}": "ResNet-CAS"}


def sets_of(content: Content) -> list[str]:
    return list(content["runs"][0]["scores"]["tests"])


def _saliency_rows(
    content: Content, name: str, noise: float, beside: dict[str, str], table_of: quoted.QuotedTable
) -> list[list[str]]:
    rows = []
    for method in methods(content):
        runs = of(content, method, noise=noise)
        scores = [
            spread(values(runs, "tests", name, score))
            for score in ("f_paper", "mae", "f_capped", "f_max", "s_measure", "e_mean", "mae_paper")
        ]
        column = name if name in quoted.SALIENCY else quoted.SALIENCY[0]
        theirs = quoted.saliency_cell(table_of, beside[method], column) if method in beside else "-"
        rows.append([method, *scores[:2], theirs, *scores[2:]])
    return rows


SALIENCY_HEADER = (
    "loss", "F_beta", "MAE", "paper: F_beta / MAE", "F_beta, capped", "best F_beta", "S", "E", "MAE of the mask",
)  # fmt: skip


def _both_thresholds(content: Content, method: str, name: str, noise: float) -> str:
    runs = of(content, method, noise=noise)
    return " / ".join(spread(values(runs, "tests", name, score)) for score in ("f_paper", "f_max"))


def low_fidelity(content: Content) -> str:
    noises = sorted({run["noise"] for run in content["runs"]})
    most = noises[-1]
    parts = []
    for name in sets_of(content):
        by_noise = [
            [method, *(_both_thresholds(content, method, name, p) for p in noises)] for method in methods(content)
        ]
        parts += [
            "F_beta at the paper's threshold / at the best one for the test set, by the share p of training images with swapped "
            f"labels ({name}):\n",
            table(["loss", *(f"p = {p:g}" for p in noises)], by_noise),
            f"All scores at p = {most:g} ({name}); the paper's at p = 0.5, ResNet-101, "
            f"{name if name in quoted.SALIENCY else quoted.SALIENCY[0]}:\n",
            table(SALIENCY_HEADER, _saliency_rows(content, name, most, TABLE_1, quoted.TABLE_1)),
        ]
    return "\n".join([*parts, claims(low_fidelity_claims(content))])


def low_fidelity_claims(content: Content) -> list[tuple[bool, str]]:
    name = sets_of(content)[0]
    noises = sorted({run["noise"] for run in content["runs"]})

    def f(method: str, noise: float) -> float:
        return mean(of(content, method, noise=noise), "tests", name, "f_paper")

    most, found = noises[-1], []
    if PRINTED in methods(content):
        noisy = f(PRINTED, most)
        found.append((noisy >= ENOUGH_F, f"`{PRINTED}` reaches F_beta {noisy:.3f} at p = {most:g}; asked: {ENOUGH_F}"))
        if noises[0] == 0 < most:
            gap = abs(noisy - f(PRINTED, 0.0))
            found.append((gap <= ENOUGH_NEAR, f"that is {gap:.3f} from its own result at p = 0; asked: {ENOUGH_NEAR}"))
    if "ce" in methods(content) and most > 0:
        value = f("ce", most)
        best = mean(of(content, "ce", noise=most), "tests", name, "f_max")
        found.append(
            (
                value < COLLAPSED_F,
                f"`ce` collapses at p = {most:g}: F_beta {value:.3f}, {best:.3f} at the best threshold",
            )
        )
    if "cace" in methods(content) and PRINTED in methods(content):
        ours, theirs = f(PRINTED, most), f("cace", most)
        found.append(
            (
                ours > theirs,
                f"`{PRINTED}` beats per-image `cace` at p = {most:g}: {ours:.3f} against {theirs:.3f}",
            )
        )
    return found


def high_fidelity(content: Content) -> str:
    parts = []
    for name in sets_of(content):
        parts += [
            f"Clean labels ({name}); the paper's: ResNet-101, "
            f"{name if name in quoted.SALIENCY else quoted.SALIENCY[0]}, its best training set:\n",
            table(SALIENCY_HEADER, _saliency_rows(content, name, 0.0, TABLE_2, quoted.TABLE_2)),
        ]
    return "\n".join([*parts, claims(high_fidelity_claims(content))])


def high_fidelity_claims(content: Content) -> list[tuple[bool, str]]:
    name, known = sets_of(content)[0], methods(content)
    pretrained = f"ce{THEN}{PRINTED}"
    found = []
    for one, other in ((PRINTED, "ce"), (pretrained, PRINTED)):
        if one in known and other in known:
            a, b = (mean(of(content, method), "tests", name, "f_paper") for method in (one, other))
            found.append((a > b, f"`{one}` beats `{other}`: F_beta {a:.3f} against {b:.3f}"))
    return found
