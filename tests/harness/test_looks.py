"""A look shows what the session encodes and decodes; KL and active dimensions are what they are for known posteriors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.harness import looks, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.looks import Look
from common import checkpoints, data, noise, protocol
from common.checkpoints import Checkpoint
from common.errors import UserError
from tests.parity.conftest import IMAGES, random_state, small

SETTINGS = {"images": 7, "samples": 5, "seed": 3}


def write_data(folder: Path, **more: np.ndarray) -> str:
    """A data file with images of 3×4 pixels, 60 of them in the test set; its path."""
    path = folder / "mine.h5"
    with h5py.File(path, "w") as file:
        file.attrs["image_shape"] = (3, 4)
        for split, images in {"train": IMAGES[:200], "valid": IMAGES[200:240], "test": IMAGES[240:], **more}.items():
            file[split] = images
    return str(path)


def write_checkpoint(folder: Path, family: str, *, name: str = "a.h5", **settings: object) -> Path:
    config = small(family, **settings)
    dataset = data.load(write_data(folder), data_dir=None, binarize=None)
    checkpoint = Checkpoint(config, "pytorch", "quick", dataset.name, dataset.sha256, random_state(config))
    checkpoint.history = {"valid_step": [0], "valid_elbo": [-9.5]}
    checkpoints.save(checkpoint, folder / name)
    return folder / name


def question(path: Path, data_set: str | None = None) -> dict[str, object]:
    """What a fresh process is asked."""
    data_set = data_set or str(path.with_name("mine.h5"))
    return {"paths": [str(path)], "backend": "pytorch", "data": [data_set], "data_dir": None, **SETTINGS}


def taken(path: Path) -> tuple[Look, protocol.Scorer, data.Dataset]:
    """In this process: the checkpoint's look, its scorer and its data set."""
    checkpoint = checkpoints.load(path)
    scorer = protocol.load("pytorch").score(checkpoint.config, checkpoint.selected())
    dataset = data.load(checkpoint.dataset, data_dir=None, binarize=None)
    return looks.take(scorer, checkpoint, dataset=dataset, step=0, **SETTINGS), scorer, dataset


def assert_same(look: Look, other: Look) -> None:
    for field in dataclasses.fields(Look):
        assert np.array_equal(getattr(look, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("family", ["mean-field", "flow"])
def test_images_are_what_the_session_encodes_and_decodes(tmp_path: Path, family: str) -> None:
    look, scorer, dataset = taken(write_checkpoint(tmp_path, family))
    order = noise.generator(3, noise.PICTURED).permutation(60)
    images = dataset.test[order[:7]]
    assert np.array_equal(look.originals.reshape(7, 12), 255 * images)
    draw = noise.generator(3, noise.RECONSTRUCTION).standard_normal((1, 7, 4))
    probabilities = scorer.decode(scorer.encode(images, draw)[0])
    assert np.abs(look.reconstructions.reshape(7, 12) / 255 - probabilities).max() <= 0.5 / 255 + 1e-12
    probabilities = scorer.decode(noise.generator(3, noise.GALLERY).standard_normal((5, 4)))
    assert np.abs(look.samples.reshape(5, 12) / 255 - probabilities).max() <= 0.5 / 255 + 1e-12
    assert probabilities.std() > 0.1, "else any picture would do"
    base = scorer.inspect(scorer.place(images), np.arange(7, dtype=np.int32), noise=draw, kl_weight=1.0)
    unmoved = looks.grey(scorer.decode(base["loc"] + base["scale"] * draw[0])).reshape(7, 3, 4)
    assert np.array_equal(look.reconstructions, unmoved) == (family == "mean-field"), "a flow's draws go through its blocks"
    assert (look.step, look.elbo, look.variational, look.image_shape) == (0, -9.5, family, (3, 4))


def test_a_picture_has_the_shape_of_the_images_in_training(tmp_path: Path) -> None:
    """The file may be another with the same images, in rows and columns of other lengths."""
    checkpoint = checkpoints.load(write_checkpoint(tmp_path, "mean-field"))
    scorer = protocol.load("pytorch").score(checkpoint.config, checkpoint.selected())
    flat = dataclasses.replace(data.load(checkpoint.dataset, data_dir=None, binarize=None), image_shape=(1, 12))
    look = looks.take(scorer, checkpoint, dataset=flat, step=0, **SETTINGS)
    assert (look.image_shape, look.samples.shape) == ((3, 4), (5, 3, 4))


def test_a_fresh_process_sees_the_same_and_another_seed_sees_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, "flow", latent_size=2)
    monkeypatch.chdir(tmp_path)
    look = looks.of(Path("a.h5"), **SETTINGS, data=["mine.h5"], data_dir=None)
    assert_same(look, taken(path)[0])
    (other,) = looks._of_each(question(path) | {"seed": 4})
    for name in ("originals", "reconstructions", "samples"):
        assert not np.array_equal(getattr(look, name), getattr(Look.from_json(other), name))


def test_the_kl_of_a_mean_field_posterior_is_the_analytic_one(tmp_path: Path) -> None:
    look, scorer, dataset = taken(write_checkpoint(tmp_path, "mean-field"))
    rows = np.arange(60, dtype=np.int32)
    found = scorer.inspect(scorer.place(dataset.test), rows, noise=np.zeros((1, 60, 4)), kl_weight=1.0)
    mean, variance = found["loc"], found["scale"] ** 2
    expected = (mean**2 + variance - 1 - np.log(variance)).mean(axis=0) / 2
    assert expected.max() > 0.3
    assert look.kl == pytest.approx(expected, abs=0.03)


def test_dimensions_that_say_nothing_have_no_kl_and_are_not_active() -> None:
    draws = np.random.default_rng(0)
    z = draws.standard_normal((looks.DRAWS, looks.IMAGES, 128))
    z[:, :, :3] = 0.5 * z[:, :, :3] + draws.standard_normal((looks.IMAGES, 3)) * (2, 1, 0.2)
    kl = looks.kl_by_dimension(z)
    assert kl[3:].max() < 0.005
    assert kl.sum() == pytest.approx(kl[:3].sum(), abs=0.1)
    assert kl[0] == pytest.approx((4 + 0.25 - 1 - np.log(0.25)) / 2, rel=0.15)
    assert looks.active(z) == 3, "the means of 100 draws vary by 0.01, which is no activity"


def test_two_latent_dimensions_have_a_manifold_means_and_the_files_classes(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "flow", latent_size=2)
    classes = np.arange(60) % 3
    write_data(tmp_path, test_labels=classes)
    look, scorer, dataset = taken(path)
    order = noise.generator(3, noise.PICTURED).permutation(60)
    assert look.labels is not None
    assert np.array_equal(look.labels, classes[order])
    corner = scorer.decode(np.array([[-1.959964, 1.959964], [-1.439531, 1.959964]]))  # quantiles at 1/40, 39/40; 3/40, 39/40
    assert np.abs(look.manifold[:2].reshape(2, 12) / 255 - corner).max() <= 0.5 / 255 + 1e-6, "the top left, and to its right"
    assert len(look.manifold) == looks.MANIFOLD**2
    many = scorer.encode(dataset.test[order], np.random.default_rng(0).standard_normal((2000, 60, 2))).mean(axis=0)
    assert look.means == pytest.approx(many, abs=0.5)
    assert np.abs(look.means - many).mean() < 0.1
    write_data(tmp_path, test_labels=classes[:-1])
    with pytest.raises(UserError, match="must be 60 whole numbers"):
        taken(path)


def test_a_training_on_the_spot_ends_where_the_run_did(tmp_path: Path) -> None:
    config = small("flow", steps=45, warm_up=10, chunk=7, validation_interval=20, log_interval=15, samples=2, image_batch=10)
    place = {"data": write_data(tmp_path), "data_dir": None, "results": str(tmp_path / "results"), "resume": False}
    job = Job(backend="pytorch", preset="quick", config=config, **place)
    runs.worker(job.as_json())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    asked = question(job.checkpoint, job.data)
    frames = [Look.from_json(look) for look in looks._of_training(asked)]
    assert [look.step for look in frames] == [0, 10, 20, 30, 40, 45]
    history = checkpoints.load(job.checkpoint).history
    assert history["valid_step"] == [20, 40, 45]
    assert [frames[i].elbo for i in (2, 4, 5)] == history["valid_elbo"]
    (final,) = looks._of_each(asked)
    assert_same(frames[-1], Look.from_json(final))
    assert not np.array_equal(frames[0].reconstructions, frames[-1].reconstructions)
    for look in frames:
        assert np.array_equal(look.originals, frames[0].originals)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("steps", [1, 9, 10, 25, 300, 30_000, 100_000])
def test_frames_are_few_and_have_both_ends(steps: int) -> None:
    found = looks.frame_steps(steps)
    assert (found[0], found[-1]) == (0, steps)
    assert found == sorted(set(found))
    assert len(found) <= looks.FRAMES + 1
    assert all(step % looks.STRIDE == 0 for step in found[:-1])


def test_a_diverged_model_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, "mean-field")
    checkpoint = checkpoints.load(path)
    checkpoint.state["parameters/decoder.first.weight"][0, 0] = np.nan
    checkpoints.save(checkpoint, path)
    with pytest.raises(UserError, match="diverged"):
        looks.of(path, **SETTINGS, data=(), data_dir=None)
    with pytest.raises(UserError, match="diverged"):
        taken(path)


def test_a_folder_of_arrays_has_no_labels(tmp_path: Path) -> None:
    for split in data.SPLITS:
        np.save(tmp_path / f"{split}.npy", np.zeros((4, 12), np.uint8))
    assert looks.labels_of(data.load(str(tmp_path), data_dir=None, binarize=None)) is None


def test_other_data_and_a_missing_framework_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, "mean-field")
    with pytest.raises(UserError, match=r"was trained on other data than binarized-digits holds"):
        looks._of_each(question(path, "binarized-digits"))
    monkeypatch.setattr(looks.processes, "ask", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(UserError, match=r"There is no file .*moved\.h5; give the place"):
        looks.of(path, **SETTINGS, data=["moved.h5"], data_dir=None)

    lacks = protocol.lacks
    monkeypatch.setattr(protocol, "lacks", lambda name: "torch" if name == "pytorch" else lacks(name))
    with pytest.raises(UserError, match=r"trained by pytorch, which isn't installed here .*; give --backend jax"):
        looks.of(path, **SETTINGS, data=(), data_dir=None)
