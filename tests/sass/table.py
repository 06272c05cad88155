"""Compiles every kernel for several architectures and reads its machine code. `make sass` prints the table.

Needs nvcc, and cuobjdump from the CUDA toolkit or from the triton package (it comes with a CUDA build of PyTorch).
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for p in (ROOT / "csrc" / "cuda").glob("*.cu") if p.name != "operators.cu")  # that one needs PyTorch
BUILD = ROOT / "build" / "sass"
ARCHITECTURES = ("sm_80", "sm_90", "sm_120")


@dataclass(frozen=True)
class Kernel:
    """What the compiler made of one kernel for one architecture."""

    architecture: str
    name: str  # accumulate_small_kernel
    arguments: tuple[str, ...]  # its template arguments
    registers: int
    stack: int  # bytes of local memory per thread
    instructions: int
    wide_loads: int  # 16-byte global loads
    wide_stores: int
    local: int  # instructions that touch local memory
    products: int  # by tensor cores
    atomics: tuple[str, ...]  # their opcodes


def find_cuobjdump() -> str | None:
    """cuobjdump on PATH, in the toolkit, or in the triton package."""
    found = shutil.which("cuobjdump")
    if found is None and Path("/usr/local/cuda/bin/cuobjdump").exists():
        found = "/usr/local/cuda/bin/cuobjdump"
    if found is None and (triton := importlib.util.find_spec("triton")):
        found = next((str(p) for p in Path(triton.origin).parent.rglob("bin/cuobjdump")), None)
    return found


def why_absent() -> str | None:
    """Which tool is missing, or None."""
    if shutil.which("nvcc") is None:
        return "no nvcc on PATH"
    if find_cuobjdump() is None:
        return "no cuobjdump (it comes with the CUDA toolkit or the triton package)"
    return None


def _compile(architecture: str, source: Path, digest: str) -> Path:
    cubin = BUILD / f"{architecture}-{source.stem}-{digest}.cubin"
    if not cubin.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        partial = cubin.with_suffix(f".{os.getpid()}.cubin")
        command = ["nvcc", "-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-arch={architecture}", "-cubin"]
        subprocess.run([*command, str(source), "-o", str(partial)], check=True)
        partial.rename(cubin)
    return cubin


def compile_cubins(architecture: str) -> list[Path]:
    """The machine code of all kernels for one architecture, compiled once per state of the sources."""
    sources = sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cuh", ".cu"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda source: _compile(architecture, source, digest), SOURCES))


def dump(architecture: str, option: str) -> str:
    """What cuobjdump says of all kernels with an option, "-sass" or "-res-usage"."""
    tool = find_cuobjdump()
    assert tool is not None
    commands = [[tool, option, str(cubin)] for cubin in compile_cubins(architecture)]
    return "\n".join(subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands)


def _demangle(names: list[str]) -> list[str]:
    result = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def _split_name(demangled: str) -> tuple[str, tuple[str, ...]]:
    found = re.match(r"(?:void )?cas_ext::(\w+)(?:<(.*)>)?\(", demangled)
    assert found, demangled
    clean = re.sub(r"\(\w+\)", "", found.group(2) or "")  # (int)4 -> 4
    arguments = tuple(a.strip() for a in clean.split(",") if a.strip())
    return found.group(1), arguments


def read_kernels(architecture: str) -> list[Kernel]:
    """Every kernel of one architecture."""
    usage = dict(re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", dump(architecture, "-res-usage")))
    sass = dump(architecture, "-sass")
    code = dict(re.findall(r"Function : (\S+)\n(.*?)(?=\n\s*Function :|\Z)", sass, re.DOTALL))
    kernels = []
    for mangled, demangled in zip(usage, _demangle(list(usage)), strict=True):
        name, arguments = _split_name(demangled)
        resources = dict(re.findall(r"(\w+):(\d+)", usage[mangled]))
        opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", code[mangled]))

        def count(pattern: str, opcodes: Counter[str] = opcodes) -> int:
            return sum(n for opcode, n in opcodes.items() if re.match(pattern, opcode))

        kernels.append(
            Kernel(
                architecture,
                name,
                arguments,
                registers=int(resources["REG"]),
                stack=int(resources["STACK"]),
                instructions=count(r"(?!NOP)"),
                wide_loads=count(r"LDG\.E.*\.128"),
                wide_stores=count(r"STG\.E.*\.128"),
                local=count(r"(LDL|STL)"),
                products=count(r"HMMA"),
                atomics=tuple(sorted(op for op in opcodes.elements() if re.match(r"ATOM|RED[.G]", op))),
            )
        )
    return sorted(kernels, key=lambda k: (k.name, k.arguments))


def read_all() -> list[Kernel]:
    """Every kernel of every architecture of ARCHITECTURES."""
    return [kernel for architecture in ARCHITECTURES for kernel in read_kernels(architecture)]


def main() -> None:
    if reason := why_absent():
        raise SystemExit(f"sass: the machine code cannot be read: {reason}")
    head = ("arch", "kernel", "regs", "stack", "instr", "LDG.128", "STG.128", "local", "atomics")
    print("{:7} {:62} {:>5} {:>5} {:>6} {:>7} {:>7} {:>5} {:>7}".format(*head))
    for k in read_all():
        label = f"{k.name}<{', '.join(k.arguments)}>" if k.arguments else k.name
        print(
            f"{k.architecture:7} {label:62} {k.registers:5} {k.stack:5} {k.instructions:6} {k.wide_loads:7} "
            f"{k.wide_stores:7} {k.local:5} {len(k.atomics):7}"
        )


if __name__ == "__main__":
    main()
