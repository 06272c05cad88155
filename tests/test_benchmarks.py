"""The programs of the benchmark suite run, and write the files, tables, plots and pages that they claim to."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import torch

from benchmarks import call_cost, cases, memory, memory_table, peers, readme, report, speed, tables

DESCRIBED = {"device", "torch", "cuda", "driver", "commit", "date", "command", "ceilings", "rows"}
AXES = {"case", "dtype", "layout", "labels", "mask", "impl", "phase"}
FIGURES = {"ms", "eager_ms", "gbps", "share_of_ceiling", "rel_error", "peak_extra_bytes"}
ARGUMENTS = "--device cpu --scale tiny --budget 0.002 --dtypes float32 --layouts nchw --labels small int64"


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
        assert row["share_of_ceiling"] == pytest.approx(speed.share(row, row["ceilings"]))
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


def test_what_just_misses_its_target_does_not_look_equal_to_it():
    rows = [row("cas_ext", "ours", 1.0, "forward", share_of_ceiling=0.697)]
    assert report.missed(next(iter(report.groups(rows).values())), "cpu") == ["forward 69.7% < 70.0%"]
    rows = [row("cas_ext", "ours", 1.0), row("scatter_add", "eager", 13.97)]
    assert report.missed(next(iter(report.groups(rows).values())), "cpu") == ["13.97x scatter_add < 14x"]


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


def test_shares_on_cuda_are_of_the_higher_ceiling_and_of_the_bytes_of_their_phase():
    """40 x 256 x 256 pixels of 2 floats and a byte: 23.6 MB read, and 21.0 MB written by the backward."""
    times = {"forward": 10.0, "backward": 20.0, "both": 30.0}
    result = made_up(*(row("cas_ext", "ours", ms, phase) for phase, ms in times.items()))
    result |= {"device_type": "cuda", "ceilings_at_start": {"read_gbps": 5.0, "copy_gbps": 8.0}}
    speed.settle(result, {"read_gbps": 10.0, "copy_gbps": 4.0})
    assert result["ceilings"] == {"read_gbps": 10.0, "copy_gbps": 8.0}
    pixels = 40 * 256 * 256
    forward, backward = pixels * 9 / 10e9, pixels * 17 / 8e9
    expected = {"forward": forward / 0.010, "backward": backward / 0.020, "both": (forward + backward) / 0.030}
    shares = {row["phase"]: row["share_of_ceiling"] for row in result["rows"]}
    assert shares == pytest.approx(expected)


def test_ceilings_on_the_cpu_are_those_that_were_seen_beside_the_rows():
    seen = [{"read_gbps": read, "copy_gbps": read + 1} for read in (5.0, 20.0, 7.0)]
    result = made_up(*(row("cas_ext", "ours", 10.0, share_of_ceiling=0.6, ceilings=ceilings) for ceilings in seen))
    result["ceilings_at_start"] = {"read_gbps": 40.0, "copy_gbps": 40.0}
    speed.settle(result, {"read_gbps": 50.0, "copy_gbps": 50.0})
    assert result["ceilings"] == {"read_gbps": 7.0, "copy_gbps": 8.0}
    assert [row["share_of_ceiling"] for row in result["rows"]] == [0.6] * 3


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
    assert images == [f"tiny-{name}.svg" for name in ("channels", "regions", "share")]
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.count("<svg") == 1 and report.digest(results) in text
        assert "fill: #ffffff" not in text, "the background must be transparent"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plot.main([str(results), "--out", str(tmp_path)])
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}, "the same results, another file"


def memory_rows():
    rows = []
    for case, impl, kind, forward, step in [
        ("paper", "cas_ext", "ours", 300_000, 20_000),
        ("paper", "onehot", "eager", 80_000_000, 90_000_000),
        ("paper", "scatter_add", "eager", 70_000_000, 60_000_000),
        ("paper", "onehot_compiled", "compiled", 50_000_000, 40_000_000),
        ("paper", "authors", "authors", 1, 1),
        ("voc", "cas_ext", "ours", 800_000, 40_000),
        ("tiny", "cas_ext", "ours", 43_000, 10_000),
    ]:
        measured = {"forward_bytes": forward, "step_bytes": step}
        rows.append({k: v for k, v in row(impl, kind, None, case=case).items() if k not in FIGURES} | measured)
    return [r | {"note": None} for r in rows] + [rows[1] | {"note": "needs 20 GiB", "forward_bytes": None}]


def test_memory_is_compared_with_the_version_of_each_kind_that_takes_least():
    result = made_up() | {"memory": "memray", "rows": memory_rows()}
    lines = memory_table.table(result)
    assert lines[2] == (
        "| paper | 21.0 MB | 300 KB (1.4%) | 20 KB (0.095%) | 70.0 MB (334%), scatter_add | 50.0 MB (238%), onehot_compiled |"
    )
    assert lines[3] == "| voc | 21.0 MB | 800 KB (3.8%) | 40 KB (0.19%) | - | - |"
    assert "takes 1.4% to 3.8% of the input" in memory_table.summary(result)
    assert "(`tiny`: 43 KB)" in memory_table.summary(result)
    assert memory_table.least(result | {"memory": None}) == {}, "counted without the scratch of cas_ext"


def test_memory_of_a_run_is_drawn_on_cuda_only(results):
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    result = report.load(results)
    assert result["memory"] == memory.counted_by("cpu")
    assert plot.memory_figure(result) is None
    assert plot.memory_figure(result | {"device_type": "cuda"}) is not None or result["memory"] is None


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
    performance.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("call-cost", "memory")))
    benchmarks = tmp_path / "docs" / "benchmarks.md"
    benchmarks.write_text("<!-- performance:begin -->\n<!-- performance:end -->\n")
    described = dict(device="a processor", torch="2", date="2026-01-01T00", command="this")
    costs.write_text(json.dumps(described | {"microseconds": dict.fromkeys(call_cost.PARTS, 2.0) | {"both": 11.0}}))
    monkeypatch.setattr(readme, "CALL_COST", costs)
    memory_file = folder / "memory" / "cpu.json"
    memory_file.parent.mkdir()
    memory_file.write_text(json.dumps(made_up() | {"memory": "memray", "rows": memory_rows()}))
    monkeypatch.setattr(readme, "MEMORY", memory_file)
    assert readme.main(["--check"]) == 1
    assert readme.main([]) == 0
    assert readme.main(["--check"]) == 0
    text = page.read_text()
    assert "| paper | 3x2x16x20 | 2 |" in text and "(results/plots/cpu-share.svg)" in text
    assert "(results/plots/memory-cpu.svg)" in text and "takes 1.4% to 3.8% of the input" in text
    assert text.startswith("# Title\n") and text.endswith("\nafter\n")
    commit = report.load(folder / "cpu.json")["commit"][:10]
    for shown in (text, benchmarks.read_text()):
        assert f"\nMeasured on commit {commit}." in shown
    assert "(../results/plots/cpu-regions.svg)" in benchmarks.read_text() and "cpu-regions.svg" not in text

    assert "all minus operators and autograd | 5.0 |" in performance.read_text()
    assert "takes 1.4% to 3.8% of the input" in performance.read_text()

    costs.write_text(costs.read_text().replace("11.0", "12.0"))
    assert readme.main(["--check"]) == 1
    assert "performance.md: a generated part is out of date" in capsys.readouterr().out

    changed = report.load(folder / "cpu.json")
    changed["rows"][0]["ms"] *= 2
    (folder / "cpu.json").write_text(json.dumps(changed))
    assert readme.main(["--check"]) == 1
    assert "cpu-share.svg: drawn from other results" in capsys.readouterr().out


def test_readme_shows_the_machine_measured_last_with_its_fewest_threads(tmp_path):
    def write(name, **changes):
        (tmp_path / f"{name}.json").write_text(json.dumps(made_up(row("cas_ext", "ours", 1.0)) | changes))

    write("a-1", device="A", date="2026-01-01", threads=1)
    write("b-2", device="B", date="2026-01-03", threads=2)
    write("b-1", device="B", date="2026-01-02", threads=1)
    write("c-logits", device="C", date="2026-01-04", threads=1, activation="softmax")
    write("c-sweep", device="C", date="2026-01-05", rows=[row("cas_ext", "ours", 1.0, sweep="regions")])
    assert readme.main_file(readme.results_files(tmp_path)).stem == "b-1"


def test_kernels_that_changed_after_a_file_are_named_until_it_is_measured_anew():
    result = made_up() | {"commit": next(iter(tables.CHANGED_SINCE)) + "0" * 30}
    assert "changed since" in tables.changed_since(result)
    assert tables.changed_since(result | {"commit": "f" * 40}) == "Measured on commit ffffffffff."
    shown = {tables.commit(report.load(path)) for path in [*readme.results_files(readme.RESULTS), readme.MEMORY]}
    assert set(tables.CHANGED_SINCE) <= shown, "nothing shows such a file any more: remove its sentence"


@pytest.mark.parametrize("program", ["report", "plot"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or directory"),
        ("torn {", "expected JSON, as benchmarks.speed writes it"),
        ('{"rows": [{"case": "paper"}]}', "expected the results of benchmarks.speed"),
    ],
)
def test_a_file_that_is_missing_or_of_another_kind_is_one_line(program, content, message, tmp_path, capsys):
    if program == "plot":
        pytest.importorskip("matplotlib")
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    main = importlib.import_module(f"benchmarks.{program}").main
    assert main([str(path), *(["--out", str(tmp_path)] if program == "plot" else [])]) == 2
    assert capsys.readouterr().err == f"error: {path}: {message}\n"


def test_report_can_show_only_what_misses_a_target(tmp_path, capsys):
    rows = [row("cas_ext", "ours", 1.0, "forward", share_of_ceiling=0.5)]
    rows += [row("cas_ext", "ours", 1.0, "forward", case="voc", ceilings={"read_gbps": 8.0, "copy_gbps": 7.0})]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(made_up(*rows)))
    assert report.main([str(path)]) == 0
    everything = capsys.readouterr().out
    assert (
        "\npaper " in everything
        and "\nvoc " in everything
        and "share: the time in which PyTorch's own read" in everything
    )
    assert "10 GB/s read, 8 GB/s copied" in everything
    assert report.main([str(path), "--missed"]) == 0
    some = capsys.readouterr().out
    assert "\npaper " in some and "\nvoc " not in some


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


def test_readme_without_markers_is_an_error():
    with pytest.raises(ValueError, match="expected <!-- performance:begin -->"):
        readme.updated("no markers", "text")
