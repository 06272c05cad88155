"""What a results.json says, in Markdown: tables of mean +- standard deviation over seeds with the paper's numbers beside
them, and claims that are checked against the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import quoted
from .experiments import PAPER_SETTING, THEN
from .losses import ALPHAS

Content = dict[str, Any]
Run = dict[str, Any]
ENOUGH_F, ENOUGH_NEAR = 0.95, 0.02  # what CAS is to reach under label noise, and how near to its own result without
COLLAPSED_F = 0.5  # a loss has collapsed whose F_beta is below, at the paper's threshold
GENERATED = "synthetic analogue"
REAL = "same data set"
# Rows of the paper beside ours, by method.
TABLE_1 = {"ce": "ResNet-CE", "cace": "ResNet-CACE", "authors": "ResNet-CAS", PAPER_SETTING: "ResNet-CAS"}
TABLE_2 = {"ce": "ResNet-CE", PAPER_SETTING: "ResNet-CAS", f"ce{THEN}{PAPER_SETTING}": "ResNet-CAS"}
TABLE_3 = {"discriminative": "Discriminative", "triplet": "Triplet", "magnet": "Magnet", PAPER_SETTING: "CAS"}
TABLE_4 = {
    f"ce{', trained on salient objects'}": "FCN-ResNet101-a-CE",
    f"{PAPER_SETTING}{', trained on salient objects'}": "FCN-ResNet101-a-CAS",
    PAPER_SETTING: "FCN-ResNet101-t-CAS",
}


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


def sets_of(content: Content) -> list[str]:
    return list(content["runs"][0]["scores"]["tests"])


def _saliency_rows(content: Content, name: str, noise: float, beside: dict[str, str], table_of: Any) -> list[list[str]]:
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


def low_fidelity(content: Content) -> str:
    noises = sorted({run["noise"] for run in content["runs"]})
    most = noises[-1]
    parts = []
    for name in sets_of(content):
        by_noise = [
            [m, *(spread(values(of(content, m, noise=p), "tests", name, "f_paper")) for p in noises)]
            for m in methods(content)
        ]
        parts += [
            f"F_beta at the paper's threshold, by the share p of training images with swapped labels ({name}):\n",
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
    if PAPER_SETTING in methods(content):
        noisy = f(PAPER_SETTING, most)
        found.append(
            (noisy >= ENOUGH_F, f"`{PAPER_SETTING}` reaches F_beta {noisy:.3f} at p = {most:g}; asked: {ENOUGH_F}")
        )
        if noises[0] == 0 < most:
            gap = abs(noisy - f(PAPER_SETTING, 0.0))
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
    if "cace" in methods(content) and PAPER_SETTING in methods(content):
        ours, theirs = f(PAPER_SETTING, most), f("cace", most)
        found.append(
            (
                ours > theirs,
                f"`{PAPER_SETTING}` beats per-image `cace` at p = {most:g}: {ours:.3f} against {theirs:.3f}",
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
    pretrained = f"ce{THEN}{PAPER_SETTING}"
    found = []
    for one, other in ((PAPER_SETTING, "ce"), (pretrained, PAPER_SETTING)):
        if one in known and other in known:
            a, b = (mean(of(content, method), "tests", name, "f_paper") for method in (one, other))
            found.append((a > b, f"`{one}` beats `{other}`: F_beta {a:.3f} against {b:.3f}"))
    return found


def _usage(runs: list[Run]) -> list[str]:
    """Regions of an image, codes that they use, and the share of regions that share one."""
    if not runs[0]["scores"]["usage"]:
        return ["-", "-"]
    codes, regions = (mean(runs, "usage", key) for key in ("codes", "regions"))
    return [f"{codes:.2f} of {regions:.2f}", f"{100 * mean(runs, 'usage', 'shared'):.0f}%"]


REGION_SCORES = ("covering", "rand", "information", "precision", "contour")
REGION_HEADER = ("GT covering", "Rand index", "VOI, bits", "AP", "contour F")


def decoding(scores: dict[str, Any]) -> str:
    one = scores["decoder"]
    radius = "" if one["kind"] == "codes" else f", radius {one['radius']:.2g}"
    return f"{one['kind']}{radius}, {one['pixels']} px"


def _region_row(runs: list[Run], *path: str) -> list[str]:
    return [spread(values(runs, *path, "at", score)) for score in REGION_SCORES]


def sweep_table(content: Content) -> str:
    """Validation covering of every setting tried, with the codes in use."""
    counts = sorted({run["outputs"] for run in content["sweep"]})
    losses = list(dict.fromkeys(run["loss"] for run in content["sweep"]))
    by = {(run["loss"], run["outputs"]): run["scores"] for run in content["sweep"]}
    rows = []
    for loss in losses:
        cells = []
        for count in counts:
            scores = by[loss, count]
            use = scores["usage"]
            cells += [f"{scores['validation']:.3f}", f"{use['codes']:.1f} of {use['regions']:.1f}" if use else "-"]
        rows.append([*setting_columns(loss), *cells])
    header = ["loss", "pairs", "distance", "alpha"]
    for count in counts:
        header += [f"M = {count}: covering", "codes"]
    return table(header, rows)


def setting_columns(loss: str) -> list[str]:
    """loss, pairs, distance, alpha."""
    if not loss.startswith("cas-"):
        return [loss, "-", "-", "-"]
    _, pairs, distance, *alpha = loss.split("-")
    return ["cas", pairs, distance, alpha[0] if alpha else f"{ALPHAS[1]}"]


def _base(method: str) -> str:
    """A method without its number of outputs."""
    return method.split(", M = ")[0]


def multi_region(content: Content) -> str:
    known = {_base(method): method for method in methods(content)}
    rows, kinds = [], []
    for method in methods(content):
        runs = of(content, method)
        theirs = TABLE_3.get(_base(method))
        paper = "-" if theirs is None else quoted.number(quoted.TABLE_3.rows[theirs][0], 2)
        row = _region_row(runs)
        rows.append([method, *row[:4], paper, row[4], *_usage(runs)])
        for kind in runs[0]["scores"]["decoders"]:
            if kind != "codes":
                kinds.append([method, kind, *_region_row(runs, "decoders", kind)])
    header = ["loss", *REGION_HEADER[:4], "paper: AP, VOC", REGION_HEADER[4], "codes of regions", "regions that share"]
    parts = [
        f"Scores on the test images, {len(content['options']['seeds'])} seeds:\n",
        table(header, rows),
        claims(multi_region_claims(content, known)),
    ]
    if kinds:
        parts += ["Embeddings by the way of clustering; above is the one that validates best:\n"]
        parts += [table(["loss", "clustering", *REGION_HEADER], kinds)]
    parts += [
        "The sweep: GT covering on validation images, one seed that is not among those above:\n",
        sweep_table(content),
    ]
    return "\n".join(parts)


def multi_region_claims(content: Content, known: dict[str, str]) -> list[tuple[bool, str]]:
    cas = [method for method in methods(content) if method.startswith("cas-")]
    found = []
    if "discriminative" in known and cas:
        rival = of(content, known["discriminative"])
        theirs = [mean(rival, "at", score) for score in ("covering", "rand")]
        ours = {m: [mean(of(content, m), "at", score) for score in ("covering", "rand")] for m in cas}
        winners = [m for m, two in ours.items() if two[0] > theirs[0] and two[1] > theirs[1]]
        best = max(cas, key=lambda m: ours[m][0])
        text = (
            f"some CAS setting beats the discriminative loss (covering {theirs[0]:.3f}, Rand {theirs[1]:.3f}) in both: "
        )
        named = winners or [f"the best has {ours[best][0]:.3f} and {ours[best][1]:.3f}: {best}"]
        found.append(
            (bool(winners), text + "; ".join(f"`{w}` {_wins(content, w, rival)}" if winners else w for w in named))
        )
    if PAPER_SETTING in known:
        shared = mean(of(content, known[PAPER_SETTING]), "usage", "shared")
        found.append((shared > 0.1, f"regions share codes under `{PAPER_SETTING}`: {100 * shared:.0f}% of them"))
    return found


def _wins(content: Content, method: str, rival: list[Run]) -> str:
    """By how much a method beats a rival, and for how many seeds."""
    mine = {run["seed"]: run["scores"]["at"] for run in of(content, method)}
    words = []
    for score in ("covering", "rand"):
        gaps = [mine[run["seed"]][score] - run["scores"]["at"][score] for run in rival]
        words.append(f"{score} {statistics.fmean(gaps):+.3f}, ahead in {sum(g > 0 for g in gaps)} of {len(gaps)} seeds")
    return f"({'; '.join(words)})"


def texture(content: Content) -> str:
    rows = []
    for method in methods(content):
        runs = of(content, method)
        pairs = [
            f"{spread(values(runs, 'ods', score))} / {spread(values(runs, 'ois', score))}"
            for score in ("contour", "covering", "rand", "information")
        ]
        rows.append([method, *pairs, *_usage(runs)])
    theirs = [[f"paper: {row}", *_quoted_pairs(row), "-", "-"] for row in TABLE_4.values()]
    header = [
        "loss",
        "contour F, ODS / OIS",
        "GT covering",
        "Rand index",
        "VOI, bits",
        "codes of regions",
        "regions that share",
    ]
    at = [[method, *_region_row(of(content, method))] for method in methods(content)]
    return "\n".join(
        [
            "ODS and OIS, over the size of the smallest region, which by definition is chosen on the test images:\n",
            table(header, [*rows, *theirs]),
            "At the size chosen on the validation images:\n",
            table(["loss", *REGION_HEADER], at),
            claims(texture_claims(content)),
            "The sweep: GT covering on validation images, one seed that is not among those above:\n",
            sweep_table(content),
        ]
    )


def _quoted_pairs(row: str) -> list[str]:
    numbers = [quoted.number(value, 2) for value in quoted.TABLE_4.rows[row]]
    return [f"{numbers[i]} / {numbers[i + 1]}" for i in range(0, len(numbers), 2)]


def texture_claims(content: Content) -> list[tuple[bool, str]]:
    trained = [method for method in methods(content) if ", M = " in method]
    ce = [method for method in trained if _base(method) == "ce"]
    cas = [method for method in trained if method.startswith("cas-")]
    if not (ce and cas):
        return []
    score = {method: mean(of(content, method), "at", "covering") for method in trained}
    best = max(cas, key=score.__getitem__)
    return [
        (
            score[best] > score[ce[0]],
            f"CAS beats CE where ids are arbitrary: GT covering {score[best]:.3f} (`{best}`) against {score[ce[0]]:.3f}",
        )
    ]


BODIES: dict[str, Callable[[Content], str]] = {
    "low-fidelity": low_fidelity,
    "high-fidelity": high_fidelity,
    "multi-region": multi_region,
    "texture": texture,
}


def body(content: Content) -> str:
    """The tables and claims of a command."""
    return BODIES[content["command"]](content)


def summary(content: Content) -> str:
    """What was run, on what, with which versions: one paragraph."""
    options, versions = content["options"], content["versions"]
    sets = "; ".join(f"{name}: {text}" for name, text in content["sets"].items())
    return (
        f"**{label(content).capitalize()}.** {sets}. Model {options['model']}, {options['steps']} steps of "
        f"{options['batch']} images, seeds {', '.join(map(str, options['seeds']))}. {versions['device']}, torch "
        f"{versions['torch']}, commit {(versions['commit'] or 'unknown')[:10]}.\n"
    )
