"""Every block of docs/recipes.md is a program that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
BLOCK = re.compile(r"^```python(?P<needs>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """(code, line of its start, what it needs), named after the heading above."""
    text = PAGE.read_text()
    for match in BLOCK.finditer(text):
        before = text[: match.start("code")]
        heading = re.findall(r"^## (.+)$", before, re.MULTILINE)[-1]
        needs, line = match["needs"].strip(), before.count("\n")
        marks = [pytest.mark.cuda] if needs == "cuda" else []
        yield pytest.param(match["code"], line, needs, id=f"{heading}, line {line + 1}", marks=marks)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    state = torch.get_rng_state()
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch.set_rng_state(state)


@pytest.mark.parametrize(("code", "line", "needs"), list(blocks()))
def test_recipe_runs(code, line, needs):
    assert needs in ("", "cuda")
    if needs == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    program = compile("\n" * line + code, str(PAGE), "exec")  # so that a traceback shows the line on the page
    exec(program, {"__name__": "__main__"})


def test_page_has_the_recipes_it_should_have():
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(headings) == 12
    for word in (
        "noisy labels",
        "arbitrary ids",
        "PIL",
        "Ignored",
        "Mixed precision",
        "torch.compile",
        "CUDA graphs",
        "clustered",
        "moments",
    ):
        assert any(word in heading for heading in headings), word
    assert len(list(blocks())) == len(re.findall(r"^```", PAGE.read_text(), re.MULTILINE)) / 2
