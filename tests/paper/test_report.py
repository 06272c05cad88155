"""What the reports say: numbers of results.json beside the paper's, claims that follow from them, pages that are not stale."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.paper import figures, markdown, page, region_tables, report, results, saliency_tables
from benchmarks.paper.experiments import PRINTED

OPTIONS = {"data": None, "model": "small", "steps": 300, "batch": 8, "seeds": [0, 1]}
VERSIONS = {"device": "a CPU", "torch": "2.13.0", "commit": "0123456789abcdef"}
SETS = {"train": "generated: 400 images", "validation": "50 images", "generated": "generated: 100 images"}
CURVES = {PRINTED: {"step": [0, 10], "uniformer": [0.1, 0.0], "discriminator": [0.0, 0.9]}}


def content(command: str, runs: list, sweep: list = ()) -> dict:
    return {
        "command": command, "options": OPTIONS, "versions": VERSIONS, "sets": SETS, "runs": runs, "sweep": list(sweep),
        "chosen": {}, "curves": CURVES,
    }  # fmt: skip


def saliency_run(method: str, noise: float, seed: int, f: float) -> dict:
    names = ("f_paper", "f_capped", "f_max", "mae", "mae_paper", "s_measure", "e_adaptive", "e_mean", "e_max")
    scores = {"channel": 0, "tests": {"generated": dict.fromkeys(names, 0.125) | {"f_paper": f, "f_max": f + 0.01}}}
    return {"method": method, "loss": method, "outputs": 2, "noise": noise, "seed": seed, "scores": scores}


def low_fidelity(ce: float = 0.1, cas: float = 0.96, clean: float = 0.97, cace: float = 0.95) -> dict:
    by = {("ce", 0.0): 0.97, ("ce", 0.5): ce, ("cace", 0.0): 0.96, ("cace", 0.5): cace}
    by |= {(PRINTED, 0.0): clean, (PRINTED, 0.5): cas}
    runs = [saliency_run(m, noise, s, f + s * 0.01 - 0.005) for s in (0, 1) for (m, noise), f in by.items()]
    return content("low-fidelity", runs)


def region_run(method: str, seed: int, covering: float, rand: float, shared: float | None = None) -> dict:
    at = {"covering": covering, "rand": rand, "information": 1.0, "precision": 0.25, "contour": 0.5}
    best = {"covering": covering, "rand": rand, "information": 1.0, "contour": 0.5}
    codes = shared is not None
    decoder = {"kind": "codes" if codes else "dbscan", "radius": 0.0 if codes else 0.25, "pixels": 24}
    whole = {"at": at, "ods": best, "ois": best, "decoder": decoder}
    usage = {"regions": 5.5, "codes": 5.5 * (1 - shared), "shared": shared} if codes else {}
    scores = {**whole, "validation": covering, "decoders": {decoder["kind"]: whole}, "usage": usage}
    loss, _, outputs = method.partition(", M = ")
    return {"method": method, "loss": loss, "outputs": int(outputs or 2), "noise": 0.0, "seed": seed, "scores": scores}


def multi_region(cas: tuple[float, float] = (0.9, 0.95), shared: float = 0.4) -> dict:
    runs = []
    for seed in (0, 1):
        runs += [
            region_run("cas-mean-log-0.8, M = 8", seed, *cas, 0.0),
            region_run(f"{PRINTED}, M = 8", seed, 0.5, 0.6, shared),
            region_run("discriminative, M = 8", seed, 0.8, 0.9),
        ]
    sweep = [copy.deepcopy(run) | {"seed": 2} for run in runs[:3]]
    return content("multi-region", runs, sweep)


def test_spread_is_mean_and_sample_deviation() -> None:
    assert markdown.spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert markdown.spread([0.5]) == "0.500"
    assert markdown.spread([]) == markdown.spread([0.5, None]) == "-"


def test_low_fidelity_shows_ours_beside_the_papers() -> None:
    text = report.text(low_fidelity())
    assert "**Synthetic analogue.**" in text
    assert "| ce | 0.970 ± 0.007 / 0.980 ± 0.007 | 0.100 ± 0.007 / 0.110 ± 0.007 |" in text
    assert "| cace | 0.950 ± 0.007 | 0.125 ± 0.000 | .872 / .076 |" in text
    assert f"| {PRINTED} | 0.960 ± 0.007 | 0.125 ± 0.000 | .920 / .038 |" in text


def test_real_data_are_called_the_same_data_set() -> None:
    mine = low_fidelity()
    mine["options"] = OPTIONS | {"data": "sets"}
    assert "**Same data set.**" in report.text(mine)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"cas": 0.94, "clean": 0.945}, [False, True, True, False]),
        ({"cas": 0.955, "clean": 0.99}, [True, False, True, True]),
        ({"ce": 0.6}, [True, True, False, True]),
        ({"cace": 0.97}, [True, True, True, False]),
    ],
)
def test_claims_on_noise_follow_the_numbers(changed: dict, expected: list[bool]) -> None:
    found = saliency_tables.low_fidelity_claims(low_fidelity(**changed))
    assert [holds for holds, _ in found] == expected


def claims_of(mine: dict) -> list[bool]:
    return [holds for holds, _ in region_tables.multi_region_claims(mine)]


def test_beating_the_discriminative_loss_takes_both_scores() -> None:
    assert claims_of(multi_region()) == [True, True]
    assert claims_of(multi_region(cas=(0.9, 0.85))) == [False, True]
    assert claims_of(multi_region(cas=(0.7, 0.95))) == [False, True]
    assert claims_of(multi_region(shared=0.05)) == [True, False]


def test_multi_region_shows_collapse_sweep_and_clusterings() -> None:
    text = report.text(multi_region())
    assert "covering +0.100, ahead in 2 of 2 seeds" in text
    assert f"| {PRINTED}, M = 8 | 0.500 ± 0.000 | 0.600 ± 0.000 |" in text
    assert "3.30 of 5.50 | 40% |" in text and "| .71 |" in text and "| .61 |" in text
    assert "| discriminative, M = 8 | dbscan | 0.800" in text
    assert "| CAS | mean | log | 0.8 | 0.900 |" in text and "| CAS | ordered | sqeuclidean | 0.5 | 0.500 |" in text


def test_texture_shows_ods_and_ois_beside_the_papers() -> None:
    runs = [region_run("ce, M = 2", 0, 0.4, 0.5, 0.9), region_run("cas-mean-log, M = 8", 0, 0.8, 0.9, 0.0)]
    text = report.text(content("texture", runs, runs))
    assert "| cas-mean-log, M = 8 | 0.500 / 0.500 | 0.800 / 0.800 |" in text
    assert "| paper: FCN-ResNet101-a-CE | .04 / .04 | .79 / .79 | .55 / .55 | 1.39 / 1.39 |" in text
    assert "**holds**: CAS beats CE" in text


def test_results_hold_a_run_a_line_and_rounded_numbers() -> None:
    mine = results.rounded(low_fidelity(ce=1 / 3))
    text = results.as_json(mine)
    assert json.loads(text) == mine
    assert sum('"method"' in line for line in text.splitlines()) == len(mine["runs"])
    assert "0.328333" in text and "0.3283333" not in text


def write_all(folder: Path) -> None:
    """Results of every command, with stand-ins for pictures."""
    runs = [region_run("ce, M = 2", 0, 0.4, 0.5, 0.9), region_run("cas-mean-log, M = 8", 0, 0.8, 0.9, 0.0)]
    high = low_fidelity() | {"command": "high-fidelity"}
    high["runs"] = [run for run in high["runs"] if run["noise"] == 0]
    for mine in (low_fidelity(), high, multi_region(), content("texture", runs, runs)):
        place = folder / mine["command"]
        place.mkdir(parents=True)
        (place / report.RESULTS).write_text(results.as_json(mine))
        (place / report.REPORT).write_text(report.whole(mine))
        figures.draw_curves(mine, place / report.RESULTS, place / report.CURVES)
        shutil.copyfile(place / report.CURVES, place / report.PICTURES)


def test_stale_pages_reports_and_figures_are_found(tmp_path: Path, monkeypatch, capsys) -> None:
    source, folder, path = (
        tmp_path / "paper-cpu",
        tmp_path / "docs" / "experiments",
        tmp_path / "docs" / "experiments.md",
    )
    monkeypatch.setattr(page, "PAGE", path)
    monkeypatch.setattr(page, "COMMITTED", folder)
    path.parent.mkdir()
    path.write_text(
        "".join(f"# {c}\n<!-- {c}:begin -->\n<!-- {c}:end -->\n" for c in ("time", "summary", *report.TITLES))
    )

    assert page.main(["--from", str(source)]) == 2 and "no such file" in capsys.readouterr().err
    assert page.main([]) == 0 and path.read_text().count("No results are committed yet") == 5
    write_all(source)
    assert page.main(["--from", str(source)]) == 0 and page.main(["--check"]) == 0
    text = path.read_text()
    assert "](experiments/multi-region/curves.svg)" in text and "± 0.007" in text
    assert "| [texture](#texture) | CAS beats CE where ids are arbitrary: GT covering " in text

    (folder / "texture" / report.RESULTS).write_text(
        (folder / "texture" / report.RESULTS).read_text().replace("0.8", "0.7")
    )
    capsys.readouterr()
    assert page.main(["--check"]) == 1
    found = capsys.readouterr().out
    for name in (
        "part on summary",
        "part on texture",
        "texture/curves.svg",
        "texture/pictures.png",
        "texture/report.md",
    ):
        assert name in found
    assert "multi-region" not in found
    assert page.main([]) == 0 and "± 0.007" in path.read_text()
    capsys.readouterr()
    assert page.main(["--check"]) == 1  # figures are drawn with the results, not here
    assert "texture/report.md" not in capsys.readouterr().out
    path.write_text(text.replace("0.960", "0.990"))
    assert page.main(["--check"]) == 1 and "part on low-fidelity" in capsys.readouterr().out
    (folder / page.TIME).write_text("real 12m34s\n")
    assert page.main(["--check"]) == 1 and "part on time" in capsys.readouterr().out
    assert page.main([]) == 0 and "```\nreal 12m34s\n```" in path.read_text()


def test_the_committed_page_is_up_to_date() -> None:
    assert page.stale(page.PAGE, page.COMMITTED) == []


def test_curves_are_the_same_for_the_same_results(tmp_path: Path) -> None:
    (tmp_path / report.RESULTS).write_text(results.as_json(low_fidelity()))
    for name in ("one.svg", "two.svg"):
        figures.draw_curves(low_fidelity(), tmp_path / report.RESULTS, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
