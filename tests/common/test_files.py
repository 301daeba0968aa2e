"""A file is written whole or not at all."""

import errno
import os
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.errors import UserError
from common.files import write_whole


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


# HDF5 meets the limit on closing, in a large block, or at the file's end.
@pytest.mark.parametrize("limit", [100, 5_000, 80_100])
def test_hdf5_on_a_full_disk_is_one_line(tmp_path, limit):
    def write(temporary):
        with h5py.File(temporary, "w") as file:
            file["large"] = np.zeros(10_000)
            file["small"] = np.zeros(10)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match="Cannot write") as caught:
            write_whole(tmp_path / "file.h5", write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
