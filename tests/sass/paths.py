"""How many instructions lie between two places of a kernel: its control flow, read from the disassembly."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?([A-Z][\w.]*)([^;]*);")
ENDS = ("EXIT", "RET", "BRA", "BRX", "JMP", "KILL")  # what follows is not reached, unless they are predicated


@dataclass(frozen=True)
class Instruction:
    address: int
    predicated: bool
    opcode: str
    target: int | None  # of a branch

    @property
    def weight(self) -> int:
        return int(self.opcode != "NOP")


def read_instructions(code: str) -> list[Instruction]:
    """The instructions of one function's disassembly, in order."""
    found = []
    for address, predicate, opcode, rest in LINE.findall(code):
        target = re.search(r"0x([0-9a-f]+)\s*$", rest.strip()) if opcode.startswith("BRA") else None
        # BRA.DIV leaves for a slow path that warps of whole lanes never take.
        goes = int(target.group(1), 16) if target and not opcode.startswith("BRA.DIV") else None
        conditional = bool(predicate) or opcode.startswith("BRA.DIV") or (opcode == "BRA" and "," in rest)
        found.append(Instruction(int(address, 16), conditional, opcode, goes))
    return found


def forward_paths(code: list[Instruction], begin: int, end: int, avoid: Collection[int] = ()) -> tuple[int, int] | None:
    """Instructions on the shortest and on the longest way from address `begin` to `end`, both included, that never turns
    back: loops on the way count once or not at all. `avoid`: addresses that it does not touch. None if there is no way."""
    places = {i.address: n for n, i in enumerate(code)}
    first, last = places[begin], places[end]
    least: dict[int, int] = {first: 0}
    most: dict[int, int] = {first: 0}
    for n in range(first, last):
        if n not in least or code[n].address in avoid:
            continue
        instruction = code[n]
        nexts = [] if instruction.opcode.split(".")[0] in ENDS and not instruction.predicated else [n + 1]
        if instruction.opcode.startswith("BRX"):
            nexts = [n + 1]  # a switch: its first case comes next
        if instruction.target is not None and n < places.get(instruction.target, -1) <= last:
            nexts.append(places[instruction.target])
        for m in nexts:
            least[m] = min(least.get(m, 1 << 30), least[n] + instruction.weight)
            most[m] = max(most.get(m, 0), most[n] + instruction.weight)
    if last not in least:
        return None
    return least[last] + 1, most[last] + 1
