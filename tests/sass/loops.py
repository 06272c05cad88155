"""Counts the instructions of every loop of every kernel, so that instructions per element can be read off.

    cd tests && python -m sass.loops accumulate_table   # kernels whose name contains that; docs/performance.md uses it

A loop is a backward branch: everything from its target to itself, the loops inside included.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass

from .table import _demangle, _split_name, dump, why_absent

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);")
KINDS = {
    "LDG": "LDG",
    "STG": "STG",
    "LDS": "LDS",
    "STS": "STS",
    "SHFL": "SHFL",
    "BAR": "BAR",
    "MUFU": "MUFU",
    "D": "fp64",
}


@dataclass(frozen=True)
class Loop:
    """Instructions from the target of a backward branch to the branch."""

    begin: int  # bytes
    end: int
    depth: int  # 0: inside no other loop
    opcodes: Counter[str]

    @property
    def instructions(self) -> int:
        return sum(n for opcode, n in self.opcodes.items() if opcode != "NOP")

    def count(self, prefix: str) -> int:
        if prefix == "D":  # arithmetic of doubles
            return sum(n for op, n in self.opcodes.items() if op.split(".")[0] in ("DADD", "DMUL", "DFMA", "DSETP"))
        return sum(n for op, n in self.opcodes.items() if op.split(".")[0] == prefix)


def find_loops(code: str) -> list[Loop]:
    """The loops of one function's disassembly, outer ones first; a branch to itself (the padding at the end) is none."""
    lines = [(int(address, 16), opcode, rest) for address, opcode, rest in LINE.findall(code)]
    ends: dict[int, int] = {}
    for address, opcode, rest in lines:
        target = re.search(r"0x([0-9a-f]+)\s*$", rest.strip())
        if opcode.startswith("BRA") and target and int(target.group(1), 16) < address:
            begin = int(target.group(1), 16)
            ends[begin] = max(ends.get(begin, 0), address)
    # Slow paths of shuffles stand behind everything and jump back: those spans cross the loops.
    inner = [(b, e) for b, e in ends.items() if not any(outer < b <= end < e for outer, end in ends.items())]
    spans = sorted(inner, key=lambda span: (span[0], -span[1]))
    return [
        Loop(
            begin,
            end,
            sum(b <= begin and end <= e and (b, e) != (begin, end) for b, e in spans),
            Counter(opcode for address, opcode, _ in lines if begin <= address <= end),
        )
        for begin, end in spans
    ]


def main() -> None:
    if reason := why_absent():
        raise SystemExit(f"sass: the machine code cannot be read: {reason}")
    architecture, wanted = "sm_90", sys.argv[1] if len(sys.argv) > 1 else ""
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", dump(architecture, "-sass"), re.DOTALL))
    print(f"{'loop':10} {'instr':>6} " + " ".join(f"{name:>5}" for name in KINDS.values()))
    for mangled, demangled in zip(code, _demangle(list(code)), strict=True):
        name, arguments = _split_name(demangled)
        label = f"{name}<{', '.join(arguments)}>"
        if wanted not in label:
            continue
        print(f"{architecture} {label}, {len(LINE.findall(code[mangled]))} in all")
        for loop in find_loops(code[mangled]):
            counts = " ".join(f"{loop.count(kind):5}" for kind in KINDS)
            print(f"{'  ' * loop.depth + hex(loop.begin):10} {loop.instructions:6} {counts}")


if __name__ == "__main__":
    main()
