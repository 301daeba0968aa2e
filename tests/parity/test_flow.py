"""The flow is a flow: in each backend, with random weights, against autodiff, NumPy, its own inverse and its integral."""

from __future__ import annotations

import numpy as np
import pytest

from common.config import Config
from common.masks import made_masks
from common.parameters import State, fresh_state, initial_parameters
from tests.parity import reference
from tests.parity.conftest import IMAGES, deviation, random_state, session, small
from tests.parity.flows import evaluate, invert


def steep(config: Config, factor: float) -> State:
    """Random weights, the gates' and shifts' layer this many times larger: gates near 0 and 1."""
    return {name: value * (factor if "made.out" in name else 1) for name, value in random_state(config).items()}


def lively(config: Config) -> State:
    """Random weights, hidden biases of at least 1 and small hidden weights: no ReLU is dead for all images or all points."""
    state = random_state(config)
    for name, value in state.items():
        if name.endswith(("first.bias", "second.bias")):
            state[name] = 1 + np.abs(value)
        elif name.endswith(("first.weight", "second.weight", "context.weight")):
            state[name] = 0.3 * value
    return state


def reach(state: State, images: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The noise [samples, batch, latent] that puts the base sample of every image at these points [samples, latent]."""
    loc, spread, _ = np.split(reference.mlp(state, "encoder", images.astype(np.float64)), 3, axis=-1)
    return (z[:, None] - loc) / np.logaddexp(0, spread)


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_log_det_is_that_of_the_jacobian(backend: str, depth: int) -> None:
    """|z| ≤ 10 and gates from 1e-6 to nearly 1.

    One block's Jacobian is triangular: its log-det is exact to rounding however small the gates. The product of several is
    dense, and LU moves its log-det by up to about ε·condition.
    """
    config = small("flow", flow_depth=depth, latent_size=5)
    state = steep(config, 8 if depth == 1 else 3)
    s = session(backend, config, state)
    draws = np.random.default_rng(depth)
    z, context = draws.uniform(-10, 10, (400, 5)), draws.normal(size=(400, 5))
    gates = np.exp(reference.flow(config, state, z[None], context)[1]).min((0, 1, -1))
    z, context = z[gates > 1e-6], context[gates > 1e-6]
    assert len(z) > 200
    assert gates[gates > 1e-6].min() < 1e-4

    found = evaluate(backend, s, z, context)
    # Transposed: on an upper triangular matrix LU eliminates nothing.
    signs, log_dets = np.linalg.slogdet(found.jacobian.transpose(0, 2, 1))
    assert (signs == (-1) ** ((depth - 1) * (5 // 2))).all()  # each reversal of five latents swaps two pairs
    lost = 0 if depth == 1 else 1e-15 * np.linalg.cond(found.jacobian)
    assert (np.abs(found.log_det - log_dets) < 1e-11 + lost).all()
    assert np.mean(lost < 1e-8) > 0.8


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "float32"])
def test_far_out_it_is_finite_and_its_log_det_is_the_sum_of_the_log_gates(backend: str, dtype: str) -> None:
    """|z| up to 1e3 and gates that are 0 and 1 in this precision: values, both Jacobians and every parameter's gradient."""
    config = small("flow", dtype=dtype)
    state = steep(config, 30)
    s = session(backend, config, state)
    draws = np.random.default_rng(0)
    z = 1e3 * draws.uniform(-1, 1, (200, 4)).astype(dtype)
    z[0], z[1] = 1e3, -1e3
    context = draws.normal(size=(200, 4)).astype(dtype)
    expected, log_gates = reference.flow(config, state, z[None].astype(np.float64), context.astype(np.float64))
    assert (np.exp(log_gates).astype(dtype) == 0).any()
    assert (np.exp(log_gates).astype(dtype) == 1).any()
    tolerance = {"float64": 1e-12, "float32": 1e-5}[dtype]

    found = evaluate(backend, s, z, context)
    for name, array in found.arrays().items():
        assert np.isfinite(array).all(), name
    assert deviation(found.z, expected[0]) < tolerance
    assert deviation(found.log_det, log_gates.sum((0, -1))[0]) < tolerance

    images = np.eye(12, dtype=np.uint8)
    noise = reach(state, images, z[:3]).astype(dtype)
    q = s.inspect(s.place(images), np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    for name, array in q.items():
        assert np.isfinite(array).all(), name
    assert np.abs(q["base_z"]).max() > 999
    context = reference.mlp(state, "encoder", images.astype(np.float64))[:, -4:]
    _, log_gates = reference.flow(config, state, q["base_z"].astype(np.float64), context)
    assert deviation(q["log_det"], log_gates.sum((0, -1))) < tolerance
    for i, log_gate in enumerate(log_gates):
        assert deviation(q[f"flow.blocks.{i}.log_det"], log_gate.sum(-1)) < tolerance


@pytest.mark.parametrize(
    ("latent", "hidden", "depth"), [(5, 40, 2), (8, 4, 1), pytest.param(8, 4, 2, marks=pytest.mark.slow), (8, 4, 3)]
)
def test_the_jacobian_is_zero_exactly_where_the_composed_masks_say_so(
    backend: str, latent: int, hidden: int, depth: int
) -> None:
    """And nowhere else: over many points each other entry is met away from 0.

    With fewer hidden units than latents the masks leave latents out, so that even two blocks with a reversal between them have
    zeros, in other places than without it.
    """
    config = small("flow", flow_depth=depth, latent_size=latent, hidden_size=hidden)
    draws = np.random.default_rng(0)
    z, context = 2 * draws.normal(size=(500, latent)), draws.normal(size=(500, latent))
    jacobian = evaluate(backend, session(backend, config, lively(config)), z, context).jacobian
    moves = reference.dependencies(config.model, depth=depth)
    assert ((jacobian != 0).any(0) == moves).all()
    triangle = reference.dependencies(config.model, depth=depth, reverse=False)
    assert not np.triu(triangle, k=1).any()
    if depth == 1:
        assert (moves == triangle).all()
    else:
        assert np.triu(moves, k=1).any(), "the order of the latents is the same in all blocks"


def test_every_output_of_every_block_moves_with_the_image(backend: str) -> None:
    """Through the context alone, z held: the first latent too, its shift and its gate."""
    config = small("flow", latent_size=5, flow_depth=2)
    state = random_state(config)
    s = session(backend, config, state)
    context = np.random.default_rng(0).normal(size=(100, 5))
    for i in range(2):
        one = evaluate(backend, s, np.full((100, 5), 0.7), context, block=i)
        assert (np.abs(one.context_jacobian).max((0, -1)) > 1e-3).all()
        gates, shifts = np.diagonal(one.jacobian, axis1=1, axis2=2), one.z
        assert (gates.std(0) > 1e-3).all()
        assert (shifts.std(0) > 1e-3).all()

    # The same through the images: the base sample is one point for all of them.
    images = np.eye(12, dtype=np.uint8)
    noise = reach(state, images, np.full((1, 5), 0.7))
    q = s.inspect(s.place(images), np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    assert deviation(q["base_z"], np.full((1, 12, 5), 0.7)) < 1e-14
    for i in range(2):
        assert (q[f"flow.blocks.{i}.z"][0].std(0) > 1e-3).all()


def test_a_context_that_is_missing_or_too_many_is_refused(backend: str) -> None:
    config = small("flow", prior="flow")
    s = session(backend, config, random_state(config))
    vae = s._vae(s.parameters) if backend == "jax" else s.vae
    z, context = s.given(np.zeros((1, 5, 4))), s.given(np.zeros((5, 4)))
    for flow, other in ((vae.flow, None), (vae.prior, context)):
        with pytest.raises(ValueError, match="takes a context exactly where it was made for one"):
            flow(z, other)


def test_a_numerical_inverse_recovers_the_noise(backend: str) -> None:
    config = small("flow", flow_depth=3, latent_size=4)
    s = session(backend, config, random_state(config))
    rows = np.arange(30, dtype=np.int32)
    noise = np.random.default_rng(0).normal(size=(1, 30, 4))
    q = s.inspect(s.place(IMAGES), rows, noise=noise, kl_weight=1.0)
    base = invert(backend, s, q["z"][0], q["context"], depth=3)
    assert deviation((base - q["loc"]) / q["scale"], noise[0]) < 1e-9


def test_the_density_integrates_to_one(backend: str) -> None:
    """∫ q(z|x) dz over a grid of midpoints in z, each taken back to its noise by the numerical inverse, for two images."""
    config = small("flow", latent_size=2, flow_depth=2)
    state = steep(config, 2)
    s = session(backend, config, state)
    rows, side = np.array([0, 1], dtype=np.int32), 200
    loc, spread, context = np.split(reference.mlp(state, "encoder", IMAGES[rows].astype(np.float64)), 3, axis=-1)
    scale = np.logaddexp(0, spread)
    draws = np.random.default_rng(0).normal(size=(5000, 2, 2))
    z, _ = reference.flow(config, state, loc + scale * draws, context)
    low, high = (z.mean(0) + sign * 8 * z.std(0) for sign in (-1, 1))
    assert (z > low).all()
    assert (z < high).all()
    midpoints = (np.indices((side, side)).reshape(2, -1).T + 0.5) / side
    grid = low + (high - low) * midpoints[:, None]  # [points, images, latent]

    points, contexts = grid.reshape(-1, 2), np.tile(context, (side**2, 1))
    base = invert(backend, s, points, contexts, depth=2).reshape(grid.shape)
    q = s.inspect(s.place(IMAGES), rows, noise=(base - loc) / scale, kl_weight=1.0)
    assert deviation(q["z"], grid) < 1e-10
    area = (high - low).prod(-1) / side**2
    assert (np.abs(np.exp(q["log_q"]).sum(0) * area - 1) < 1e-3).all()
    # The gates are far from constant: a log-det that left them out would not integrate to one.
    assert (q["log_det"].std(0) > 0.05).all()


def masked_gradients(config: Config) -> dict[str, np.ndarray]:
    """Where each parameter's gradient can differ from zero: everywhere but at masked weights."""
    mask = reference.masks(config.model.latent_size, config.model.hidden_size)
    state = random_state(config)
    return {
        name: np.broadcast_to(
            mask[parts[-2]] if "made" in parts and parts[-1] == "weight" and parts[-2] in mask else 1, v.shape
        )
        for name, v in ((k.removeprefix("parameters/"), v) for k, v in state.items() if k.startswith("parameters/"))
        for parts in [name.split(".")]
    }


@pytest.mark.parametrize(("family", "samples"), [("mean-field", 1), ("flow", 3)])
def test_every_parameter_gets_a_gradient(backend: str, family: str, samples: int) -> None:
    """Every entry of every parameter, from a state where none is 0; masked weights get exactly none."""
    config = small(family, objective_samples=samples)
    s = session(backend, config, lively(config))
    noise = np.random.default_rng(2).normal(size=(samples, 300, 4))
    q = s.inspect(s.place(IMAGES), np.arange(300, dtype=np.int32), noise=noise, kl_weight=0.3)
    expected = masked_gradients(config)
    assert {name.removeprefix("gradient/") for name in q if name.startswith("gradient/")} == expected.keys()
    for name, mask in expected.items():
        assert ((q[f"gradient/{name}"] != 0) == (mask != 0)).all(), name


def first_state(config: Config) -> State:
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(12))
    return fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype="float64")


def test_what_has_no_gradient_at_the_start_has_one_a_step_later(backend: str) -> None:
    """MADE's output weights start at 0, so that nothing before them moves the objective: MADE's other weights and the
    encoder's output for the context. Their own gradient isn't 0, and after one step none is.
    """
    config = small("flow")
    noise = np.random.default_rng(2).normal(size=(1, 300, 4))
    state, rows = first_state(config), np.arange(300, dtype=np.int32)

    def gradients() -> dict[str, np.ndarray]:
        s = session(backend, config, state)
        q = s.inspect(s.place(IMAGES), rows, noise=noise, kl_weight=1.0)
        return {name.removeprefix("gradient/"): value for name, value in q.items() if name.startswith("gradient/")}

    first = gradients()
    still = {name for name, value in first.items() if not value.any()}
    before_out = ("made.first.weight", "made.first.bias", "made.context.weight", "made.second.weight", "made.second.bias")
    assert still == {f"flow.blocks.{i}.{name}" for i in range(2) for name in before_out}
    for name in ("encoder.out.weight", "encoder.out.bias"):
        assert (first[name][..., 8:] == 0).all()
        assert (first[name][..., :8] != 0).any(tuple(range(first[name].ndim - 1))).all()
    for name, value in first.items():
        state[f"parameters/{name}"] = state[f"parameters/{name}"] + 0.01 * value
    for name, value in gradients().items():
        assert value.any(), name
        if name.startswith("encoder.out"):
            assert (value != 0).any(tuple(range(value.ndim - 1))).all()


def test_a_new_block_scales_by_the_gate_exactly(backend: str) -> None:
    config = small("flow", flow_depth=1, data_bias=False)
    s = session(backend, config, first_state(config))
    noise = np.random.default_rng(0).normal(size=(1, 12, 4))
    q = s.inspect(s.place(np.eye(12, dtype=np.uint8)), np.arange(12, dtype=np.int32), noise=noise, kl_weight=1.0)
    assert deviation(q["z"], q["base_z"] / (1 + np.exp(-2.0))) < 1e-14


@pytest.mark.parametrize(("latent", "hidden"), [(1, 3), (2, 7), (5, 11), (8, 4), (128, 512)])
def test_masks_compose_to_strictly_earlier_latents(latent: int, hidden: int) -> None:
    masks = {name: mask.astype(np.int64) for name, mask in made_masks(latent_size=latent, hidden_size=hidden).items()}
    expected = reference.masks(latent, hidden)
    assert masks.keys() == expected.keys()
    assert all((masks[name] == expected[name]).all() for name in masks)
    paths = masks["first"] @ masks["second"] @ masks["out"]
    assert paths.shape == (latent, 2 * latent)
    for half in (paths[:, :latent], paths[:, latent:]):
        assert (half[np.tril_indices(latent)] == 0).all()
        if hidden >= latent:
            assert (half[np.triu_indices(latent, k=1)] > 0).all()
    # Every output has a path from the context, which enters all hidden units of the first layer.
    assert ((masks["second"] @ masks["out"]).sum(0) > 0).all()
