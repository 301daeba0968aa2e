"""A process's resident memory, as the system counts it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import psutil

CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def forget_peak() -> None:
    """Begin `peak` anew. Where the system can't, `peak` stays that of the whole process."""
    with contextlib.suppress(OSError):  # not Linux, or a container that forbids the writing
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak() -> int | None:
    """The most resident memory since `forget_peak`, bytes; None where the system doesn't say (most Linux kernels do)."""
    # Not from `ru_maxrss`, with which a child process inherits its parent's peak.
    with contextlib.suppress(OSError):
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def resident() -> int:
    """Resident memory now, bytes, after freed memory has been given back to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # malloc_trim is glibc's; other libraries give memory back themselves
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
