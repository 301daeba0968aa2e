"""`list --runs` shows what a folder has: finished runs, unfinished ones and what is neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import presets, record_names, records
from common import checkpoints, parameters
from common.checkpoints import Checkpoint
from tests.outputs.test_sweeps import run


def saved_checkpoint(path: Path, *, step: int) -> None:
    config = presets.QUICK.replace(latent_size=2, hidden_size=8, steps=500, image_shape=(8, 8))
    initial = parameters.initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(64))
    state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    state["step"] = state["step"] + step
    checkpoints.save(Checkpoint(config, "jax", "quick", "digits", "ab", state), path)


def listed(capsys: pytest.CaptureFixture[str], *folders: Path) -> str:
    assert main(["list", "--runs", *map(str, folders)]) == 0
    return capsys.readouterr().out


def test_finished_failed_and_unfinished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished, failed = run(), run(seed=1) | {"status": "failed", "reason": "It fell over."}
    for record in (finished, failed):
        records.write(record, tmp_path)
        saved_checkpoint(tmp_path / record_names.checkpoint_name_of(record), step=100)
    records.write(run(seed=2), tmp_path)
    saved_checkpoint(tmp_path / "stopped.h5", step=250)
    lines = listed(capsys, tmp_path).splitlines()
    assert lines[0] == str(tmp_path)
    rows = {line.split()[-1]: line for line in lines[2:]}
    assert len(rows) == 4
    names = [record_names.name_of(record).removesuffix(".json") for record in (finished, failed, run(seed=2))]
    assert "-90.00  yes" in rows[names[0]]
    assert rows[names[1]].startswith("failed")
    assert "step 100 of 500" in rows[names[1]]
    assert "-90.00  -  " in rows[names[2]]
    assert rows["stopped"].startswith("unfinished")
    assert "step 250 of 500" in rows["stopped"]


def test_files_that_are_no_runs_are_named_and_hide_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(run(), tmp_path)
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / "parity.json").write_text('{"report": "parity"}')
    (tmp_path / "export.h5").write_text("keras")
    printed = listed(capsys, tmp_path)
    assert "quick_digits_jax_mean-field" in printed
    assert "notes.json is not JSON" in printed
    assert "parity.json is passed over: a report, not a record." in printed
    assert f"{tmp_path / 'export.h5'} is passed over" in printed


def test_several_folders_and_empty_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    records.write(run(), tmp_path / "a")
    printed = listed(capsys, tmp_path / "a", tmp_path / "b")
    assert printed.count("quick_digits_jax_mean-field") == 1
    assert f"{tmp_path / 'b'} has no run." in printed


def test_without_a_folder_it_is_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list", "--runs"]) == 2
    assert "There is no folder results" in capsys.readouterr().err
    records.write(run(), tmp_path / "results")
    assert listed(capsys).splitlines()[0] == "results"
