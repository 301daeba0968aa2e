"""The study of the gaps: what it measures of a small model is right, and is said in its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import environment
from benchmarks.outputs.markdown import page
from benchmarks.studies import gaps
from common import checkpoints, data
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import UserError
from common.parameters import fresh_state, initial_parameters

ASKED: dict[str, Any] = {"data": "binarized-digits", "images": 12, "samples": 1_000, "chains": 8, "distributions": (40,)}
ASKED |= {"leapfrogs": 3, "steps": 80, "simulated": 6}


def saved(folder: Path, *, place: str = "binarized-digits", log_odds: float = 0.0, **changes: Any) -> Path:
    """The checkpoint of a model with random weights, whose encoder is as far from the posterior as chance has it."""
    digits = data.load(place, data_dir=None, binarize=None)
    config = Config().replace(latent_size=2, hidden_size=8, image_shape=digits.image_shape, image_batch=5, **changes)
    draws = np.random.default_rng(1)
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.full(64, log_odds))
    moved = {name: (value + 0.3 * draws.normal(size=value.shape)).astype("float32") for name, value in initial.items()}
    state = fresh_state(moved, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
    path = folder / f"{config.model.variational}.h5"
    checkpoints.save(Checkpoint(config, "pytorch", "quick", digits.name, digits.sha256, state), path)
    return path


@pytest.mark.parametrize("family", ["mean-field", "flow"])
def test_the_gaps_add_up_and_have_their_signs(tmp_path: Path, family: str) -> None:
    asked = gaps.Arguments(checkpoint=(saved(tmp_path, variational=family),), results=tmp_path / "results", **ASKED)
    gaps.check(asked)
    ((title, planned),) = gaps.plan(asked).items()
    point = planned | {"resume": False}
    result = gaps.measure(point)
    assert title == f"0_{family}"
    total = result["amortization"]["mean"] + result["approximation"]["mean"]
    assert result["elbo"]["mean"] + total == pytest.approx(result["annealed"]["mean"])
    assert result["amortization"]["mean"] > 2 * result["amortization"]["error"] > 0
    assert result["approximation"]["mean"] > -3 * result["approximation"]["error"]
    assert -0.05 < result["missed"]["mean"] < 0.5, "two latents, and K = 1,000"
    assert abs(result["simulated"]["mean"]) < 1.0
    assert abs(result["train"]["elbo"]["mean"]) < 4 * result["train"]["elbo"]["error"], "random weights know no split"
    (kept,) = (tmp_path / "results").glob("*.ais-*.npz")
    with np.load(kept) as whole:
        np.savez(kept, **{name: whole[name] + (name == "log_px") for name in whole})
    resumed = gaps.measure(point | {"resume": True})
    assert resumed["annealed"]["mean"] == pytest.approx(result["annealed"]["mean"] + 1), "--resume keeps what is done"
    assert gaps.measure(point) == result
    report = gaps.content(asked, [(point, result | {"commit": "c0ffee"})]) | {"environment": environment.describe("cpu")}
    text = page(gaps.parts(report))
    assert f"| quick | {family} | pytorch |" in text
    assert gaps.said(result["amortization"]) in text
    assert "| 40 |" in text
    assert "| c0ffee |" in text
    gaps.draw(report, tmp_path / "gaps.png")
    assert (tmp_path / "gaps.png").read_bytes().startswith(b"\x89PNG")


def test_train_minus_test_is_of_all_images_of_the_smaller_split(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    sizes, ones = {"train": 90, "valid": 20, "test": 60}, {"train": 0.1, "valid": 0.1, "test": 0.4}
    place = str(tmp_path / "dark.npz")
    np.savez(place, **{split: (draws.random((size, 8, 8)) < ones[split]).astype(np.uint8) for split, size in sizes.items()})
    checkpoint = saved(tmp_path, place=place, log_odds=-2.2)  # 0.1 is likely, and so are the training images
    asked = gaps.Arguments(**ASKED | {"data": place, "chains": 2, "distributions": (2,), "steps": 2}, checkpoint=(checkpoint,))
    asked.results = tmp_path / "results"
    ((_, point),) = gaps.plan(asked).items()
    result = gaps.measure(point | {"resume": False})
    assert result["split_images"] == 60
    for value in result["train"].values():
        assert value["mean"] == pytest.approx(0.3 * 64 * 2.2, rel=0.3)
        assert 0 < value["error"] < 3.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "Which checkpoints"),
        ({"checkpoint": (Path("a.h5"),), "images": 1}, "--images is 1"),
        ({"checkpoint": (Path("a.h5"),) * 3, "distributions": (9, 8)}, "--distributions has 2 numbers; give one, or one for"),
        ({"checkpoint": (Path("a.h5"),) * 2, "distributions": (9, 0)}, "--distributions is 0"),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gaps.check(gaps.Arguments(**changes))


def test_more_images_than_there_are_are_refused(tmp_path: Path) -> None:
    asked = gaps.Arguments(checkpoint=(saved(tmp_path),), **ASKED | {"images": 400})
    with pytest.raises(UserError, match="--images is 400, more than binarized-digits has"):
        gaps.plan(asked)


def test_a_test_set_below_the_default_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gaps.Arguments(checkpoint=(saved(tmp_path),), **ASKED | {"images": None})
    ((_, point),) = gaps.plan(asked).items()
    monkeypatch.setattr(gaps, "IMAGES", 10**6)
    ((_, whole),) = gaps.plan(asked).items()
    tests = len(data.load("binarized-digits", data_dir=None, binarize=None).test)
    assert (point["images"], whole["images"]) == (100, tests)


def test_a_single_test_image_is_refused_before_any_measurement(tmp_path: Path) -> None:
    place = str(tmp_path / "few.npz")
    np.savez(
        place, **{split: np.eye(8, dtype=np.uint8)[None].repeat(n, 0) for split, n in (("train", 9), ("valid", 2), ("test", 1))}
    )
    asked = gaps.Arguments(checkpoint=(saved(tmp_path, place=place),), **ASKED | {"data": place, "images": None})
    with pytest.raises(UserError, match="has one test image"):
        gaps.plan(asked)


def test_a_model_that_was_trained_on_a_card_with_tf32_is_measured_on_the_cpu(tmp_path: Path) -> None:
    path = saved(tmp_path, device="cuda", precision="tf32")
    few = ASKED | {"images": 2, "samples": 2, "chains": 2, "distributions": (2,), "steps": 2}
    asked = gaps.Arguments(checkpoint=(path,), results=tmp_path / "results", **few)
    ((_, point),) = gaps.plan(asked).items()
    found = gaps.measure(point | {"resume": False})["config"]
    assert (found["device"], found["precision"]) == ("cpu", "full")


def test_each_checkpoint_has_its_own_number_of_distributions(tmp_path: Path) -> None:
    both = tuple(saved(tmp_path, variational=family) for family in ("mean-field", "flow"))
    for given, each in (((40,), [40, 40]), ((40, 10), [40, 10])):
        asked = gaps.Arguments(checkpoint=both, **ASKED | {"distributions": given})
        assert [point["distributions"] for point in gaps.plan(asked).values()] == each
