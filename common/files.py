"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import platform
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import h5py

from common.errors import DiskError

HDF5 = b"\x89HDF\r\n\x1a\n"  # begins an HDF5 file
MARK = b"vaebench sha256 "  # begins a sealed HDF5 file
BLOCK = 512  # bytes before a sealed file's HDF5: HDF5's readers look for its beginning there, too

# The refusals of network mounts, and of a folder that may be written and not be read.
NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)

# What h5py raises on a damaged file, depending on which bytes are hit; a damaged size can be that of more memory than there is.
DAMAGED_HDF5 = (OSError, KeyError, RuntimeError, ValueError, AttributeError, MemoryError)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Make `path` what `write` writes, and on any failure leave it as it was.

    `write` gets a temporary path in the same folder (made if need be) that ends in the file's own name, since some writers look
    at the suffix. The file reaches the disk before it takes its name, and then so do its name and new folders'. Temporary files
    of this name whose process on this machine has died are removed.

    Raises `DiskError` where the folder or the disk refuses; whatever else `write` raises passes through.
    """
    temporary = path.with_name(f".{_host()}-{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    new = [folder for folder in path.parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in _leftovers(path):
            leftover.unlink(missing_ok=True)
        try:
            write(temporary)
            _to_disk(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        for folder in (path.parent, *(folder.parent for folder in new)):
            _folder_to_disk(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> DiskError:
    """The error of a file that the folder or the disk refuses."""
    return DiskError(f"Cannot write {path} ({error.strerror or error}); free the disk or choose another folder.")


def _host() -> str:
    """This machine's name in eight characters of a file's name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _leftovers(path: Path) -> list[Path]:
    """The temporary files of `write_whole` for this path whose process on this machine has died."""
    pattern = re.compile(rf"\.{_host()}-(\d+)-[0-9a-f]{{8}}\.{re.escape(path.name)}")
    try:
        found = [(each, pattern.fullmatch(each.name)) for each in path.parent.iterdir()]
    except PermissionError:  # a folder that may be written and not be read
        return []
    return [each for each, match in found if match and not _alive(int(match[1]))]


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    """`write_whole` of an HDF5 file with what `fill` puts into it, sealed: its first BLOCK bytes have the SHA-256 of the rest.

    HDF5 writes to memory: on a full disk it would leave a file open and end the process in a crash.
    """
    memory = io.BytesIO()
    with h5py.File(memory, "w", userblock_size=BLOCK) as file:
        fill(file)
    content = memory.getvalue()[BLOCK:]
    write_bytes(path, seal(content) + content)


def seal(content: bytes) -> bytes:
    """The first BLOCK bytes of a sealed file with this content after them."""
    return (MARK + hashlib.sha256(content).hexdigest().encode() + b"\n").ljust(BLOCK, b"\0")


def begins_sealed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MARK)) == MARK


def read_sealed(path: Path) -> bytes | None:
    """The bytes of a sealed file, unchanged in each bit; None for HDF5 without a seal, as earlier versions wrote it.

    Raises `ValueError` for all else.
    """
    with path.open("rb") as file:
        head = file.read(BLOCK)
        if head.startswith(HDF5):
            return None
        content = file.read() if head.startswith(MARK) else b""
    if head != seal(content):
        raise ValueError("its bytes aren't those that were written; it may be open for writing in another program")
    return head + content


def write_text(path: Path, text: str) -> None:
    """`write_whole` of a text, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` of these bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_whole(path, write)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises `OSError` where there is none, `ValueError` for another encoding.

    A pipe or a device is no file: its reader could wait for ever, or fill the memory.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is no regular file")
    return path.read_text(encoding="utf-8")


def _folder_to_disk(folder: Path) -> None:
    """`_to_disk`, where the file system can do it to folders: the file is there all the same."""
    try:
        _to_disk(folder)
    except OSError as error:
        if error.errno not in NOT_FOR_FOLDERS:
            raise


def _to_disk(path: Path) -> None:
    """Return when the file's content, or the folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
