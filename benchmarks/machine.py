"""The machine: what it is, how fast its memory is, and how it is set up for a run."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
ROTATIONS = 3  # buffers add up to this many times the last-level cache
UNKNOWN_CACHE = 32 << 20  # bytes, where the system does not tell
WARM_BYTES = 6 << 30  # that malloc is given before anything is measured
CEILING_BUFFER = 64 << 20  # bytes
CUDA_CEILING_BUFFER = 1 << 30  # bytes: a launch is nothing beside it
CEILING_SECONDS = 1.0  # for each way of reading or copying
LOOK_SECONDS = 0.02  # between two looks at the memory, at least


def last_level_cache(device: str) -> int:
    """Bytes."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip()).groups()
        sizes.append(int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit])
    return max(sizes, default=UNKNOWN_CACHE)


def free_memory(device: str) -> int:
    """Bytes that a peer may use, with a quarter held back."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] * 3 // 4
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found.group(1)) * 1024 * 3 // 4 if found else sys.maxsize


def keep_freed_memory() -> bool:
    """Makes glibc keep what is freed, as CUDA's allocator does; else every large temporary costs its page faults anew.

    Returns whether it could. It helps the peers, which make more temporaries, more than it helps us.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(trim_threshold, -1) and libc.mallopt(mmap_max, 0)):
        return False
    warm = min(WARM_BYTES, free_memory("cpu") // 3)
    torch.empty(warm, dtype=torch.uint8).fill_(1)  # a virtual machine's fresh page may cost more than what is measured
    return True


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def describe(device: str, command: str) -> dict[str, object]:
    """device, torch, cuda, driver, commit, date, command (with what the environment asks of cas_ext): who measured what."""
    cpu = f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if device == "cuda" else None
    asked = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("CAS_EXT_CPU_")]
    commit = _output("git", "rev-parse", "HEAD") or os.environ.get("CAS_EXT_COMMIT")  # for a copy without .git
    # New results beside the code are no change of it.
    if commit and _output("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"):
        commit += " with local changes"
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "driver": driver.splitlines()[0] if driver else None,
        "commit": commit,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([*asked, command]),
    }


Read = Callable[[Tensor], Tensor]


class Memory:
    """Buffers that add up to `bytes`: they measure the ceilings, and reading them flushes the cache."""

    def __init__(self, device: str, bytes: int) -> None:
        self.device = device
        size = min(bytes, CEILING_BUFFER) if device == "cpu" else CUDA_CEILING_BUFFER
        generator = torch.Generator(device).manual_seed(0)
        first = torch.rand(size // 4, generator=generator, device=device)
        self.buffers = [first, *(first.clone() for _ in range(1, max(2, -(-bytes // size))))]
        self.targets = [b.clone() for b in self.buffers]
        self.read: Read = torch.sum
        self.samples: list[tuple[float, float]] = []  # seconds of a read and of a copy
        self.looked = 0.0

    def flush(self) -> None:
        for buffer in self.buffers:
            buffer.sum()

    def ceilings(self) -> dict[str, float]:
        """GB/s of the best read-only reduction, and of a copy, which counts the bytes read and those written."""
        reads: tuple[Read, ...] = (torch.sum, torch.amax, lambda b: torch.dot(b, b))
        seconds = [self._median_seconds([lambda b=b, r=r: r(b) for b in self.buffers]) for r in reads]
        self.read = reads[seconds.index(min(seconds))]
        pairs = list(zip(self.targets, self.buffers, strict=True))
        return self._gbps(min(seconds), self._median_seconds([lambda t=t, b=b: t.copy_(b) for t, b in pairs]))

    def look(self) -> None:
        """One sample of each ceiling, unless the last is recent: a virtual machine's memory is faster at some times."""
        if time.perf_counter() - self.looked < LOOK_SECONDS:
            return
        for buffer, target in zip(self.buffers, self.targets, strict=True):
            read, copy = partial(self.read, buffer), partial(target.copy_, buffer)
            self.samples.append((self._seconds(read), self._seconds(copy)))
        self.looked = time.perf_counter()

    def seen(self) -> dict[str, float]:
        """The ceilings by the looks since the last call."""
        samples, self.samples, self.looked = self.samples, [], 0.0
        return self._gbps(*(statistics.median(seconds) for seconds in zip(*samples, strict=True)))

    def _gbps(self, read_seconds: float, copy_seconds: float) -> dict[str, float]:
        size = self.buffers[0].nbytes
        return {"read_gbps": size / read_seconds / 1e9, "copy_gbps": 2 * size / copy_seconds / 1e9}

    def _median_seconds(self, calls: list[Callable[[], Tensor]]) -> float:
        for call in calls:
            call()
        seconds: list[float] = []
        deadline = time.perf_counter() + min(CEILING_SECONDS, len(calls) * self.buffers[0].nbytes / 1e8)
        while len(seconds) < len(calls) or time.perf_counter() < deadline:
            for call in calls:
                seconds.append(self._seconds(call))
        return statistics.median(seconds)

    def _seconds(self, call: Callable[[], Tensor]) -> float:
        if self.device == "cpu":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(100_000)  # cycles, some 50 us: by then everything is queued
        start_event.record()
        call()
        end_event.record()
        end_event.synchronize()
        return start_event.elapsed_time(end_event) / 1e3
