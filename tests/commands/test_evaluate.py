"""`evaluate`: weights that have no score, errors that nothing tells, annealing and its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vaebench
from benchmarks.__main__ import main
from benchmarks.commands import evaluate
from benchmarks.harness import annealed, cli
from common import annealing, checkpoints, data, parameters
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import DiskError, UserError
from common.protocol import BACKENDS


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_are_not_finite_have_no_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str, number: float
) -> None:
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = Config().replace(latent_size=2, hidden_size=4, image_shape=digits.image_shape, samples=5, images=7)
    initial = parameters.initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(64))
    state = parameters.fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    state["parameters/decoder.out.weight"][0, 0] = number
    path = tmp_path / "run.h5"
    checkpoints.save(Checkpoint(config, backend, "quick", digits.name, digits.sha256, state), path)
    assert main(["evaluate", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "The model has diverged: of 7 of 7 images the ELBO or log p(x) isn't a finite number" in said.err
    assert "Warning" not in said.err
    with pytest.raises(UserError, match="The model has diverged"):
        vaebench.load(path).evaluate()


def trained(folder: Path, backend: str) -> Path:
    """A small model's checkpoint with random weights."""
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = Config().replace(latent_size=2, hidden_size=8, image_shape=digits.image_shape, samples=50, image_batch=3)
    initial = parameters.initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(64))
    draws = np.random.default_rng(1)
    moved = {name: (value + 0.3 * draws.normal(size=value.shape)).astype("float32") for name, value in initial.items()}
    state = parameters.fresh_state(moved, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    path = folder / "run.h5"
    checkpoints.save(Checkpoint(config, backend, "quick", digits.name, digits.sha256, state), path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_annealing_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """After two of three batches the results of two are kept; the same command computes one, and says the same numbers."""
    path = trained(tmp_path, backend)
    command = ["evaluate", str(path), "--ais", "--images", "7", "--distributions", "6", "--chains", "4", "--leapfrogs", "2"]
    assert main(command) == 0
    whole = capsys.readouterr()
    assert "7 images × 4 chains × 6 distributions × 2 leapfrog steps" in whole.err
    assert "log p(x) by annealing" in whole.out
    (kept,) = tmp_path.glob("*.ais-*.npz")
    kept.unlink()
    done, write = [], annealed.write_bytes

    def two(path: Path, content: bytes) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(annealed, "write_bytes", two)
        assert main(command) == 130
    assert len(annealed.read(kept)["image"]) == 6
    capsys.readouterr()
    batches = annealing.target_of
    counted = []
    monkeypatch.setattr(annealing, "target_of", lambda *arguments: counted.append(1) or batches(*arguments))
    assert main(command) == 0
    assert capsys.readouterr().out == whole.out
    assert len(counted) == 1
    assert main([*command[:-1], "3"]) == 0, "other settings have a file of their own"
    assert len(list(tmp_path.glob("*.ais-*.npz"))) == 2


def test_a_damaged_file_of_annealing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(trained(tmp_path, "pytorch")), "--ais", "--images", "2", "--distributions", "2", "--chains", "2"]
    assert main(command) == 0
    (kept,) = tmp_path.glob("*.ais-*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    capsys.readouterr()
    assert main(command) == 2
    assert f"The results {kept} can't be read" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["a", np.nan])
def test_results_of_annealing_that_are_no_number_are_refused(tmp_path: Path, value: str | float) -> None:
    path = tmp_path / "run.ais-0.npz"
    np.savez(path, **{name: np.array([value]) for name in annealed.ARRAYS})
    with pytest.raises(UserError, match="one number an image"):
        annealed.read(path)


def test_annealing_beside_a_checkpoint_in_a_folder_that_cannot_be_written_ends_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise DiskError("Read-only file system")

    path = trained(tmp_path, "pytorch")
    monkeypatch.setattr(cli, "write_bytes", refuse)
    assert main(["evaluate", str(path), "--ais"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "copy the checkpoint to another folder" in said.err


def test_a_test_set_below_the_default_of_annealing_is_taken_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "ANNEALED_IMAGES", 10**6)
    path = trained(tmp_path, "pytorch")
    assert main(["evaluate", str(path), "--ais", "--samples", "2", "--distributions", "1", "--chains", "1"]) == 0
    images = len(data.load("binarized-digits", data_dir=None, binarize=None).test)
    said = capsys.readouterr()
    assert f"{images} images × 1 chains" in said.err
    assert "over other chains ± unknown" in said.out


def test_an_error_that_one_image_and_one_sample_do_not_tell_is_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained(tmp_path, "pytorch")), "--images", "1", "--samples", "1"]) == 0
    assert capsys.readouterr().out.count("± unknown") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chains", "3"], "--chains is a setting of --ais; add --ais"),
        (["--ais", "--leapfrogs", "0"], "--leapfrogs is 0; it must be at least 1"),
        (["--ais", "--schedule", "cubic"], "--schedule is 'cubic'; it must be sigmoid or linear"),
    ],
)
def test_settings_of_annealing_that_make_no_sense_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["evaluate", str(trained(tmp_path, "pytorch")), *arguments]) == 2
    assert words in capsys.readouterr().err
