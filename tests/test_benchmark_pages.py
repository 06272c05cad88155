"""What is made of results: plots, and the generated parts of README and docs."""

from __future__ import annotations

import json

import pytest
from benchmark_results import made_up, memory_rows, row

from benchmarks import call_cost, memory, memory_table, readme, report, tables


def test_plots_are_written_as_svg_from_a_run(tiny_results, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    assert plot.main([str(tiny_results), "--out", str(tmp_path)]) == 0
    images = sorted(path.name for path in tmp_path.iterdir())
    assert images == [f"tiny-{name}.svg" for name in ("channels", "regions", "share")]
    for path in tmp_path.iterdir():
        text = path.read_text()
        assert text.count("<svg") == 1 and report.digest(tiny_results) in text
        assert "fill: #ffffff" not in text, "the background must be transparent"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    plot.main([str(tiny_results), "--out", str(tmp_path)])
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}, "the same results, another file"


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


def test_memory_of_a_run_is_drawn_on_cuda_only(tiny_results):
    pytest.importorskip("matplotlib")
    from benchmarks import plot

    result = report.load(tiny_results)
    assert result["memory"] == memory.counted_by("cpu")
    assert plot.memory_figure(result) is None
    assert plot.memory_figure(result | {"device_type": "cuda"}) is not None or result["memory"] is None


def test_readme_check_detects_staleness(tiny_results, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "cpu.json").write_bytes(tiny_results.read_bytes())
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


def test_readme_without_markers_is_an_error():
    with pytest.raises(ValueError, match="expected <!-- performance:begin -->"):
        readme.updated("no markers", "text")
