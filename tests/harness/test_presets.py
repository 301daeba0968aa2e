"""The presets, and the committed records that bear their names."""

from __future__ import annotations

import pytest

from benchmarks.harness import record_names, records
from benchmarks.harness.presets import PRESETS, preset
from benchmarks.harness.record_schema import Record
from common.config import Config, check
from common.errors import UserError

COMMITTED = records.read_all(records.RECORDS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_makes_sense(name: str) -> None:
    check(preset(name), train_images=1197, test_images=300)


@pytest.mark.parametrize("record", COMMITTED, ids=record_names.name_of)
def test_a_committed_record_has_its_presets_settings(record: Record) -> None:
    config = Config.from_dict(record["config"])
    expected = preset(record["preset"]).replace(
        variational=record["variational"],
        seed=record["seed"],
        dtype=config.dtype,
        precision=config.precision,
        device=record["device"],
        image_shape=config.model.image_shape,
        # Rounding alone: the fastest of them is no part of what a preset is.
        image_batch=config.evaluation.image_batch,
        sample_block=config.evaluation.sample_block,
        compile_from=config.training.compile_from,
    )
    assert config == expected
    assert config.factors == record["precision"]


def test_an_unknown_preset_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="choose from quick, standard"):
        preset("fast")


def test_the_ancestors_epsilon_is_scaled_for_a_mean_over_the_batch() -> None:
    """With the loss summed over B, every gradient is B times as large: g/(√v + ε) and g/√(v + ε) see ε/B and ε/B²."""
    pytorch, jax, tensorflow = (PRESETS[f"ancestor-{name}"] for name in ("pytorch", "jax", "tensorflow"))
    assert pytorch.optimizer.rmsprop_epsilon * 128 == pytest.approx(1e-8)
    assert jax.optimizer.rmsprop_epsilon * 128**2 == pytest.approx(1e-8)
    assert tensorflow.optimizer.rmsprop_epsilon * 64**2 == pytest.approx(1e-10)
    assert tensorflow.optimizer.rmsprop_initial_accumulator * 64**2 == pytest.approx(1.0)
