"""The gallery shows what its checkpoints decode, the same latents for all, and is drawn from its report alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies import gallery
from common import checkpoints, noise, protocol
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import UserError
from common.parameters import fresh_state, initial_parameters

CONFIG = Config().replace(variational="flow", latent_size=4, hidden_size=8)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    parameters = initial_parameters(CONFIG.model, training=CONFIG.training, pixel_log_odds=np.linspace(-3, 3, 784))
    parameters = {name: value.astype(CONFIG.dtype) for name, value in parameters.items()}
    state = fresh_state(parameters, optimizer=CONFIG.optimizer, training=CONFIG.training, dtype=CONFIG.dtype)
    made = Checkpoint(config=CONFIG, backend="pytorch", preset="standard", dataset="some", sha256="ab" * 32, state=state)
    checkpoints.save(made, tmp_path / "a.h5")
    return tmp_path / "a.h5"


def test_a_row_is_what_its_checkpoint_decodes(checkpoint: Path, tmp_path: Path) -> None:
    asked = gallery.Arguments(checkpoint=(checkpoint,), samples=3)
    ((title, point),) = gallery.plan(asked).items()
    report = gallery.content(asked, [(point, gallery.measure(point))])
    (row,) = report["rows"]
    assert (title, row["backend"], row["dataset"]["name"], row["image_shape"]) == ("0_a", "pytorch", "some", [28, 28])
    latents = noise.generator(0, noise.GALLERY).standard_normal((3, 4)).astype(np.float32)
    scorer = protocol.load("pytorch").score(CONFIG, checkpoints.load(checkpoint).selected())
    expected = np.asarray(scorer.decode(latents)).reshape(3, 28, 28)
    assert np.abs(gallery.unpacked(row) / 255 - expected).max() <= 0.5 / 255 + 1e-6
    assert expected.std() > 0.01, "else any picture would do"
    checkpoint.unlink()
    gallery.draw(report, tmp_path / "gallery.png")
    assert (tmp_path / "gallery.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "gallery.png").stat().st_size < 300_000


def test_a_relative_path_is_found_by_the_points_process(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    ((_, point),) = gallery.plan(gallery.Arguments(checkpoint=(Path("a.h5"),))).items()
    assert point["checkpoint"] == str(checkpoint)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (gallery.Arguments(), "Which checkpoints"),
        (gallery.Arguments(checkpoint=(Path("a.h5"),), samples=0), "--samples is 0"),
    ],
)
def test_bad_arguments_are_refused(asked: gallery.Arguments, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gallery.check(asked)
