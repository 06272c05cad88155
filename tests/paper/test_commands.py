"""`python -m benchmarks.paper`: what it writes, a kill in the middle, and what users do wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.paper import __main__ as command_line
from benchmarks.paper import quoted

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120  # seconds until a test gives up
# Runs long enough to be killed after the first checkpoint (50 steps) and before the last (120).
TINY = [
    *("low-fidelity", "--device", "cpu", "--steps", "120", "--batch", "2", "--images", "8", "--size", "32"),
    *("--seeds", "0", "1", "--noise", "0.5", "--loss", "ce", "cas-ordered-sqeuclidean"),
]


def start(out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.paper", *TINY, "--workers", "1", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, output
    return output


def wait_until(happened, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an uninterrupted command writes."""
    out = tmp_path_factory.mktemp("whole")
    output = finish(start(out))
    assert str(out / "report.md") in output and "4/4" in output
    return out


def test_a_command_writes_its_report(whole: Path) -> None:
    report = (whole / "report.md").read_text()
    assert report.startswith("# Low fidelity\n\n**Synthetic analogue.**")
    assert "| ce | " in report and ".691 / .140" in report and "seeds 0, 1" in report
    content = json.loads((whole / "results.json").read_text())
    assert [(run["method"], run["noise"], run["seed"]) for run in content["runs"]] == [
        ("ce", 0.5, 0), ("cas-ordered-sqeuclidean", 0.5, 0), ("ce", 0.5, 1), ("cas-ordered-sqeuclidean", 0.5, 1),
    ]  # fmt: skip
    assert content["options"]["steps"] == 120 and content["versions"]["torch"] == torch.__version__
    assert content["curves"]["ce"]["step"] == list(range(0, 120, 10))
    assert (whole / "pictures.png").read_bytes().startswith(b"\x89PNG")
    assert "uniformer" in (whole / "curves.svg").read_text() or (whole / "curves.svg").stat().st_size > 5000
    weights = torch.load(whole / "runs" / "salient" / "noise-0.5" / "ce-2" / "seed-0" / "weights.pt", weights_only=True)
    assert "head.weight" in weights
    assert not list(whole.rglob("checkpoint.pt"))


def test_a_killed_command_ends_as_if_it_had_not_been_killed(whole: Path, tmp_path: Path) -> None:
    process = start(tmp_path)
    second = tmp_path / "runs" / "salient" / "noise-0.5" / "cas-ordered-sqeuclidean-2" / "seed-0"
    wait_until((second / "checkpoint.pt").exists, process)
    workers = children(process.pid)
    assert workers
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    wait_until(lambda: not any(alive(pid) for pid in workers))  # else two would write the same files
    first = second.parents[1] / "ce-2" / "seed-0" / "result.json"
    assert first.exists() and not (second / "result.json").exists()
    assert torch.load(second / "checkpoint.pt", weights_only=True)["step"] < 120
    written = first.stat().st_mtime_ns

    finish(start(tmp_path))
    assert first.stat().st_mtime_ns == written  # it was not done again
    for name in ("results.json", "report.md", "curves.svg"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_torchrun_trains_each_network_with_all_its_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
            *("-m", "benchmarks.paper", *TINY, "--steps", "4", "--seeds", "0", "--out", str(tmp_path)),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    output = finish(process)
    assert output.count("run 2 of 2, salient/noise-0.5/cas-ordered-sqeuclidean-2/seed-0") == 1, output
    assert output.count("Report: ") == 1, output
    content = json.loads((tmp_path / "results.json").read_text())
    assert [run["method"] for run in content["runs"]] == ["ce", "cas-ordered-sqeuclidean"]
    rows = (tmp_path / "runs/salient/noise-0.5/ce-2/seed-0/logs/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 4


def call(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit status and the last line of stderr of a call in this process."""
    try:
        status = command_line.main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return status, error.strip().splitlines()[-1] if error.strip() else ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--noise", "1.5"], "--noise: expected shares from 0 to 1, got 1.5"),
        (["--size", "33"], "--size: expected an even number of at least 32, got 33"),
        (["--seeds", "0", "0"], "--seeds: expected different values, got 0 0"),
        (["--seeds", "-1"], "--seeds: expected 0 or more, got -1"),
        (["--steps", "0"], "--steps: expected at least 1, got 0"),
        (["--images", "2"], "--images: expected at least 8, got 2"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["--rate", "0"], "--rate: expected more than 0, got 0"),
        (["--loss", "triplet"], "argument --loss: invalid choice: 'triplet'"),
        (["--data", "/nowhere"], "--data: expected a folder, got /nowhere"),
        (["--data", ".", "--images", "9"], "--images: expected without --data"),
        (["--weights", "/nowhere.pt"], "--weights: expected a file, got /nowhere.pt"),
    ],
)
def test_wrong_options_are_named_in_one_line(arguments, words, tmp_path: Path, capsys) -> None:
    status, line = call(["low-fidelity", "--out", str(tmp_path), *arguments], capsys)
    assert status == 2 and words in line
    assert not list(tmp_path.iterdir())


def test_outputs_belong_to_the_commands_that_sweep_them(tmp_path: Path, capsys) -> None:
    assert call(["texture", "--out", str(tmp_path), "--outputs", "1"], capsys) == (
        2, "python -m benchmarks.paper: error: argument --outputs: expected at least 2, got 1",
    )  # fmt: skip
    assert "unrecognized arguments: --outputs 4" in call(["low-fidelity", "--out", "x", "--outputs", "4"], capsys)[1]
    assert "unrecognized arguments: --noise 0" in call(["texture", "--out", "x", "--noise", "0"], capsys)[1]


def test_data_without_the_set_is_named(tmp_path: Path, capsys) -> None:
    arguments = ["high-fidelity", "--device", "cpu", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]
    status, line = call([*arguments, "--workers", "1", "--seeds", "0", "--steps", "1"], capsys)
    assert status == 2 and "MSRA-B: no such folder" in line


def test_weights_of_another_network_are_refused(tmp_path: Path, capsys) -> None:
    torch.save({"layers": torch.zeros(1)}, tmp_path / "weights.pt")
    arguments = [*TINY, "--workers", "1", "--out", str(tmp_path / "out"), "--weights", str(tmp_path / "weights.pt")]
    status, line = call(arguments, capsys)
    assert status == 2 and "weights.pt: holds no weights for small" in line


def test_results_of_other_settings_are_refused(whole: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(whole, tmp_path / "out")
    status, line = call([*TINY, "--out", str(tmp_path / "out"), "--rate", "0.001"], capsys)
    assert (
        status == 2
        and "is the result of another run: settings.rate 0.01, not 0.001; give another --out or --runs" in line
    )


def test_two_programs_do_not_share_a_folder(tmp_path: Path, capsys) -> None:
    with command_line.only_one(tmp_path):
        for folders in (["--out", str(tmp_path)], ["--out", str(tmp_path / "out"), "--runs", str(tmp_path)]):
            status, line = call([*TINY, *folders], capsys)
            assert status == 2 and line == f"error: {tmp_path}: another program is writing there"
    (tmp_path / "file").write_text("")
    status, line = call([*TINY, "--out", str(tmp_path / "file")], capsys)
    assert status == 2 and "cannot be used as a folder" in line


def test_quote_prints_the_papers_tables(capsys) -> None:
    assert command_line.main(["quote"]) == 0
    printed = capsys.readouterr().out
    assert [f"Table {n} of Sharma et al. (2021)" in printed for n in (1, 2, 3, 4)] == [True] * 4
    assert "| ResNet-CAS | .920 / .038 | .836 / .077 | .837 / .085 |" in printed
    assert "| HED | .927 / .028 | - / - |" in printed
    assert "| FCN-ResNet101-a-CE | .04 | .04 | .79 | .79 | .55 | .55 | 1.39 | 1.39 |" in printed
    assert "| CAS | .71 |" in printed


@pytest.mark.parametrize("table", quoted.TABLES, ids=lambda table: str(table.number))
def test_quoted_rows_are_complete_and_possible(table: quoted.QuotedTable) -> None:
    for row, numbers in table.rows.items():
        assert len(numbers) == len(table.columns), row
        assert all(n is None or 0 <= n <= 2 for n in numbers), row
        if table.columns == quoted.PAIRS:  # F_beta and MAE are given or left out together
            assert all((f is None) == (e is None) for f, e in zip(numbers[::2], numbers[1::2], strict=True)), row


def test_help_names_every_loss_in_a_few_words_and_each_default_once(capsys) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["multi-region", "--help"])
    text = "".join(capsys.readouterr().out.split())
    assert "cas-{ordered|unordered|mean}-{sqeuclidean|euclidean|log}[-0.2|-0.8]" in text and "magnet" in text
    assert text.count("cas-") < 5 and "(default:None)" not in text and ")(default" not in text
