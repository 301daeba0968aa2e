"""show draws what its runs are, says what it passes over, and ends in one sentence where there is nothing to draw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.commands import show
from benchmarks.harness import looks, processes, record_names, record_schema, records
from benchmarks.harness.presets import QUICK
from benchmarks.outputs import pictures
from common import checkpoints, data
from common.checkpoints import Checkpoint
from common.parameters import fresh_state, initial_parameters
from tests.harness.test_looks import write_data

SMALL = QUICK.replace(latent_size=3, hidden_size=5, steps=30, warm_up=5, batch_size=20)
SOME = ("--images", "6", "--samples", "5")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each framework is imported once."""

    def ask(target: str, question: Any, *, title: str) -> Any:
        return json.loads(json.dumps(getattr(looks, target.partition(":")[2])(json.loads(json.dumps(question)))))

    monkeypatch.setattr(processes, "ask", ask)


def write_run(folder: Path, *, seed: int = 0, step: int = 30, name: str | None = None, **changes: Any) -> Path:
    """A record and its checkpoint with initial parameters in which one weight depends on the step; the checkpoint's path."""
    folder.mkdir(exist_ok=True)
    dataset = data.load("binarized-digits", data_dir=None, binarize=None)
    config = SMALL.replace(image_shape=(8, 8), seed=seed, **changes)
    initial = initial_parameters(
        config.model, training=config.training, pixel_log_odds=data.pixel_log_odds(dataset.train) + step / 30
    )
    state = fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    state["step"] = np.array(step)
    record = record_schema.blank(
        config, backend="pytorch", dataset_name=dataset.name, dataset_sha256=dataset.sha256, preset="quick"
    ) | {"reason": "A test's."}
    checkpoint = Checkpoint(config, "pytorch", "quick", dataset.name, dataset.sha256, state)
    path = folder / (name or record_names.checkpoint_name_of(record))
    checkpoints.save(checkpoint, path)
    if not name:
        records.write(record, folder)
    return path


def image(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L")).astype(int)


def test_a_folders_runs_have_a_picture_each_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path), write_run(tmp_path, hidden_size=6)]
    write_data(tmp_path)
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    assert main(["show", str(tmp_path), *SOME]) == 0
    said = capsys.readouterr()
    for path in runs:
        assert f"{path.with_suffix('.png')}: mean-field in pytorch, binarized-digits, step 30; 6 test images" in said.out
        assert image(path.with_suffix(".png")).shape[1] > 300
    assert f"{tmp_path / show.COMPARISON}: 2 models" in said.out
    assert f"{tmp_path / 'mine.h5'} is passed over: a data set, not a checkpoint" in said.err
    assert f"{tmp_path / 'broken.h5'} is passed over" in said.err
    assert "of 3 latent dimensions active" in said.out


def test_a_record_stands_for_its_checkpoint_and_one_seed_is_one_picture(tmp_path: Path) -> None:
    path = write_run(tmp_path / "results", hidden_size=6)
    (record,) = path.parent.glob("*.json")
    found = {}
    for name, arguments in {"a": [], "b": [], "c": ["--seed", "1"]}.items():
        assert main(["show", str(record), *SOME, "--output", str(tmp_path / name), *arguments]) == 0
        (picture,) = (tmp_path / name).iterdir()
        found[name] = picture.read_bytes()
    assert found["a"] == found["b"] != found["c"]
    assert sorted(path.parent.iterdir()) == sorted([path, record])


def test_an_animation_has_a_frame_for_each_kept_checkpoint_and_ends_in_the_picture(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    kept = path.with_suffix(".steps")
    for step in (10, 20, 30):
        write_run(kept, step=step, name=f"{step:08d}.h5")
    assert main(["show", str(path), *SOME, "--gif", "--webp"]) == 0
    for ending in (".gif", ".webp"):
        with Image.open(path.with_suffix(ending)) as animation:
            assert animation.n_frames == 3
            first = np.asarray(animation.convert("L")).astype(int)
            animation.seek(2)
            last = np.asarray(animation.convert("L")).astype(int)
        assert np.abs(last - image(path.with_suffix(".png"))).max() <= 127.5 / (pictures.GREYS - 1) + 1
        assert np.abs(last - first).max() > 20


def test_a_file_that_is_being_written_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(write_run(tmp_path), tmp_path / ".0123abcd-4242-deadbeef.mine.h5")
    assert main(["show", str(tmp_path), *SOME]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert "passed over" not in capsys.readouterr().err


def test_a_picture_that_cannot_be_written_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path).with_suffix(".png").mkdir()
    assert main(["show", str(tmp_path), *SOME]) == 2
    said = capsys.readouterr().err
    assert "Is a directory" in said
    assert "There is no checkpoint" not in said


def test_a_copy_of_a_record_shows_no_other_runs_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    (path,) = tmp_path.glob("*.json")
    shutil.copy(path, tmp_path / "before.json")
    assert main(["show", str(tmp_path / "before.json"), *SOME]) == 2
    assert "before.json was renamed or copied" in capsys.readouterr().err


def test_labels_say_in_what_runs_differ(tmp_path: Path) -> None:
    found = tuple(checkpoints.load(write_run(tmp_path, **changes)) for changes in ({}, {"latent_size": 4, "samples": 7}))
    assert show.labels(found) == ["pytorch mean-field, latent-size 3", "pytorch mean-field, latent-size 4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which runs?"),
        (["nowhere.h5"], "There is no record, checkpoint or folder nowhere.h5"),
        (["empty"], "There is no checkpoint in empty"),
        (["RUN", "--gif"], "train with --keep-checkpoints, or add --train"),
        (["RUN", "--train"], "add --gif or --webp"),
        (["RUN", "--images", "0"], "--images is 0"),
        (["RUN", "--backend", "theano"], "There is no backend 'theano'"),
        (["RUN", "COPY", "--output", "out"], "Two runs' pictures would be"),
        (["DIVERGED"], "diverged"),
        (["RUN", "--data", "mine.h5"], "was trained on other data"),
        (["RUN", "--output", "diverged.h5/out"], "give another as --output"),
    ],
)
def test_an_error_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_run(tmp_path)
    Path("copy").mkdir()
    Path("empty").mkdir()
    write_data(tmp_path)
    checkpoint = checkpoints.load(path)
    checkpoint.state["parameters/decoder.out.bias"][0] = np.inf
    checkpoints.save(checkpoint, tmp_path / "diverged.h5")
    named = {"RUN": str(path), "COPY": shutil.copy(path, "copy"), "DIVERGED": "diverged.h5"}
    assert main(["show", *(named.get(argument, argument) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
