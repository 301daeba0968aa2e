"""Initial values, names, schedules and noise: what every backend starts from."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from benchmarks.harness import floor
from common import noise, parameters, schedules
from common.config import Config, Model, Optimizer, Training
from common.masks import made_masks

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


def sha256(arrays: parameters.State) -> str:
    """Of names, types, shapes and bits; the first 16 digits."""
    digest = hashlib.sha256()
    for name, value in arrays.items():
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [("lecun-normal", "d8c6b0808fecb8e8"), ("glorot", "176820d9ac9914b9"), ("torch-linear", "89542b384f92c6af")],
)
def test_initial_values_stay_bit_for_bit(distribution: str, expected: str) -> None:
    """Records and baselines hold results that began with these values."""
    assert sha256(initial(distribution)) == expected


def test_masks_stay_bit_for_bit() -> None:
    sizes = ((5, 11), (8, 4), (128, 512))
    masks = {f"{n} {m} {name}": v for n, m in sizes for name, v in made_masks(latent_size=n, hidden_size=m).items()}
    assert sha256(masks) == "9468f2d5508f6815"


def test_the_floors_products_stay_the_same() -> None:
    model = Model(variational="flow", image_shape=(1, 2), latent_size=3, hidden_size=5, flow_depth=1)
    config = Config(model=model).replace(batch_size=7, objective_samples=4)
    forward = [(7, 2, 5), (7, 5, 5), (7, 5, 9)]  # encoder, by images
    forward += [(28, 3, 5), (7, 3, 5), (28, 5, 5), (28, 5, 6)]  # MADE, its context by images
    forward += [(28, 3, 5), (28, 5, 5), (28, 5, 2)]  # decoder
    expected = [forward[0], (2, 7, 5)]  # no gradient of the pixels
    for rows, inputs, outputs in forward[1:]:
        expected += [(rows, inputs, outputs), (inputs, rows, outputs), (rows, outputs, inputs)]
    assert floor.products(config) == expected


def test_the_rates_warm_up_multiplies_the_schedule() -> None:
    optimizer = Optimizer(learning_rate=0.1, learning_rate_warm_up=4)
    plain = schedules.learning_rates(Optimizer(learning_rate=0.1), total_steps=100, first_step=0, steps=8)
    rates = schedules.learning_rates(optimizer, total_steps=100, first_step=0, steps=8)
    assert np.allclose(rates / plain, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])
    assert np.array_equal(rates[3:], schedules.learning_rates(optimizer, total_steps=100, first_step=3, steps=5))


def test_a_convolutional_step_has_its_products() -> None:
    model = Model(network="resnet", image_shape=(12, 8), latent_size=3, hidden_size=5, channels=2)
    config = Config(model=model).replace(batch_size=7, objective_samples=4)
    found = floor.by_layer(model, batch=7, samples=4)
    assert found["encoder.first"]["forward"] == (7 * 24, 4, 2), "at each place of half the sides"
    assert found["encoder.coarse.0.first"]["weight's gradient"] == (7, 3, 2, 4, 4, 1)
    assert found["decoder.out"]["forward"] == (28, 6, 4, 2, 4, 0)
    assert found["decoder.out"]["input's gradient"] == (28, 6, 4, 4, 2, 0)
    assert len(floor.products(config)) == 3 * len(found) - 1
    assert parameters.multiplications((28, 6, 4, 2, 4, 0)) == 28 * 24 * 9 * 2 * 4
    assert parameters.numbers((28, 6, 4, 2, 4, 1)) == 28 * 24 * 6 + 9 * 2 * 4
    assert floor.flop(config) == 2 * sum(map(parameters.multiplications, floor.products(config)))


def test_the_networks_start_from_their_residual_blocks_skips() -> None:
    """A block's last weights are 0; all other weights of a residual network are drawn."""
    model = Model(network="resnet", image_shape=(12, 8), latent_size=3, hidden_size=5, channels=2, prior="flow")
    values = parameters.initial_parameters(model, training=Training(), pixel_log_odds=np.arange(96.0))
    for name, value in values.items():
        if name.endswith(".weight"):
            last = name.endswith("made.out.weight") or (name.endswith("second.weight") and "made" not in name)
            assert value.any() != last, name
    assert np.array_equal(values["decoder.out.bias"], np.arange(96.0))
    assert parameters.count(model) < sum(value.size for value in values.values())


CONVOLUTION = parameters.Layer("encoder.window", "convolution", {"height": 3, "width": 5, "in": 40, "out": 60})


@pytest.mark.parametrize(
    ("distribution", "deviation"),
    [("lecun-normal", 600**-0.5), ("glorot", (2 / (600 + 900)) ** 0.5), ("torch-linear", (3 * 600) ** -0.5)],
)
def test_a_convolutions_inputs_are_those_of_its_window(distribution: str, deviation: float) -> None:
    """Standard deviation of the draws, for 3 · 5 · 40 weights to an output and 3 · 5 · 60 from an input."""
    draws = np.random.default_rng(0)
    weight = parameters.initial_weight(CONVOLUTION, distribution=distribution, draws=draws)  # type: ignore[arg-type]
    assert weight.shape == (3, 5, 40, 60)
    assert abs(weight.std() / deviation - 1) < 0.02


def test_a_weight_goes_to_pytorchs_axes_and_back() -> None:
    torch = pytest.importorskip("torch")
    from backends.pytorch import layout

    for axes in (CONVOLUTION.axes, {"in": 3, "out": 4}, {"out": 6}):
        array = np.random.default_rng(1).normal(size=tuple(axes.values()))
        own = layout.own(array, axes)
        assert own.shape == tuple(axes[axis] for axis in ("out", "in", "height", "width") if axis in axes)
        assert np.array_equal(layout.portable(torch.tensor(own), axes), array)
    array = np.random.default_rng(1).normal(size=(3, 5, 40, 60))
    assert layout.own(array, CONVOLUTION.axes)[7, 4, 2, 1] == array[2, 1, 4, 7]


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
