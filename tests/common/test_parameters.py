"""Initial values, names, schedules and noise: what every backend starts from."""

from __future__ import annotations

import numpy as np
import pytest

from common import noise, parameters, schedules
from common.config import Model, Optimizer, Training

FLOW = Model(variational="flow", image_shape=(5, 6), latent_size=50, hidden_size=400, flow_depth=2)


def initial(distribution: str, seed: int = 0, model: Model = FLOW) -> parameters.State:
    training = Training(initial_weights=distribution, seed=seed)  # type: ignore[arg-type]
    return parameters.initial_parameters(model, training=training, pixel_log_odds=np.arange(30.0))


@pytest.mark.parametrize("distribution", ["lecun-normal", "glorot", "torch-linear"])
def test_the_scale_is_that_of_the_unmasked_inputs(distribution: str) -> None:
    values = initial(distribution)
    for layer in parameters.layers(FLOW):
        weight = values[f"{layer.name}.weight"]
        if layer.name.endswith("made.out"):
            assert not weight.any()
            continue
        mask = np.ones(weight.shape) if layer.mask is None else layer.mask
        assert not weight[mask == 0].any()
        column = int(mask.sum(0).argmax())
        fan_in, fan_out = mask[:, column].sum(), mask.sum(1)
        drawn = weight[mask[:, column] == 1, column]
        if distribution == "lecun-normal":
            assert 0.7 < drawn.std() * np.sqrt(fan_in) < 1.3
        elif distribution == "torch-linear":
            assert np.abs(drawn).max() <= 1 / np.sqrt(fan_in) < 1.3 * np.abs(drawn).max()
        else:
            assert np.abs(drawn).max() <= np.sqrt(6 / (fan_in + fan_out.min()))


def test_biases_start_at_zero_but_for_the_gate_and_the_data() -> None:
    for name, value in initial("lecun-normal").items():
        if name.endswith("gate_bias"):
            assert (value == 2).all()
        elif name == "decoder.out.bias":
            assert (value == np.arange(30)).all()
        elif name.endswith("bias"):
            assert not value.any()


def test_values_are_a_function_of_seed_and_name() -> None:
    one, same, other = initial("lecun-normal"), initial("lecun-normal"), initial("lecun-normal", seed=1)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if name.endswith("weight") and one[name].any()]
    assert not any(np.array_equal(one[name], other[name]) for name in drawn)
    assert len({one[name].ravel()[:50].tobytes() for name in drawn}) == len(drawn)
    mean_field = initial("lecun-normal", model=Model(image_shape=(5, 6), latent_size=50, hidden_size=400))
    assert np.array_equal(mean_field["decoder.first.weight"], one["decoder.first.weight"])


def test_the_count_leaves_out_what_is_masked() -> None:
    values = initial("torch-linear")
    gates = sum(v.size for name, v in values.items() if name.endswith("bias"))
    assert parameters.count(FLOW) == gates + sum(
        int((np.ones(layer.shape) if layer.mask is None else layer.mask).sum()) for layer in parameters.layers(FLOW)
    )


def test_cosine_and_warm_up_are_their_formulas_from_any_step() -> None:
    optimizer, training = Optimizer(learning_rate=0.5), Training(warm_up=10)
    rates = schedules.learning_rates(optimizer, total_steps=100, first_step=0, steps=100)
    assert rates[0] == 0.5
    assert np.allclose(rates, [0.25 * (1 + np.cos(np.pi * t / 100)) for t in range(100)], rtol=1e-15)
    assert np.array_equal(rates[37:41], schedules.learning_rates(optimizer, total_steps=100, first_step=37, steps=4))
    betas = schedules.kl_weights(training, first_step=0, steps=20)
    assert np.allclose(betas, [min(1, (t + 1) / 10) for t in range(20)], rtol=1e-15)
    assert (schedules.kl_weights(Training(warm_up=0), first_step=0, steps=5) == 1).all()


def test_streams_never_overlap_and_steps_are_their_own() -> None:
    seeds = {
        noise.seed_for(seed, stream, step)
        for seed in (0, 1, 2**32)
        for stream in ("training noise", "evaluation noise", "test")
        for step in range(50)
    }
    assert len(seeds) == 3 * 3 * 50
    shape = (1, 4, 3)
    whole = noise.training_noise(seed=0, first_step=0, steps=6, shape=shape, dtype="float64")
    part = noise.training_noise(seed=0, first_step=4, steps=2, shape=shape, dtype="float64")
    assert np.array_equal(whole[4:], part)


@pytest.mark.parametrize("samples", [range(1, 3), range(0), range(0, 50, 2), range(30, 60)])
def test_samples_must_open_a_block(samples: range) -> None:
    with pytest.raises(ValueError, match="consecutive"):
        noise.noise_blocks(samples)
