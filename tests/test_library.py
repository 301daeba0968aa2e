"""The library is the command line's loop and estimators, importable from anywhere; its page's code runs as it stands."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaebench
from benchmarks.__main__ import main
from benchmarks.harness import copies, runs
from benchmarks.harness.environment import ROOT
from common import checkpoints, data
from common.image_files import parts
from common.protocol import BACKENDS
from common.version import VERSION
from tests.harness.identical import assert_same_arrays
from vaebench import UserError

TINY: dict[str, Any] = {"latent_size": 2, "hidden_size": 8, "steps": 60, "chunk": 10, "log_interval": 20} | {
    "validation_interval": 20,
    "warm_up": 10,
    "samples": 30,
    "images": 50,
}
DIGITS = data.load("binarized-digits", data_dir=None, binarize=None)


def train(images: Any = "binarized-digits", /, **settings: Any) -> vaebench.Model:
    return vaebench.train(images, **{"backend": "pytorch", "progress": False} | TINY | settings)


@pytest.fixture(scope="module")
def model() -> vaebench.Model:
    return train(variational="flow", ema_decay=0.9)


@pytest.fixture(scope="module")
def residual() -> vaebench.Model:
    """A residual network with a flow prior."""
    return train(preset="resnet", channels=2, prior_depth=2, batch_size=20)


def test_the_model_is_that_of_the_command_line(
    model: vaebench.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "in_process", lambda job, **_: runs.worker(job.as_json()))
    flags = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    chosen = ["--backend", "pytorch", "--variational", "flow", "--ema-decay", "0.9"]
    assert main(["run", *flags, *chosen, "--results", str(tmp_path / "results")]) == 0
    (path,) = (tmp_path / "results").glob("*.h5")
    theirs = checkpoints.load(path)
    assert_same_arrays(model.checkpoint.state, theirs.state)
    assert model.checkpoint.history["elbo"] == theirs.history["elbo"] == model.curve["elbo"].tolist()
    assert model.config == theirs.config

    model.save(tmp_path / "saved.h5")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "saved.h5")]) == 0
    found = model.evaluate(progress=False)
    said = f"ELBO {found.elbo:.3f} ± {found.elbo_se:.3f}, log p(x) {found.log_px:.3f} ± {found.log_px_se:.3f} nats"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trained", ["model", "residual"])
def test_a_saved_model_is_the_same_in_every_backend(
    request: pytest.FixtureRequest, trained: str, backend: str, tmp_path: Path
) -> None:
    model: vaebench.Model = request.getfixturevalue(trained)
    model.save(tmp_path / "model.h5")
    same = vaebench.load(tmp_path / "model.h5", backend=backend)
    assert same.backend == backend
    images = same.dataset.test[:5]
    z = same.encode(images, samples=3, seed=4)
    assert z.shape == (3, 5, 2)
    assert np.allclose(z, model.encode(images, samples=3, seed=4), atol=1e-5)
    assert np.allclose(same.reconstruct(images, seed=4), same.decode(z[0]), atol=1e-6)
    assert np.allclose(same.sample(7, seed=1), model.sample(7, seed=1), atol=1e-5)
    assert same.sample(7, seed=1).shape == (7, 8, 8)
    assert not np.allclose(same.sample(7, seed=2), same.sample(7, seed=1))
    pixels, square = (same.evaluate(shape, samples=5, progress=False) for shape in (images, images.reshape(-1, 8, 8)))
    assert pixels == square
    assert (pixels.importance_samples, pixels.images) == (5, 5)


def test_arrays_are_data(tmp_path: Path) -> None:
    splits = {split: getattr(DIGITS, split) for split in data.SPLITS}
    square = {split: images.reshape(-1, 8, 8).astype(bool) for split, images in splits.items()}
    assert_same_arrays(train(square).checkpoint.state, train().checkpoint.state)

    all_images = np.concatenate(list(splits.values())).reshape(-1, 4, 16)
    alone = train(all_images, latent_size=np.int64(3))
    assert alone.config.model.image_shape == (4, 16)
    sizes = [len(getattr(alone.dataset, split)) for split in data.SPLITS]
    assert sizes == [1439, 179, 179]
    alone.save(tmp_path / "alone.h5")
    with pytest.raises(UserError, match=r"arrays in memory.*numpy.savez"):
        _ = vaebench.load(tmp_path / "alone.h5").dataset
    np.savez(tmp_path / "mine.npz", **{split: getattr(alone.dataset, split) for split in data.SPLITS})
    moved = vaebench.load(tmp_path / "alone.h5", data=tmp_path / "mine.npz")
    assert moved.evaluate(progress=False) == alone.evaluate(progress=False)

    grey = np.random.default_rng(0).random((600, 8, 8))
    assert np.array_equal(train(grey, binarize="threshold").dataset.test, (parts(grey)["test"] > 0.5).reshape(60, 64))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backend": "theano"}, "There is no backend 'theano'; choose from"),
        ({"preset": "fast"}, "There is no preset 'fast'"),
        ({"learning_rates": 1e-3}, "There is no setting 'learning_rates'; `python -m benchmarks run --help-all` lists them."),
        ({"variational": "laplace"}, "it must be one of mean-field, flow"),
        ({"steps": "many"}, "--steps is many; it must be a whole number"),
        ({"image_shape": (8, 8)}, "image_shape is no setting"),
        ({"images": 301}, "only 300 test images"),
        ({"data": "absent.npz"}, "absent.npz"),
        ({"data": np.zeros((9, 64))}, "arrays in memory has 9 images"),
        ({"data": {"train": np.zeros((9, 64))}}, "arrays in memory has no array 'valid'"),
        ({"data": np.full((200, 64), 0.5)}, "values other than 0 and 1"),
        ({"data": [[0, 1], [1]]}, "The images are no array"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as refused:
        train(arguments.pop("data", "binarized-digits"), **arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((8, 8)), r"have the shape [8, 8]; this model's have [images, 8, 8] or [images, 64]."),
        (np.zeros((0, 64)), "have the shape [0, 64]"),
        (np.full((3, 64), 2), "values other than 0 and 1"),
    ],
)
def test_images_of_another_kind_are_refused(model: vaebench.Model, images: np.ndarray, words: str) -> None:
    for method in (model.encode, model.reconstruct, model.evaluate):
        with pytest.raises(UserError, match=re.escape(words)):
            method(images)


def test_a_model_that_was_trained_on_a_card_with_tf32_is_loaded_on_the_cpu_in_full_precision(
    model: vaebench.Model, tmp_path: Path
) -> None:
    trained = dataclasses.replace(model.checkpoint, config=model.config.replace(device="cuda", precision="tf32"))
    checkpoints.save(trained, tmp_path / "card.h5")
    loaded = vaebench.load(tmp_path / "card.h5")
    assert loaded.config == model.config
    assert np.array_equal(loaded.sample(2), model.sample(2))


def test_estimates_that_contradict_what_they_are_are_a_warning(model: vaebench.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.Dataset, "highest_log_px", -40.0)
    with pytest.warns(UserWarning, match=r"^log p\(x\) -\S+ is above -40 nats, which no model of this data set reaches\.$"):
        model.evaluate(progress=False)


def test_one_image_and_one_sample_do_not_tell_their_errors(model: vaebench.Model) -> None:
    found = model.evaluate(DIGITS.test[:1], samples=np.int64(1), progress=False)  # type: ignore[arg-type]
    assert np.isnan([found.elbo_se, found.log_px_se, found.log_px_mc_se]).all()
    with pytest.raises(UserError, match=r"samples is 1\.5"):
        model.evaluate(DIGITS.test[:1], samples=1.5, progress=False)  # type: ignore[arg-type]


def test_counts_seeds_and_latents_that_make_no_sense_are_refused(model: vaebench.Model) -> None:
    for call, words in (
        (lambda: model.sample(0), "n is 0; it must be a whole number, 1 or more."),
        (lambda: model.sample(2.5), "n is 2.5"),  # type: ignore[arg-type]
        (lambda: model.sample(2, seed=-1), "seed is -1; it must be a whole number, 0 or more."),
        (lambda: model.encode(np.zeros((2, 64)), samples=0), "samples is 0"),
        (lambda: model.decode(np.zeros((2, 3))), "The latents have the shape [2, 3]; this model's have [images, 2]."),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            call()


def test_the_pages_code_runs_from_an_empty_folder_after_an_editable_install(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    checkout, site, empty = (tmp_path / name for name in ("checkout", "site", "empty"))
    copies.copied(checkout)
    for name in ("vaebench.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, "--editable", str(checkout)], check=True, cwd=empty, capture_output=True)

    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(encoding="utf-8"), re.DOTALL)
    after = (
        "\nimport importlib.metadata\nprint(vaebench.__file__, importlib.metadata.version('vaebench'), sheet.shape, z.shape)\n"
    )
    (empty / "notebook.py").write_text(f"import site\nsite.addsitedir({str(site)!r})\n{block}{after}", encoding="utf-8")
    command = [sys.executable, "-W", "error", "notebook.py"]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scores, place = done.stdout.splitlines()
    assert re.fullmatch(r"log p\(x\) = -2\d\.\d\d ± 0\.\d\d nats, ELBO = -2\d\.\d\d", scores)
    assert place == f"{checkout / 'vaebench.py'} {VERSION} (24, 64) (100, 8, 16)"
    assert sorted(path.name for path in empty.iterdir()) == ["digits.h5", "notebook.py"]
