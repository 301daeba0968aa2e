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
    """Let the system's highest resident set start anew; where it can't, the highest stays the whole process's."""
    with contextlib.suppress(OSError):  # not Linux, or a container that forbids it
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak() -> int | None:
    """Bytes: the highest resident set since `forget_peak`; None where the system doesn't say (most Linux kernels do)."""
    # Not `ru_maxrss`: a child begins with its parent's.
    try:
        lines = STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def resident() -> int:
    """Bytes now, after freed memory has been given back to the system."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it, and needs it
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)
