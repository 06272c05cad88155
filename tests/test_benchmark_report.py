"""benchmarks.report: which targets a run misses, and how runs compare."""

from __future__ import annotations

import importlib
import json

import pytest
from benchmark_results import made_up, row

from benchmarks import report, speed


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
