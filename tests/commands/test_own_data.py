"""A file of one's own from its first run on: in another folder, grey, moved. Every command finds and binarizes it again."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import record_names, records
from benchmarks.harness.environment import ROOT
from common import checkpoints
from common.data import SPLITS

RUN = ["run", "--backend", "jax", "--variational", "mean-field", "--steps", "20", "--samples", "25"]
RUN += ["--batch-size", "10", "--latent-size", "2", "--hidden-size", "8"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which isn't the checkout; grey.npz is in it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # as an installation has it
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    draws = np.random.default_rng(0)
    np.savez("grey.npz", **{split: draws.integers(0, 256, (20, 4, 3), dtype=np.uint8) for split in SPLITS})
    return here


def test_a_grey_file_of_a_relative_path_is_found_from_anywhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--data", "grey.npz", "--binarize", "threshold", "--results", "out"]) == 0
    (found,) = records.read_all(folder / "out")
    assert found["dataset"]["name"] == str(folder / "grey.npz")
    assert found["dataset"]["binarize"] == "threshold"
    assert "_grey-threshold-" in record_names.name_of(found)
    (checkpoint,) = (folder / "out").glob("*.h5")
    made = checkpoints.load(checkpoint)
    assert (made.dataset, made.binarize, made.sha256) == (
        str(folder / "grey.npz"),
        "threshold",
        found["dataset"]["sha256"],
    )

    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    assert main(["evaluate", str(checkpoint)]) == 0
    assert re.search(r"ELBO (-[\d.]+)", capsys.readouterr().out)[1] == f"{found['test']['elbo']:.3f}"  # type: ignore[index]

    # --from takes file and method from the checkpoint; another method is other data.
    go_on = ["run", "--from", str(checkpoint), "--dry-run"]
    assert main(go_on) == 0
    assert "_grey-threshold-" in capsys.readouterr().out
    assert main([*go_on, "--binarize", "bernoulli"]) == 2
    assert re.search(r"grey\.npz \(threshold\), not .*grey\.npz \(bernoulli\)", capsys.readouterr().err)

    # Older checkpoints have the path as it was given: it is one from the current folder.
    made.dataset = "grey.npz"
    checkpoints.save(made, elsewhere / "older.h5")
    monkeypatch.chdir(folder)
    assert main(["evaluate", str(elsewhere / "older.h5")]) == 0

    monkeypatch.chdir(elsewhere)
    (folder / "grey.npz").rename(elsewhere / "moved.npz")
    assert main(["evaluate", str(checkpoint)]) == 2
    assert re.search(r"There is no file .*/here/grey\.npz; .* as --data\.", capsys.readouterr().err)
    assert main(["evaluate", str(checkpoint), "--data", "moved.npz"]) == 0


def test_each_way_to_binarize_has_files_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for method in ("threshold", "bernoulli"):
        assert main([*RUN, "--data", "grey.npz", "--binarize", method, "--dry-run"]) == 0
        names += re.findall(r"quick\S+", capsys.readouterr().out)
    assert len(set(names)) == 2
    assert ["_grey-threshold-" in names[0], "_grey-bernoulli-" in names[1]] == [True, True]
