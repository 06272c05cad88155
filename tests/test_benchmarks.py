"""benchmarks.speed and benchmarks.call_cost: what they measure, and what they write."""

from __future__ import annotations

import pytest
import torch
from benchmark_results import ARGUMENTS, FIGURES

from benchmarks import call_cost, cases, peers, report, speed

DESCRIBED = {"device", "torch", "cuda", "driver", "commit", "date", "command", "ceilings", "rows"}
AXES = {"case", "dtype", "layout", "labels", "mask", "impl", "phase"}


def test_results_have_the_documented_keys(tiny_results):
    result = report.load(tiny_results)
    assert set(result) >= DESCRIBED and set(result["ceilings"]) == {"read_gbps", "copy_gbps"}
    assert result["threads"] == 1 and result["scale"] == "tiny" and result["rows"]
    assert str(tiny_results) in result["command"]
    for row in result["rows"]:
        assert set(row) >= AXES | FIGURES
        assert row["phase"] in cases.PHASES and row["dtype"] in cases.DTYPES and row["mask"] in cases.MASKS
        assert row["share_of_ceiling"] == pytest.approx(speed.share(row, row["ceilings"]))
        assert row["ms"] > 0 and row["share_of_ceiling"] > 0 and row["rel_error"] <= 1e-5 and row["note"] is None


def test_results_hold_the_grid_that_was_asked_for(tiny_results):
    rows = report.load(tiny_results)["rows"]
    measured = {(row["case"], row["labels"], row["mask"]) for row in rows if row["impl"] == "cas_ext"}
    wanted = {
        (c, label, m)
        for c in ("paper", "voc")
        for label in ("uint8", "int64")
        for m in ("coherent", "random", "ragged")
    }
    assert wanted <= measured
    # Peers: where at most one axis differs from the first value. The authors' formula: two regions only.
    assert not [r for r in rows if r["impl"] == "onehot" and r["labels"] == "int64" and r["mask"] != "coherent"]
    assert {r["regions"] for r in rows if r["impl"] == "authors"} == {2}
    assert {r["sweep"] for r in rows} == {None, "regions", "channels"}


def test_a_missing_gpu_and_an_empty_axis_are_usage_errors(capsys):
    with pytest.raises(SystemExit):
        speed.parse(["--device", "cpu", "--out", "x", "--phases"])
    assert "--phases: expected at least one name" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            speed.parse(["--device", "cuda", "--out", "x"])
        assert "expected a CUDA device, got none" in capsys.readouterr().err


def test_a_peer_that_fails_leaves_a_note_and_the_run_goes_on(monkeypatch, tmp_path):
    def broken(input, target, regions):
        raise NotImplementedError("not on this machine\nmore")

    monkeypatch.setitem(peers.PEERS, "onehot", peers.Peer(broken, "eager"))
    monkeypatch.setattr(speed.machine, "keep_freed_memory", lambda: False)  # outlives the test
    arguments = (
        f"{ARGUMENTS} --cases tiny --masks coherent --peers cas_ext onehot --phases both --out {tmp_path / 'r.json'}"
    )
    assert speed.main(arguments.split()) == 0
    failed = [row for row in report.load(tmp_path / "r.json")["rows"] if row["impl"] == "onehot"]
    assert failed and all(row["ms"] is None for row in failed)
    assert failed[0]["note"] == "NotImplementedError: not on this machine"


def test_logits_are_judged_behind_a_softmax_and_compared_with_the_loss_that_does_not_fuse_it(monkeypatch, tmp_path):
    monkeypatch.setattr(speed.machine, "keep_freed_memory", lambda: False)
    arguments = f"{ARGUMENTS} --cases voc --masks coherent --activation softmax --out {tmp_path / 'r.json'}"
    arguments += " --peers cas_ext cas_ext_unfused scatter_add onehot --phases both"
    assert speed.main(arguments.split()) == 0
    result = report.load(tmp_path / "r.json")
    errors = {row["impl"]: row["rel_error"] for row in result["rows"] if row["dtype"] == "float32"}
    assert set(errors) == {"cas_ext", "cas_ext_unfused", "scatter_add", "onehot"} and max(errors.values()) < 1e-5
    assert result["activation"] == "softmax"
    with pytest.raises(SystemExit):
        speed.parse(["--device", "cpu", "--out", "x", "--peers", "cas_ext_unfused"])


def test_help_names_every_choice_and_default(capsys):
    with pytest.raises(SystemExit):
        speed.parse(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (*cases.SIZES, *cases.MASKS, *cases.SWEEPS, *peers.SOFTMAX_PEERS, "(default: star)", "(default: 0.5)"):
        assert words in text, words


def test_cost_of_a_call_is_taken_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(call_cost, "CALLS", 2)
    monkeypatch.setattr(call_cost, "SAMPLES", 1)
    assert call_cost.main(["--out", str(tmp_path / "cost.json")]) == 0
    us = report.load(tmp_path / "cost.json")["microseconds"]
    assert set(us) == set(call_cost.PARTS) and min(us.values()) > 0
