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
from typing import IO

from common.files import unwritable

BETWEEN_LINES = 60.0  # seconds between two lines of a process that waits


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock file; it is gone afterwards. Yields whether another process had it first, for which this one waited.

    The file names its owner. The system frees the lock of a process that dies, however it dies. A file system without locks
    gives none: then nothing is held. Raises `DiskError` where the file can't be written.
    """
    waited, said = False, -BETWEEN_LINES
    while True:
        with _opened(path) as file:
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
            try:
                _name_owner(path, file.fileno())
                yield waited
            finally:
                path.unlink(missing_ok=True)
            return


def _opened(path: Path) -> IO[str]:
    """The lock file. Raises `DiskError` where it can't be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from error


def _name_owner(path: Path, descriptor: int) -> None:
    """Write this process's name into the lock file. Raises `DiskError` where the disk is full."""
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        raise unwritable(path, error) from error


def _named(path: Path, descriptor: int) -> bool:
    """Whether the path is that open file's."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
