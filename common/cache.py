"""The folder for what can be made again: data sets, and programs that a framework has compiled."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import zlib
from pathlib import Path

from common.errors import UserError

SWITCH = "VAEBENCH_COMPILE_CACHE"


def folder() -> Path:
    """The environment's VAEBENCH_CACHE_DIR, else the system's place for a user's caches."""
    if os.environ.get("VAEBENCH_CACHE_DIR"):
        return Path(os.environ["VAEBENCH_CACHE_DIR"])
    import pooch

    return Path(pooch.os_cache("vaebench"))


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

    None where they aren't: SWITCH is 0, or the folder can't be written, which is said.
    """
    if not switched_on():
        return None
    path = folder() / "programs" / processor()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        print(f"Compiled programs aren't kept, since {path} can't be written ({error.strerror}).", file=sys.stderr)
        return None


def processor() -> str:
    """A name for what machine code depends on: the processor's kind and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{zlib.crc32(flags.encode()):08x}"
