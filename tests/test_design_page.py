"""docs/design.md says what every file of csrc is for."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_file_map_names_every_file_of_csrc_and_no_other():
    text = (ROOT / "docs" / "design.md").read_text()
    part = text.partition("## Where things are")[2].partition("\n## ")[0]
    for folder in ("csrc", "csrc/cpu", "csrc/cuda"):
        table = part.partition(f"| {folder} | |")[2].partition("\n\n")[0]
        first_cells = " ".join(line.split("|")[1] for line in table.splitlines() if line.count("|") > 2)
        named = set(re.findall(r"[\w.]+\.(?:cpp|cuh|cu|h)\b", first_cells))
        assert named == {path.name for path in (ROOT / folder).iterdir() if path.is_file()}, folder
