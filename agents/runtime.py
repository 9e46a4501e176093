"""Settings of the process that make torch faster and smaller on a CPU, without changing any number."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["available_memory", "keep_memory", "release_memory", "spare_memory"]

_LEAST = 0.2
"""Share of the machine's memory that has to stay available."""
_SMALL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "8"}
"""oneDNN's cache, and torch's own on top of it; both are read at the first product in bfloat16."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@lru_cache(maxsize=1)
def keep_memory() -> None:
    """Tells glibc to keep freed memory, and oneDNN to keep little.

    By default each large tensor is mapped anew and its pages are faulted in again, which cost a fifth of a training
    step (800,000 faults of 4 KiB). And oneDNN keeps 1,024 matrix products by their shape: episodes have ever new
    lengths, so for hundreds of steps each adds some, and these small pieces, strewn over the heap, keep freed memory
    from being joined again. A step needs fewer than 64.
    """
    for name, value in _SMALL_CACHES.items():
        os.environ.setdefault(name, value)
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library (musl)
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Gives freed memory back to the system: what `keep_memory` keeps is full of holes, more from stage to stage."""
    gc.collect()
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def spare_memory() -> None:
    """`release_memory` when the system has little left."""
    sizes = _meminfo()
    if sizes and sizes["MemAvailable"] < _LEAST * sizes["MemTotal"]:
        release_memory()


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on `device`: what is free, what it has freed and kept, and no more than
    its container allows. None where the system does not tell."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    sizes = _meminfo()
    if device.type != "cpu" or not sizes:
        return None
    free = sizes["MemAvailable"]
    for folder in _cgroups():
        with suppress(OSError, ValueError):  # "max": no limit
            limit = int((folder / "memory.max").read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(stat["file"])
            free = min(free, limit - used)
    return max(0, free) + _kept()


def _meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where it does not exist."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError):
        return {}
    return sizes if {"MemAvailable", "MemTotal"} <= sizes.keys() else {}


def _cgroups() -> list[Path]:
    """This process's control groups (version 2), innermost first: each may set a limit."""
    root = Path("/sys/fs/cgroup")
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                own = root / line[3:].lstrip("/")
                return [p for p in (own, *own.parents) if p.is_relative_to(root)]
    return []


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def _kept() -> int:
    """Bytes that glibc holds for this process, resident, and that nothing uses."""
    try:
        ask = ctypes.CDLL(None).mallinfo2
        _, resident, files, *_ = map(int, Path("/proc/self/statm").read_text().split())
    except (OSError, AttributeError):  # not glibc, or one before 2.33
        return 0
    ask.restype = _MallocInfo
    heap = ask()
    anonymous = (resident - files) * os.sysconf("SC_PAGE_SIZE")
    return max(0, min(int(heap.fordblks), anonymous - int(heap.uordblks)))  # what was trimmed is free, not resident
