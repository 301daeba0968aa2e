"""docs/checkpoint.md defines the model: its program, run on a checkpoint's file, gives the backends' log weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness.environment import ROOT
from common import checkpoints, data
from common.checkpoints import Checkpoint
from common.protocol import load
from tests.parity.conftest import IMAGES, deviation, random_state, small


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's program defines."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/checkpoint.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    return names


@pytest.mark.parametrize("judged", ["parameters", "ema", "best"])
def test_its_program_gives_a_backends_log_weights(page: dict[str, Any], family: str, judged: str, tmp_path: Path) -> None:
    config = small(
        family, ema_decay=0.9 if judged == "ema" else 0.0, selection="best-validation" if judged == "best" else "last"
    )
    state, other = random_state(config), random_state(config, seed=2)
    if judged == "ema":
        state |= {name.replace("parameters/", "ema/"): value for name, value in other.items() if name.startswith("parameters/")}
    checkpoint = Checkpoint(config, "pytorch", "small", "images", "", state)
    if judged == "best":
        checkpoint.best = {name.removeprefix("parameters/"): v for name, v in other.items() if name.startswith("parameters/")}
        checkpoint.best_step = 10
    checkpoints.save(checkpoint, tmp_path / "run.h5")

    noise = np.random.default_rng(0).standard_normal((3, 20, config.model.latent_size))
    session = load("pytorch").score(config, checkpoint.selected())
    rows = np.arange(20, dtype=np.int32)
    found = session.log_weights(session.place(IMAGES), rows, samples=range(3), seed=0, noise=noise)
    parameters, settings = page["judged"](tmp_path / "run.h5")
    assert settings["model"]["variational"] == family
    assert deviation(page["log_weights"](parameters, IMAGES[:20], noise, (3, 4)), found) < 1e-12


@pytest.mark.parametrize("prior", ["standard", "flow"])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_its_program_has_each_network_and_prior(page: dict[str, Any], family: str, network: str, prior: str) -> None:
    config = small(
        family, network=network, prior=prior, image_shape=(12, 8), channels=3, blocks=2, prior_depth=2, data_bias=False
    )
    parameters = {
        name.removeprefix("parameters/"): value for name, value in random_state(config).items() if "parameters" in name
    }
    images = (np.random.default_rng(0).random((20, 96)) < 0.3).astype(np.uint8)
    noise = np.random.default_rng(0).standard_normal((3, 20, config.model.latent_size))
    session = load("pytorch").score(config, parameters)
    rows = np.arange(20, dtype=np.int32)
    found = session.log_weights(session.place(images), rows, samples=range(3), seed=0, noise=noise)
    assert deviation(page["log_weights"](parameters, images, noise, (12, 8)), found) < 1e-12


@pytest.mark.parametrize("images", [0, 1, 7, 50])
def test_its_subset_is_the_test_images(page: dict[str, Any], images: int) -> None:
    assert np.array_equal(page["test_subset"](images, 50), data.subset(images=images, of=50))
