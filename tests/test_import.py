"""What `import cas_ext` gives, without and with the command line."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cas_ext


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs this interpreter; a child finds cas_ext where this process found it."""
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z.+].*)?", cas_ext.__version__)


def test_public_names_are_the_documented_ones():
    documented = {
        "cas_loss",
        "CASLoss",
        "region_moments",
        "RegionMoments",
        "compact_regions",
        "saliency",
        "reference",
        "info",
    }
    assert documented <= set(cas_ext.__all__)
    for name in cas_ext.__all__:
        assert getattr(cas_ext, name) is not None


def test_signatures_are_the_documented_ones():
    def parameters(function):
        found = inspect.signature(function).parameters.values()
        return [(p.name, p.default, p.kind.name) for p in found if p.name != "self"]

    def required(*names):
        return [(name, inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD") for name in names]

    def keywords(**defaults):
        return [(name, default, "KEYWORD_ONLY") for name, default in defaults.items()]

    options = keywords(
        alpha=0.5, num_regions=None, ignore_index=-100, pairs="ordered", distance="sqeuclidean", activation=None,
        reduction="mean", return_terms=False, validate=None, process_group=None,
    )  # fmt: skip
    assert parameters(cas_ext.cas_loss) == required("input", "target") + options
    assert parameters(cas_ext.reference.cas_loss) == required("input", "target") + options
    assert parameters(cas_ext.CASLoss.__init__) == [("alpha", 0.5, "POSITIONAL_OR_KEYWORD"), *options[1:]]
    moments = keywords(ignore_index=-100, activation=None, validate=None, process_group=None)
    assert parameters(cas_ext.region_moments) == required("input", "target", "num_regions") + moments
    assert parameters(cas_ext.reference.region_moments) == required("input", "target", "num_regions") + moments
    usage = keywords(ignore_index=-100, activation=None)
    assert parameters(cas_ext.saliency.code_usage) == required("input", "target", "num_regions") + usage
    assert parameters(cas_ext.compact_regions) == required("target") + keywords(ignore_index=-100)


def test_public_functions_have_docstrings_with_arguments():
    saliency, reference = cas_ext.saliency, cas_ext.reference
    functions = [cas_ext.cas_loss, cas_ext.CASLoss, cas_ext.CASLoss.forward, cas_ext.region_moments]
    functions += [cas_ext.compact_regions, saliency.select_channel, saliency.adaptive_threshold, saliency.code_usage]
    for function in functions:
        text = inspect.getdoc(function)
        for name in inspect.signature(function).parameters:
            assert name == "self" or f"    {name}: " in text, f"{function.__qualname__} does not document {name}"
        assert "Raises:\n" in text and ("Returns:\n" in text or function is cas_ext.CASLoss), function.__qualname__
    for function in (reference.cas_loss, reference.region_moments):  # some of them together
        text = inspect.getdoc(function)
        assert all(section in text for section in ("Args:\n", "Returns:\n", "Raises:\n")), function.__qualname__


def test_info_names_the_versions_and_the_devices():
    shown = str(cas_ext.info())
    assert cas_ext.__version__ in shown
    assert torch.__version__ in shown
    assert "cuda" in shown.lower() and "cpu" in shown.lower()


def test_info_runs_from_the_command_line():
    run = python("-m", "cas_ext.info")
    assert run.returncode == 0, run.stderr
    assert cas_ext.__version__ in run.stdout and torch.__version__ in run.stdout


@pytest.mark.parametrize(("variable", "wish"), [("CAS_EXT_CPU_ISA", "sse9"), ("CAS_EXT_CPU_TUNING", "via")])
def test_info_shows_what_is_wrong_with_the_environment_and_the_rest(variable, wish):
    run = python("-m", "cas_ext.info", **{variable: wish})
    assert run.returncode == 1 and run.stderr == ""
    assert re.search(rf"^cpu kernels +error: {variable} must be .* got {wish}$", run.stdout, re.MULTILINE)
    assert torch.__version__ in run.stdout and "cuda kernels" in run.stdout
    run = python("-c", "import cas_ext; print(cas_ext.info()['cpu kernels'])", **{variable: wish})
    assert run.returncode == 0 and run.stdout.startswith(f"error: {variable} must be")


def test_import_succeeds_with_every_gpu_hidden():
    run = python("-W", "error", "-c", "import cas_ext; print(cas_ext.__version__)", CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == cas_ext.__version__
    assert run.stderr == ""


def test_import_does_not_start_cuda():
    # A library that creates a context on import breaks fork and costs memory on every GPU.
    run = python("-c", "import cas_ext, torch; assert not torch.cuda.is_initialized()")
    assert run.returncode == 0, run.stderr


def test_loss_works_in_a_forked_process_and_in_a_fresh_one():
    code = (
        "import torch, cas_ext\n"
        "print(cas_ext.cas_loss(torch.tensor([[[0., 2., 5., 9.]]]), torch.tensor([[0, 0, 1, 1]])).item())"
    )
    run = python("-c", code)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) == -33.5


def test_package_is_typed():
    assert (Path(cas_ext.__file__).parent / "py.typed").exists()
