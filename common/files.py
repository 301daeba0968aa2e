"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError

# What h5py raises on a damaged file, depending on which bytes are hit; a damaged size can be that of more memory than there is.
DAMAGED_HDF5 = (OSError, KeyError, RuntimeError, ValueError, AttributeError, MemoryError)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Make `path` what `write` writes, and on any failure leave it as it was.

    `write` gets a temporary path in the same folder (made if need be) that ends in the file's own name, since some writers look
    at the suffix. The file reaches the disk before it takes its name, and then so do its name and new folders'.

    Raises `UserError` where the folder or the disk refuses; whatever else `write` raises passes through.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    new = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, *(folder.parent for folder in new)):
            _to_disk(folder)
    except (OSError, RuntimeError) as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise UserError(f"Cannot write {path} ({reason}); free the disk or choose another folder.") from error


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` of these bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_whole(path, write)


def _refusal(error: Exception) -> str | None:
    """Why the system refused to write, in its own words, or None where the error is another.

    A full disk in HDF5 is an OSError of several lines, or on closing a RuntimeError; both hold the system's number.
    """
    number = re.search(r"errno = (\d+)", str(error))
    if number:
        return os.strerror(int(number[1]))
    return (error.strerror or str(error)) if isinstance(error, OSError) else None


def _to_disk(path: Path) -> None:
    """Return when the file's content, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
