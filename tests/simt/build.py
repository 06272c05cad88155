"""Compiles a pybind11 module of kernels against the emulator, with g++ alone, and loads it.

Objects are cached by the content of everything they include, so an unchanged module costs a few milliseconds.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sysconfig

import pybind11

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "simt"

RUNTIME = [
    "access.cpp",
    "bindings.cpp",
    "buffer.cpp",
    "fiber.cpp",
    "history.cpp",
    "hooks.cpp",
    "matrix.cpp",
    "report.cpp",
    "scheduler.cpp",
    "warp.cpp",
]

COMPILER = "g++"  # clang names its instrumentation's options and hooks differently
COMMON = ["-std=c++17", "-g1", "-fPIC", "-Wall", "-Wextra", f"-I{HERE / 'include'}", f"-I{HERE}", f"-I{ROOT / 'csrc'}"]
PYTHON = [f"-isystem{path}" for path in (sysconfig.get_path("include"), pybind11.get_include())]
RUNTIME_FLAGS = ["-O2", "-g", "-fvisibility=hidden"]

# Only the instrumentation of the two sanitizers is used: hooks.cpp stands in for their libraries. The checks of
# undefined behaviour left out (null, pointer-overflow, object-size) double the time to compile and find what the hooks
# find. Vectorising would merge accesses before they are instrumented.
KERNEL_FLAGS = [
    "-O1",
    "-fsanitize=thread",
    "--param=tsan-instrument-func-entry-exit=0",
    "-fsanitize=alignment,bounds,integer-divide-by-zero,return,shift,signed-integer-overflow,unreachable",
    "-fno-tree-vectorize",
    "-Wno-attributes",
    *os.environ.get("SIMT_FLAGS", "").split(),  # for a debugger: "-g3 -O0"
]

# Kernels' calls of these go to hooks.cpp, which refuses them on device memory: they would move it unseen.
UNTRACKED = ["memcpy", "memmove", "memset"]


def _digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _is_current(record, command):
    if not record.exists():
        return False
    known = json.loads(record.read_text())
    with contextlib.suppress(OSError):
        return known["command"] == command and all(_digest(path) == value for path, value in known["inputs"].items())
    return False


def _compile(source, flags, folder, redirect=()):
    """Returns the object of `source`, compiled if it or a header of the project has changed."""
    key = hashlib.sha256(f"{source} {flags}".encode()).hexdigest()[:12]
    target = folder / f"{source.stem}-{key}.o"
    record = target.with_suffix(".json")
    command = [COMPILER, *COMMON, *PYTHON, *flags, "-MMD", "-MF", str(target.with_suffix(".d"))]
    command += ["-x", "c++", "-c", str(source), "-o", str(target)]
    if target.exists() and _is_current(record, command):
        return target
    _run(command)
    if redirect:
        _run(["objcopy", *(f"--redefine-sym={name}=simt_{name}" for name in redirect), str(target)])
    dependencies = target.with_suffix(".d").read_text().replace("\\\n", " ").split(":", 1)[1].split()
    record.write_text(json.dumps({"command": command, "inputs": {path: _digest(path) for path in dependencies}}))
    return target


def _run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")


def build(name, sources, flags=()):
    """Builds the module `name` from kernel sources (paths) and the runtime; returns the path of the shared library."""
    if shutil.which(COMPILER) is None:
        raise RuntimeError(f"the emulator needs a C++ compiler: {COMPILER} was not found")
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes share the folder
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            # The kernels take longest, so they start first.
            kernels = [
                pool.submit(_compile, pathlib.Path(source), [*KERNEL_FLAGS, *flags], BUILD, UNTRACKED)
                for source in sources
            ]
            runtime = [pool.submit(_compile, HERE / file, RUNTIME_FLAGS, BUILD) for file in RUNTIME]
            # The linker keeps the first copy of a standard-library template: the one without instrumentation.
            objects = [str(job.result()) for job in runtime + kernels]
        stamp = hashlib.sha256("".join(_digest(path) for path in objects).encode()).hexdigest()[:12]
        folder = BUILD / f"{name}-{stamp}"
        library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        if not library.exists():
            folder.mkdir(exist_ok=True)
            partial = library.with_suffix(".partial")
            # Kernels' names are looked up with dladdr, hence exported; yet nothing outside may replace them. A kernel
            # that is no template, in a header of several sources, is the same in each.
            options = ["-shared", "-Wl,-Bsymbolic", "-Wl,-z,now", "-Wl,--allow-multiple-definition"]
            _run([COMPILER, *options, *objects, "-ldl", "-o", str(partial)])
            partial.rename(library)
    return library


def load(name, sources, flags=()):
    """Builds and imports the module `name`."""
    spec = importlib.util.spec_from_file_location(name, build(name, sources, flags))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
