"""The record's commit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness import environment


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a checkout to another user")
def test_the_commit_of_another_users_checkout_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where the checkout is mounted: git alone would refuse it."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "first"], cwd=tmp_path, check=True)
    for place in (tmp_path, *tmp_path.rglob("*")):
        os.chown(place, 12345, 12345)
    refused = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "dubious ownership" in refused.stderr
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    commit, dirty = environment.head()
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
