"""gpu_check on a machine without a GPU: its stages, their time limits, what it says is missing."""

from __future__ import annotations

import sys
import time

import torch
from tolerances import TOLERANCE

from benchmarks import gpu_check, readme, report, sanitize_case
from benchmarks.cases import Case


def python(code):
    return [sys.executable, "-c", code]


def test_stages_report_success_failure_and_time_out(tmp_path):
    stages = [
        gpu_check.Stage("good", python("print('hello from a stage')"), 20, {"SOME_VARIABLE": "1"}),
        gpu_check.Stage("bad", python("raise SystemExit(3)"), 20),
        gpu_check.Stage("slow", python("import time; time.sleep(60)"), 0.3),
        gpu_check.Stage("absent", [], 20, skip="not installed"),
    ]
    start = time.monotonic()
    outcomes = gpu_check.run_all(stages, tmp_path)
    assert time.monotonic() - start < 30
    assert [o.status for o in outcomes] == [
        "passed",
        "failed: exit 3",
        "failed: more than 0 s",
        "skipped: not installed",
    ]
    assert [o.failed for o in outcomes] == [False, True, True, False]
    assert "hello from a stage" in (tmp_path / "log.txt").read_text()
    assert "bad" in gpu_check.summary(outcomes)


def test_a_stage_without_time_left_fails(tmp_path):
    (outcome,) = gpu_check.run_all([gpu_check.Stage("late", python("pass"), 20)], tmp_path, total_s=1)
    assert outcome.status == "failed: no time left"


def test_gpu_check_says_what_is_missing(tmp_path, capsys):
    assert gpu_check.missing(False, "nvcc") == "gpu_check: expected a CUDA device, got none"
    assert "expected nvcc" in gpu_check.missing(True, None)
    assert gpu_check.missing(True, "nvcc") is None
    if not torch.cuda.is_available():
        assert gpu_check.main(["--out", str(tmp_path / "out")]) == 2
        assert "expected a CUDA device, got none" in capsys.readouterr().err


def test_the_timing_stage_of_gpu_check_runs(tmp_path):
    stage = gpu_check.timing_stage(tmp_path, device="cpu", scale="tiny")
    # Its own arguments, but for the peer that takes seconds to compile and the time that it measures for.
    assert "reference_compiled" in stage.command
    command = [word for word in stage.command if word != "reference_compiled"] + ["--budget=0.002"]
    (outcome,) = gpu_check.run_all([gpu_check.Stage(stage.name, command, 60)], tmp_path)
    assert outcome.status == "passed", (tmp_path / "log.txt").read_text()
    rows = report.load(tmp_path / "timings.json")["rows"]
    assert {row["case"] for row in rows} == {"paper", "voc", "embedding"}
    assert {row["impl"] for row in rows} == {"cas_ext", "reference"}


def test_every_stage_command_names_a_program_that_exists(tmp_path):
    stages = [gpu_check.build_stage((9, 0)), gpu_check.test_stage(tmp_path), gpu_check.timing_stage(tmp_path)]
    for stage in [*stages, gpu_check.sanitizer_stage("memcheck")]:
        assert sys.executable in stage.command
    assert (readme.ROOT / "setup.py").exists() and stages[0].environment["TORCH_CUDA_ARCH_LIST"] == "9.0"


def test_sanitizer_cases_agree_with_the_reference_on_the_cpu():
    assert sanitize_case.main(["--device", "cpu"]) == 0
    assert {c.dtype for c in sanitize_case.CASES} == set(TOLERANCE)
    assert Case("x", (1, 2, 8, 8), 2).ragged().shape == (1, 2, 7, 7)
