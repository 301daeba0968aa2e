"""The folder for what can be made again: data sets, and programs that a framework has compiled."""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError

PLACE = "VAEBENCH_CACHE_DIR"
SWITCH = "VAEBENCH_COMPILE_CACHE"
ROOM = 2**22  # bytes: a run's programs are of about this size
SETTLED = 60.0  # seconds after which no process is still writing a program


def folder() -> Path | None:
    """The environment's PLACE, else the system's place for a user's caches; None for a user without a home."""
    if os.environ.get(PLACE):
        return Path(os.environ[PLACE])
    import pooch

    try:
        return Path(pooch.os_cache("vaebench"))
    except RuntimeError:  # no HOME, and no entry in the system's list of users
        return None


def switched_on() -> bool:
    """Whether programs are kept. Raises `UserError` for a SWITCH that is neither 0 nor 1."""
    value = os.environ.get(SWITCH) or "1"
    if value not in ("0", "1"):
        raise UserError(
            f"The environment variable {SWITCH} is '{value}'; set it to 0 to compile anew in each process, or to 1."
        )
    return value == "1"


def programs() -> Path | None:
    """Where compiled programs are kept for later processes, one folder a kind of processor.

    None where they aren't: SWITCH is 0, or the folder can't be written or lacks ROOM, which is said.
    """
    if not switched_on():
        return None
    place = folder()
    if place is None:
        print(f"Compiled programs aren't kept, since this user has no home; set {PLACE} to a folder.", file=sys.stderr)
        return None
    path = place / "programs" / processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path, buffering=0) as file:
            if (file.write(bytes(ROOM)) or 0) < ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return path
    except OSError as error:
        print(f"Compiled programs aren't kept, since {path} can't be written ({error.strerror}).", file=sys.stderr)
        return None


def remove_cut_short(folder: Path, pattern: str, *, whole: Callable[[bytes], bool]) -> None:
    """Remove the kept programs that a full disk or a killed process cut short, and say so.

    `whole`: whether a file's bytes are a whole program. Each file is read once after it was written, by a process that starts
    SETTLED seconds later or more: before, another process may still be writing it.
    """
    if not folder.is_dir():
        return
    looked, until = folder / "looked", time.time() - SETTLED
    since = looked.stat().st_mtime if looked.exists() else 0.0
    for path in folder.rglob(pattern):
        try:
            if not since <= path.stat().st_mtime < until or whole(path.read_bytes()):
                continue
            path.unlink()
        except FileNotFoundError:  # another process removed it
            continue
        print(f"The compiled program {path} is cut short: it was removed, and is compiled anew.", file=sys.stderr)
    looked.touch()
    os.utime(looked, (until, until))


def processor() -> str:
    """A name for what machine code depends on: the processor's kind and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"
