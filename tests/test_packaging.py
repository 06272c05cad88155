"""What a source distribution holds, and what the build says."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def run_setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Paths in the source distribution, without the leading folder."""
    folder = tmp_path_factory.mktemp("sdist")
    result = run_setup("-q", "egg_info", f"--egg-base={folder}", "sdist", f"--dist-dir={folder}")
    assert result.returncode == 0, result.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        return {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}


def test_source_distribution_holds_everything_that_the_build_reads(contents):
    needed = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    needed |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "cas_ext/version.py", "cas_ext/py.typed"}
    assert needed - contents == set()


def test_source_distribution_holds_no_build_products(contents):
    assert [name for name in contents if name.endswith((".so", ".o", ".pyc"))] == []


def test_build_says_why_cuda_is_left_out():
    result = run_setup("--version", CAS_EXT_CUDA="0")
    assert result.returncode == 0
    assert "cas_ext: building the CPU library only: CAS_EXT_CUDA=0" in result.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is a CUDA build")
def test_build_that_must_have_cuda_fails_without_it():
    result = run_setup("--version", CAS_EXT_CUDA="1")
    assert result.returncode != 0
    assert "is a build without CUDA" in result.stderr


def test_build_refuses_a_cuda_home_without_nvcc(tmp_path):
    result = run_setup("--version", CUDA_HOME=str(tmp_path))
    assert result.returncode != 0
    assert f"CUDA_HOME must hold bin/nvcc, got {tmp_path}" in result.stderr
