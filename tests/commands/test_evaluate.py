"""`evaluate` of weights that have no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vaebench
from benchmarks.__main__ import main
from common import checkpoints, data, parameters
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import UserError
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
