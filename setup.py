"""Builds two operator libraries on LibTorch's stable ABI: cas_ext/_C (schemas, CPU) and cas_ext/_cuda (CUDA).

Environment: CUDA_HOME, TORCH_CUDA_ARCH_LIST and MAX_JOBS as for any PyTorch extension; CAS_EXT_CUDA=0 leaves CUDA out, =1
makes its absence an error.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup

MINIMUM_TORCH = "0x020a000000000000"  # 2.10, the oldest with the stable operators used here
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"  # without a GPU to ask: Ampere, Hopper, and PTX for whatever follows


def say(text: str) -> None:
    print(f"cas_ext: {text}", file=sys.stderr, flush=True)


def find_cuda_home() -> str | None:
    """The toolkit's folder: CUDA_HOME, else the one that nvcc itself names (the nvcc on PATH may be a wrapper script)."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        if not Path(home, "bin", "nvcc").exists():
            raise SystemExit(f"cas_ext: CUDA_HOME must hold bin/nvcc, got {home}")
        return home
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "/usr/local/cuda" if Path("/usr/local/cuda/bin/nvcc").exists() else None
    dry_run = subprocess.run([nvcc, "-dryrun", "-x", "cu", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ _HERE_=(.+)$", dry_run.stderr + dry_run.stdout, re.MULTILINE)
    return str(Path(found.group(1).strip()).parent) if found else None


CUDA_HOME = find_cuda_home()
if CUDA_HOME:
    os.environ["CUDA_HOME"] = CUDA_HOME  # before PyTorch guesses its own

import torch  # noqa: E402  (PyTorch reads CUDA_HOME when it is imported)
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def why_no_cuda() -> str | None:
    """The reason why the CUDA library is left out, or None where it is built."""
    if os.environ.get("CAS_EXT_CUDA") == "0":
        return "CAS_EXT_CUDA=0"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if CUDA_HOME is None:
        return "no nvcc was found (set CUDA_HOME or put nvcc on PATH)"
    return None


def host_flags() -> list[str]:
    flags = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
    flags += [f"-DTORCH_TARGET_VERSION={MINIMUM_TORCH}"]
    return flags


def extensions() -> list:
    sources = ["csrc/ops.cpp", *sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp"))]
    headers = sorted(str(p) for p in Path("csrc").rglob("*") if p.suffix in (".h", ".cuh"))
    found = [
        CppExtension(
            "cas_ext._C", sources, depends=headers, extra_compile_args={"cxx": host_flags()}, py_limited_api=True
        )
    ]
    reason = why_no_cuda()
    if reason:
        if os.environ.get("CAS_EXT_CUDA") == "1":
            raise SystemExit(f"cas_ext: CAS_EXT_CUDA=1, but the CUDA library cannot be built: {reason}")
        say(f"building the CPU library only: {reason}")
        return found
    if "TORCH_CUDA_ARCH_LIST" not in os.environ:
        gpus = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
        own = ";".join(sorted({f"{major}.{minor}" for major, minor in gpus}))
        os.environ["TORCH_CUDA_ARCH_LIST"] = own or DEFAULT_ARCHITECTURES
    say(f"building the CPU and CUDA libraries: {CUDA_HOME}, architectures {os.environ['TORCH_CUDA_ARCH_LIST']}")
    nvcc_flags = ["-O3", "-std=c++20", "-lineinfo", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={MINIMUM_TORCH}"]
    nvcc_flags.append("-Xcompiler=-fvisibility=hidden")
    found.append(
        CUDAExtension(
            "cas_ext._cuda",
            sorted(str(p) for p in Path("csrc/cuda").glob("*.cu")),
            depends=headers,
            extra_compile_args={"cxx": host_flags(), "nvcc": nvcc_flags},
            py_limited_api=True,
        )
    )
    return found


class Build(BuildExtension.with_options(no_python_abi_suffix=False)):
    """Keeps the object files of an editable install, so that the next one compiles only what has changed."""

    def run(self) -> None:
        if self.editable_mode:
            self.build_temp = str(Path("build", "editable"))
        super().run()


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
