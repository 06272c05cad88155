"""The tables and claims of multi-region and texture, from their results.json."""

from __future__ import annotations

import statistics

from . import quoted
from .experiments import PRINTED, TRANSFERRED
from .losses import CAS, SPECS
from .markdown import Content, Run, claims, mean, methods, of, spread, table, values

# Rows of the paper beside ours, by method.
TABLE_3 = {"discriminative": "Discriminative", "triplet": "Triplet", "magnet": "Magnet", PRINTED: "CAS"}
TABLE_4 = {
    f"ce{TRANSFERRED}": "FCN-ResNet101-a-CE",
    f"{PRINTED}{TRANSFERRED}": "FCN-ResNet101-a-CAS",
    PRINTED: "FCN-ResNet101-t-CAS",
}


def _usage(runs: list[Run]) -> list[str]:
    """Regions of an image, codes that they use, and the share of regions that share one."""
    if not runs[0]["scores"]["usage"]:
        return ["-", "-"]
    codes, regions = (mean(runs, "usage", key) for key in ("codes", "regions"))
    return [f"{codes:.2f} of {regions:.2f}", f"{100 * mean(runs, 'usage', 'shared'):.0f}%"]


SWEEP = (
    "The sweep: GT covering on validation images, one seed that is not among those above. First the losses; then, for many "
    "regions, other alphas for the best of each family (a distance with a softmax, or none); then other numbers of outputs:\n"
)
REGION_SCORES = ("covering", "rand", "information", "precision", "contour")
REGION_HEADER = ("GT covering", "Rand index", "VOI, bits", "AP", "contour F")


def _region_row(runs: list[Run], *path: str) -> list[str]:
    return [spread(values(runs, *path, "at", score)) for score in REGION_SCORES]


def _swept(run: Run | None) -> list[str]:
    """Covering and codes in use of one run of the sweep, dashes where there is none."""
    if run is None:
        return ["-", "-"]
    use = run["scores"]["usage"]
    codes = f"{use['codes']:.1f} of {use['regions']:.1f}" if use else "-"
    return [f"{run['scores']['validation']:.3f}", codes]


def sweep_table(content: Content) -> str:
    """Validation covering of every setting tried, with the codes in use."""
    counts = sorted({run["outputs"] for run in content["sweep"]})
    losses = sorted({run["loss"] for run in content["sweep"]}, key=list(SPECS).index)
    by = {(run["loss"], run["outputs"]): run for run in content["sweep"]}
    header = ["loss", "pairs", "distance", "alpha"]
    for count in counts:
        header += [f"M = {count}: covering", "codes"]
    rows = [
        [*setting_columns(loss), *(cell for count in counts for cell in _swept(by.get((loss, count))))]
        for loss in losses
    ]
    return table(header, rows)


def setting_columns(loss: str) -> list[str]:
    """loss, pairs, distance, alpha."""
    if loss not in CAS:
        return [loss, "-", "-", "-"]
    setting = CAS[loss]
    return ["CAS" if setting.softmax else "CAS, no softmax", setting.pairs, setting.distance, f"{setting.alpha}"]


def _base(method: str) -> str:
    """A method without its number of outputs."""
    return method.split(", M = ")[0]


def multi_region(content: Content) -> str:
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
        claims(multi_region_claims(content)),
    ]
    if kinds:
        parts += ["Embeddings by the way of clustering; above is the one that validates best:\n"]
        parts += [table(["loss", "clustering", *REGION_HEADER], kinds)]
    parts += [
        SWEEP,
        sweep_table(content),
    ]
    return "\n".join(parts)


def multi_region_claims(content: Content) -> list[tuple[bool, str]]:
    known = {_base(method): method for method in methods(content)}
    cas = [method for method in methods(content) if method.startswith("cas-")]
    found = []
    if "discriminative" in known and cas:
        rival = of(content, known["discriminative"])
        theirs = [mean(rival, "at", score) for score in ("covering", "rand")]
        ours = {m: [mean(of(content, m), "at", score) for score in ("covering", "rand")] for m in cas}
        winners = [m for m, two in ours.items() if two[0] > theirs[0] and two[1] > theirs[1]]
        best = max(cas, key=lambda m: ours[m][0])
        text = (
            f"with {content['options']['steps']} steps, some CAS setting beats the discriminative loss "
            f"(covering {theirs[0]:.3f}, Rand {theirs[1]:.3f}) in both: "
        )
        named = winners or [f"the best has {ours[best][0]:.3f} and {ours[best][1]:.3f}: {best}"]
        found.append(
            (bool(winners), text + "; ".join(f"`{w}` {_wins(content, w, rival)}" if winners else w for w in named))
        )
    if PRINTED in known:
        shared = mean(of(content, known[PRINTED]), "usage", "shared")
        found.append((shared > 0.1, f"regions share codes under `{PRINTED}`: {100 * shared:.0f}% of them"))
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
            SWEEP,
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
