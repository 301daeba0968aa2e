"""A file is written whole or not at all."""

import contextlib
import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from common import files
from common.errors import UserError
from common.files import read_sealed, write_hdf5, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_into_a_new_folder_and_over_an_old_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    for text in ("first", "second"):
        write_whole(path, lambda temporary, text=text: temporary.write_text(text))
        assert path.read_text() == text
        assert names(path.parent) == ["file.txt"]


def test_the_temporary_file_is_beside_the_file_and_ends_in_its_name(tmp_path):
    seen = []

    def write(temporary):
        seen.append(temporary)
        temporary.touch()

    write_whole(tmp_path / "file.h5", write)
    assert seen[0].parent == tmp_path
    assert seen[0].name.endswith(".file.h5")


@pytest.mark.parametrize("failure", [ZeroDivisionError("a bug"), RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_failure_of_the_writer_passes_through_and_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the n")
        raise failure

    with pytest.raises(type(failure)):
        write_whole(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_refusal_of_the_system_is_a_user_error_and_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(UserError, match=r"file\.txt \(No space left on device\)"):
        write_whole(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_may_be_written_and_not_be_read_gets_the_file(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        write_whole(tmp_path / "file.txt", lambda temporary: temporary.write_text("new"))
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(("number", "fine"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_folder_that_the_file_system_does_not_flush_has_the_file(tmp_path, monkeypatch, number, fine):
    to_sync = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        to_sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with contextlib.nullcontext() if fine else pytest.raises(UserError, match="Input/output error"):
        write_whole(tmp_path / "new" / "file.txt", lambda temporary: temporary.write_text("new"))
    assert names(tmp_path / "new") == ["file.txt"]


def test_new_folders_reach_the_disk_too(tmp_path, monkeypatch):
    synced, opened = [], {}
    to_open, to_sync = os.open, os.fsync

    def remember(path, *rest):
        descriptor = to_open(path, *rest)
        opened[descriptor] = Path(path)
        return descriptor

    monkeypatch.setattr(os, "open", remember)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(opened[descriptor]), to_sync(descriptor)))
    write_whole(tmp_path / "new" / "folder" / "file.txt", lambda temporary: temporary.touch())
    assert set(synced[1:]) == {tmp_path, tmp_path / "new", tmp_path / "new" / "folder"}
    synced.clear()
    write_whole(tmp_path / "new" / "file.txt", lambda temporary: temporary.touch())
    assert synced[1:] == [tmp_path / "new"]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        write_whole(tmp_path / "file" / "below", lambda temporary: temporary.touch())


@pytest.mark.parametrize("limit", [100, 5_000, 80_100])
def test_hdf5_on_a_full_disk_is_one_line(tmp_path, limit):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match="Cannot write") as caught:
            write_hdf5(tmp_path / "file.h5", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def fill(file: h5py.File) -> None:
    file.attrs["title"] = "numbers"
    file["large"] = np.arange(10_000.0)
    file["small"] = np.zeros(10)


def test_a_process_that_met_a_full_disk_ends_without_a_crash(tmp_path):
    code = f"""
import resource
import subprocess
import sys
from pathlib import Path
import numpy as np
from common import files
from common.errors import UserError
from common.files import write_hdf5
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
for name in "abc":
    try:
        write_hdf5(Path({str(tmp_path)!r}) / name, lambda file: file.create_dataset("x", data=np.ones(10_000)))
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("File too large"), done.stderr) == (0, 3, "")
    assert names(tmp_path) == []


def test_a_sealed_file_is_hdf5_and_every_changed_bit_is_found(tmp_path):
    path = tmp_path / "file.h5"
    write_hdf5(path, fill)
    with h5py.File(path) as file:
        assert file.attrs["title"] == "numbers"
        assert np.array_equal(file["large"], np.arange(10_000.0))
    content = path.read_bytes()
    assert read_sealed(path) == content
    draws = np.random.default_rng(0)
    places = [*range(520), *draws.integers(0, len(content), 300)]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draws.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="aren't those that were written"):
            read_sealed(path)
    for damaged in (content[:-1], content + b"\0", content[:100], b"", content[512:][::-1]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="aren't those that were written"):
            read_sealed(path)


def test_hdf5_of_earlier_versions_has_no_seal(tmp_path):
    with h5py.File(tmp_path / "old.h5", "w") as file:
        fill(file)
    assert read_sealed(tmp_path / "old.h5") is None


def test_temporary_files_of_dead_processes_alone_are_removed(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    dead, host = int(process.stdout), files._host()
    kept = [f".{host}-{os.getpid()}-01234567.file.txt", f".other123-{dead}-01234567.file.txt", f".{host}-{dead}-01234567.file"]
    for name in (*kept, f".{host}-{dead}-01234567.file.txt"):
        (tmp_path / name).touch()
    write_whole(tmp_path / "file.txt", lambda temporary: temporary.touch())
    assert names(tmp_path) == sorted([*kept, "file.txt"])
