"""The benchmark suite: peers compute the same loss, masks and files are what they claim to be, the programs run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from tolerances import TOLERANCE

import cas_ext
from benchmarks import call_cost, cases, masks, measure, oracle, peers, readme, report, speed
from benchmarks.cases import Setting

# Peers sum in float32 in whatever order: some hundred roundings. In half precision the gradient is rounded once more.
PEER_TOLERANCE = {"float32": 2e-5, "bfloat16": TOLERANCE[torch.bfloat16].rounding + 2e-5}
CPU_PEERS = [name for name, peer in peers.PEERS.items() if not peer.cuda_only and peer.why_unavailable() is None]
EAGER_PEERS = [name for name in CPU_PEERS if not peers.PEERS[name].compile]
COMPILED_PEERS = [name for name in CPU_PEERS if peers.PEERS[name].compile]
DESCRIBED = {"device", "torch", "cuda", "driver", "commit", "date", "command", "ceilings", "rows"}
AXES = {"case", "dtype", "layout", "labels", "mask", "impl", "phase"}
FIGURES = {"ms", "eager_ms", "gbps", "share_of_ceiling", "rel_error", "peak_extra_bytes"}
ARGUMENTS = "--device cpu --scale tiny --budget 0.002 --dtypes float32 --layouts nchw --labels small int64"


def setting(name="voc", **changes):
    axes = {"dtype": "float32", "layout": "nchw", "labels": "small", "mask": "random"} | changes
    return Setting(cases.case(name, "tiny"), **axes)


def judged(loss, case_setting, judge=None):
    """(error of the loss, error of the gradient)."""
    input, target = cases.make_input(case_setting, "cpu"), cases.make_target(case_setting, "cpu")
    judge = (judge or oracle.Oracle)(input, target, case_setting.case.regions)
    value = loss(input, target, case_setting.case.regions)
    return judge.loss_error(value), judge.gradient_error(measure.gradient_of(value, input))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize(
    "name", [name for name in EAGER_PEERS if peers.PEERS[name].kind in ("ours", "eager", "library")]
)
def test_eager_peer_agrees_with_the_reference(name, layout, dtype):
    # The reference computes in the dtype of its input, so in bfloat16 it is no peer.
    if (name, dtype) == ("reference", "bfloat16"):
        return
    for case_name, mask in (("voc", "random"), ("volume", "coherent"), ("paper", "absent"), ("voc", "absent")):
        of_loss, of_gradient = judged(peers.PEERS[name].loss, setting(case_name, dtype=dtype, layout=layout, mask=mask))
        assert of_loss <= PEER_TOLERANCE["float32"]
        assert of_gradient <= PEER_TOLERANCE[dtype]


def judged_after_compilation(name):
    peer = peers.PEERS[name]
    judge = (lambda *tensors: oracle.OwnFormula(peer.loss, *tensors)) if peer.kind == "authors" else None
    torch._dynamo.reset()
    return judged(peer.build(), setting("paper" if peer.max_regions == 2 else "voc"), judge)


@pytest.mark.parametrize("name", COMPILED_PEERS)
def test_compiled_peer_is_one_graph_that_agrees_with_the_reference(monkeypatch, name):
    compile = torch.compile

    def without_inductor(loss, *, options, **arguments):  # which would take seconds a peer
        return compile(loss, backend="aot_eager", **arguments)

    monkeypatch.setattr(torch, "compile", without_inductor)
    assert max(judged_after_compilation(name)) <= PEER_TOLERANCE["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED_PEERS)
def test_compiled_peer_agrees_with_the_reference(name):
    assert max(judged_after_compilation(name)) <= PEER_TOLERANCE["float32"]


def test_the_authors_formula_on_a_hand_computed_image():
    # Foreground {1, 3}: mean 2, variance 1. Background {5, 5}. 0.5 * 1 - 0.5 * (2 - 5)^2 = -4, but for the epsilon.
    input = torch.tensor([1.0, 3.0, 5.0, 5.0]).reshape(1, 1, 2, 2)
    target = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).reshape(1, 2, 2)
    assert peers.authors(input, target, 2).item() == pytest.approx(-4, abs=1e-3)
    assert peers.authors(input, target, 2).item() != -4


@pytest.mark.parametrize("mask", ["random", "absent", "giant"])
def test_the_streaming_oracle_equals_the_reference(mask):
    case_setting = setting("voc", mask=mask)
    input, target = cases.make_input(case_setting, "cpu"), cases.make_target(case_setting, "cpu")
    wide = input.detach().double().requires_grad_()
    expected = cas_ext.reference.cas_loss(wide, target, num_regions=20)
    found = oracle.Oracle(input, target, 20)
    assert found.loss_error(expected) <= 1e-12
    assert found.gradient_error(measure.gradient_of(expected, wide)) <= 1e-12
    assert found.gradient_error(torch.full_like(wide, float("nan"))) != found.gradient_error(wide)


def changes_along_rows(mask):
    return (mask[..., 1:] != mask[..., :-1]).float().mean().item()


@pytest.mark.parametrize("shape", [(3, 64, 48), (1, 24, 20, 16)], ids=["image", "volume"])
@pytest.mark.parametrize("regions", [2, 7, 60])
def test_masks_are_what_their_names_say(shape, regions):
    def make(kind):
        mask = masks.make_mask(kind, shape, regions)
        assert mask.shape == shape and mask.min() >= 0 and mask.max() < regions
        assert torch.equal(mask, masks.make_mask(kind, shape, regions))
        return mask

    coherent, absent = make("coherent"), make("absent")
    assert all(len(image.unique()) == regions for image in coherent)
    assert changes_along_rows(coherent) < 0.35 and changes_along_rows(absent) < 0.35
    assert all(len(image.unique()) <= (regions + 1) // 2 for image in absent)
    assert changes_along_rows(make("random")) == pytest.approx(1 - 1 / regions, abs=0.05)
    assert changes_along_rows(make("checkerboard")) == 1
    for image in make("giant"):
        counts = image.flatten().bincount(minlength=regions)
        assert counts[0] == image.numel() - (regions - 1) and (counts[1:] == 1).all()


def test_ragged_images_have_no_multiple_of_8_pixels():
    for name in cases.SIZES:
        for scale in cases.SCALES:
            ragged = cases.case(name, scale).ragged()
            assert ragged.pixels // ragged.shape[0] % 2 == 1
            assert ragged.shape[:2] == cases.case(name, scale).shape[:2]


def test_inputs_are_random_leaves_of_the_layout_asked_for():
    input = cases.make_input(setting(layout="channels_last", dtype="bfloat16"), "cpu")
    assert input.requires_grad and input.is_leaf and input.dtype == torch.bfloat16
    assert input.is_contiguous(memory_format=torch.channels_last)
    assert input.detach().float().std() > 0.5
    assert cases.make_target(setting("superpixel"), "cpu").dtype == torch.int16


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results file of the command-line program, on sizes that take no time."""
    path = tmp_path_factory.mktemp("results") / "tiny.json"
    chosen = "--threads 1 --cases paper voc --masks coherent random ragged --sweep regions channels"
    chosen += " --peers cas_ext onehot authors"
    command = [sys.executable, "-m", "benchmarks.speed", *ARGUMENTS.split(), *chosen.split(), "--out", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=readme.ROOT)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
    assert "x compiled" in process.stdout and "error" in process.stdout
    return path


def test_results_have_the_documented_keys(results):
    result = report.load(results)
    assert set(result) >= DESCRIBED and set(result["ceilings"]) == {"read_gbps", "copy_gbps"}
    assert result["threads"] == 1 and result["scale"] == "tiny" and result["rows"]
    assert str(results) in result["command"]
    for row in result["rows"]:
        assert set(row) >= AXES | FIGURES
        assert row["phase"] in cases.PHASES and row["dtype"] in cases.DTYPES and row["mask"] in cases.MASKS
        assert row["ms"] > 0 and row["share_of_ceiling"] > 0 and row["rel_error"] <= 1e-5 and row["note"] is None


def test_results_hold_the_grid_that_was_asked_for(results):
    rows = report.load(results)["rows"]
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


def row(impl, kind, ms, phase="both", **changes):
    base = {"case": "paper", "shape": [40, 2, 256, 256], "regions": 2, "sweep": None, "dtype": "float32"}
    base |= {"layout": "nchw", "labels": "uint8", "mask": "coherent", "impl": impl, "kind": kind, "phase": phase}
    base |= {"ms": ms, "eager_ms": ms, "share_of_ceiling": 0.8, "rel_error": 1e-7, "peak_extra_bytes": 0}
    return base | changes


def made_up(*rows):
    ceilings = {"read_gbps": 10.0, "copy_gbps": 8.0}
    described = {"device": "A", "torch": "2", "date": "2026-01-01", "commit": None, "threads": 1, "scale": "cpu"}
    described["command"] = "python -m benchmarks.speed"
    return {**described, "device_type": "cpu", "ceilings": ceilings, "unavailable_peers": {}, "rows": list(rows)}


def test_a_missed_target_is_named():
    rows = [row("cas_ext", "ours", 1.0), row("cas_ext", "ours", 1.0, "forward", share_of_ceiling=0.5)]
    rows += [
        row("scatter_add", "eager", 13.0),
        row("onehot", "eager", 2.0),
        row("a", "compiled", 9.0),
        row("b", "compiled", 8.0),
    ]
    (group,) = report.groups(rows).values()
    assert report.missed(group, "cpu") == ["forward 50% < 70%", "13.0x scatter_add < 14x"]
    assert report.missed(group, "cuda") == ["forward 50% < 92%", "2.0x eager < 10x"]
    adversarial = [{**r, "mask": "random"} for r in rows]
    assert report.missed(next(iter(report.groups(adversarial).values())), "cpu") == ["13.0x scatter_add < 14x"]
    assert "13.0x scatter_add < 14x" in report.summary(made_up(*rows))


def test_a_missed_ratio_is_told_with_what_the_bandwidth_allows():
    rows = [row("cas_ext", "ours", 3.0), row("scatter_add", "eager", 26.0), row("a", "compiled", 12.0)]
    rows += [row("cas_ext", "ours", 1.0, "forward", share_of_ceiling=0.6)]
    rows += [row("cas_ext", "ours", 2.0, "backward", share_of_ceiling=0.7)]  # 2 ms in all at the ceilings
    assert report.missed(next(iter(report.groups(rows).values())), "cpu") == [
        "forward 60% < 70%",
        "4.0x compiled < 5x (at full bandwidth 6.0x)",
        "8.7x scatter_add < 14x (at full bandwidth 13.0x)",
    ]


def test_a_share_just_below_its_target_does_not_look_equal():
    rows = [row("cas_ext", "ours", 1.0, "forward", share_of_ceiling=0.697)]
    assert report.missed(next(iter(report.groups(rows).values())), "cpu") == ["forward 69.7% < 70.0%"]


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


def test_a_softmax_that_hardly_pays_is_named():
    rows = [row("cas_ext", "ours", 1.0), row("cas_ext_unfused", "unfused", 1.8)]
    assert report.missed(next(iter(report.groups(rows).values())), "cpu") == ["1.8x unfused < 2x"]


def test_shares_are_of_the_higher_ceiling_and_of_the_bytes_of_their_phase():
    """40 x 256 x 256 pixels of 2 floats and a byte: 23.6 MB read, and 21.0 MB written by the backward."""
    times = {"forward": 10.0, "backward": 20.0, "both": 30.0}
    result = made_up(*(row("cas_ext", "ours", ms, phase) for phase, ms in times.items()))
    result["ceilings_at_start"] = {"read_gbps": 5.0, "copy_gbps": 8.0}
    speed.settle(result, {"read_gbps": 10.0, "copy_gbps": 4.0})
    assert result["ceilings"] == {"read_gbps": 10.0, "copy_gbps": 8.0}
    pixels = 40 * 256 * 256
    forward, backward = pixels * 9 / 10e9, pixels * 17 / 8e9
    expected = {"forward": forward / 0.010, "backward": backward / 0.020, "both": (forward + backward) / 0.030}
    shares = {row["phase"]: row["share_of_ceiling"] for row in result["rows"]}
    assert shares == pytest.approx(expected)


def test_two_runs_are_compared_by_their_ratios():
    first = made_up(row("cas_ext", "ours", 1.0), row("onehot", "eager", 10.0))
    same = made_up(row("cas_ext", "ours", 2.0), row("onehot", "eager", 21.0))
    other = made_up(row("cas_ext", "ours", 1.0), row("onehot", "eager", 12.0))
    assert report.compare(first, same)[1]
    text, agree = report.compare(first, other)
    assert not agree and "10.00 and 12.00" in text


def test_plots_are_written_as_svg_from_a_run(results, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    assert plot.main([str(results), "--out", str(tmp_path)]) == 0
    images = sorted(path.name for path in tmp_path.iterdir())
    assert images == [f"tiny-{name}.svg" for name in ("channels", "memory", "regions", "share")]
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.count("<svg") == 1 and report.digest(results) in text
        assert "fill: #ffffff" not in text, "the background must be transparent"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plot.main([str(results), "--out", str(tmp_path)])
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}, "the same results, another file"


def test_readme_check_detects_staleness(results, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "cpu.json").write_bytes(results.read_bytes())
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", folder)
    page = tmp_path / "README.md"
    page.write_text("# Title\n<!-- performance:begin -->\n<!-- performance:end -->\nafter\n")
    costs, performance = tmp_path / "cost.json", tmp_path / "docs" / "performance.md"
    performance.parent.mkdir()
    performance.write_text("<!-- call-cost:begin -->\n<!-- call-cost:end -->\n")
    described = dict(device="a processor", torch="2", date="2026-01-01T00", command="this")
    costs.write_text(json.dumps(described | {"microseconds": dict.fromkeys(call_cost.PARTS, 2.0) | {"both": 11.0}}))
    monkeypatch.setattr(readme, "CALL_COST", costs)
    assert readme.main(["--check"]) == 1
    assert readme.main([]) == 0
    assert readme.main(["--check"]) == 0
    text = page.read_text()
    assert "| paper | 3x2x16x20 | 2 |" in text and "(results/plots/cpu-share.svg)" in text
    assert text.startswith("# Title\n") and text.endswith("\nafter\n")

    assert "all minus operators and autograd | 5.0 |" in performance.read_text()

    costs.write_text(costs.read_text().replace("11.0", "12.0"))
    assert readme.main(["--check"]) == 1
    assert "the cost of a call is out of date" in capsys.readouterr().out

    changed = report.load(folder / "cpu.json")
    changed["rows"][0]["ms"] *= 2
    (folder / "cpu.json").write_text(json.dumps(changed))
    assert readme.main(["--check"]) == 1
    assert "cpu-share.svg: drawn from other results" in capsys.readouterr().out


def test_cost_of_a_call_is_taken_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(call_cost, "CALLS", 2)
    monkeypatch.setattr(call_cost, "SAMPLES", 1)
    assert call_cost.main(["--out", str(tmp_path / "cost.json")]) == 0
    us = report.load(tmp_path / "cost.json")["microseconds"]
    assert set(us) == set(call_cost.PARTS) and min(us.values()) > 0


def test_readme_without_markers_is_an_error():
    with pytest.raises(ValueError, match="expected <!-- performance:begin -->"):
        readme.updated("no markers", "text")
