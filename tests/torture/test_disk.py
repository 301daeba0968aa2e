"""Disks that are full or not to be written; each detector sees a fault."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from benchmarks.commands import run
from benchmarks.harness import records, runs
from benchmarks.harness.jobs import Job
from benchmarks.torture import disk
from benchmarks.torture.running import Ended

SCENES = {scene.name: scene for scene in disk.scenes()}


def test_the_scenes() -> None:
    assert len(SCENES) == len(disk.scenes()) == disk.AT_LEAST


@pytest.mark.parametrize(
    "name",
    [
        "files of at most 0 KB",
        "files of at most 4 KB",
        "a results folder that is read-only",
        "results --output with 0 KB free",
        "results --csv on a full stdout",
    ],
)
def test_nothing_is_lost(tmp_path: Path, name: str) -> None:
    outcome, faults = disk.played(SCENES[name], tmp_path)
    assert faults == []
    assert outcome in ("a sentence, exit code 2", "left out: only root can make it", "left out: this machine can't make it")
    assert os.geteuid() or outcome == "a sentence, exit code 2"


def test_rounds_play_every_scene_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []
    monkeypatch.setattr(disk, "played", lambda scene, folder: (played.append(scene.name), ("done", ["lost"]))[1])
    tried = disk.rounds(len(SCENES), seed=0, folder=tmp_path, tell=lambda n: None)
    assert sorted(played) == sorted(SCENES)
    assert tried.faults[3] == f"round 3: {played[3]}: lost"


SWEEP = SCENES["4 KB free"]
LINE = "Cannot write quick_{}.h5 (No space left on device); free the disk.\n"


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (Ended(1, "", "A sentence.\n", hung=False), "exit code 1"),
        (Ended(139, "", "", hung=False), "exit code 139"),
        (Ended(2, "", "", hung=False), "no sentence"),
        (Ended(2, "", "A \x1b[31mred sentence.\n", hung=False), "no sentence"),
    ],
)
def test_a_careless_end_is_seen(ended: Ended, said: str) -> None:
    (fault,) = disk.judged(ended, SWEEP)
    assert said in fault


def test_what_is_lost_or_left_is_seen(tmp_path: Path) -> None:
    checkpoint = disk.begun(tmp_path, backend="jax")
    assert disk.lost(checkpoint) == disk.left(tmp_path) == []
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    (tmp_path / ".0-1-2.file.h5").touch()
    assert "the checkpoint is lost" in disk.lost(checkpoint)[0]
    assert disk.left(tmp_path) == [".0-1-2.file.h5 is left over"]


def test_a_sweep_that_goes_on_is_seen(tmp_path: Path) -> None:
    one = Ended(2, "", LINE.format("seed0"), hung=False)
    both = Ended(2, "", LINE.format("seed0") + LINE.format("seed1"), hung=False)
    assert disk.of_sweep(one, tmp_path) == []
    assert disk.of_sweep(both, tmp_path) == ["the sweep went on"]
    assert disk.of_sweep(Ended(0, "", "", hung=False), tmp_path) == ["exit code 0, with 0 records"]


def test_a_sweep_ends_at_a_disk_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def unwritable(job: Job, **_: object) -> int:
        begun.append(job.config.training.seed)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            return runs.worker(job.as_json())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(runs, "in_process", unwritable)
    arguments = ["--backend", "pytorch", "--variational", "mean-field", "--seed", "0", "1", "--steps", "2", "--samples", "2"]
    sizes = ["--latent-size", "2", "--hidden-size", "4", "--images", "2", "--batch-size", "4", "--warm-up", "0"]
    assert run.main([*arguments, *sizes, "--results", str(tmp_path)]) == 2
    assert begun == [0]
    assert records.read_all(tmp_path) == []
    assert "Cannot write" in capsys.readouterr().err
