"""A run's lock: two processes never write the same record and checkpoint at once, and don't do the same work twice."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BETWEEN_LINES = 60.0  # seconds between two lines of a process that waits


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock file; it is gone afterwards. Yields whether another process had it first, for which this one waited.

    The file names its owner. The system frees the lock of a process that dies, however it dies. A file system without locks
    gives none: then nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waited, said = False, -BETWEEN_LINES
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = True
                if time.monotonic() - said >= BETWEEN_LINES:
                    file.seek(0)
                    print(f"Waiting for {file.read() or 'another process'}, which has {path}.", file=sys.stderr, flush=True)
                    said = time.monotonic()
                time.sleep(0.5)
                continue
            except OSError:
                yield waited
                return
            if not _named(path, file.fileno()):
                continue  # its last owner has removed it meanwhile
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            try:
                yield waited
            finally:
                path.unlink(missing_ok=True)
            return


def _named(path: Path, descriptor: int) -> bool:
    """Whether the path is that open file's."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
