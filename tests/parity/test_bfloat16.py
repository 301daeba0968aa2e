"""`--precision bfloat16`: products are in bfloat16, all else is in float32."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from common.config import Config, check
from common.errors import UserError
from common.protocol import Session, probes
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

ROWS = np.arange(300, dtype=np.int32)
NOISE = np.random.default_rng(2).normal(size=(1, 300, 4)).astype(np.float32)
ROUNDING = 2.0**-9  # of one number to bfloat16, at most
# One rounding of the input, the weights and the result in each of the three layers of a network: what goes through one of them
# is off by a few roundings, what goes through encoder, flow and decoder by a few more. Full precision would be off by 2^-20.
LEAST, MOST = ROUNDING / 8, 12 * ROUNDING


@functools.cache
def in_both(backend: str, family: str) -> dict[str, tuple[Session, dict[str, np.ndarray]]]:
    """Precision → a session of the same random parameters, and what it computes."""
    found = {}
    for precision in ("full", "bfloat16"):
        config = small(family, dtype="float32", precision=precision, batch_size=300, hidden_size=32, ema_decay=0.9)
        s = session(backend, config, random_state(config))
        found[precision] = s, s.inspect(s.place(IMAGES), ROWS, noise=NOISE, kl_weight=1.0)
    return found


def step(s: Session, rate: float) -> None:
    rates = np.full(1, rate)
    s.train(s.place(IMAGES), ROWS[None], first_step=0, learning_rates=rates, kl_weights=np.ones(1), seed=0, noise=NOISE[None])


@pytest.mark.parametrize("family", [pytest.param("mean-field", marks=pytest.mark.slow), "flow"])
def test_what_a_network_gives_is_off_by_roundings_to_bfloat16(backend: str, family: str) -> None:
    (full_session, full), (low_session, low) = in_both(backend, family).values()
    assert full.keys() == low.keys()
    networks = ("loc", "scale", "logits", *(("context", "flow.blocks.0.log_det") if family == "flow" else ()))
    for name in networks:
        assert LEAST < deviation(low[name], full[name]) < MOST, name
    assert deviation(low["objective"], full["objective"]) < MOST
    for name, value in full.items():
        if name.startswith("gradient/"):
            # A ReLU near zero that rounding opens or shuts moves an image's gradient by all that goes through it.
            assert 0 < np.linalg.norm(low[name] - value) < 50 * ROUNDING * np.linalg.norm(value), name
    # The other ways to the same quantities, compiled ones among them.
    assert LEAST < deviation(low_session.encode(IMAGES[ROWS], NOISE), full_session.encode(IMAGES[ROWS], NOISE)) < MOST
    assert LEAST < deviation(low_session.decode(NOISE[0]), full_session.decode(NOISE[0])) < MOST
    log_w = [s.log_weights(s.place(IMAGES), ROWS, samples=range(1), seed=0, noise=NOISE) for s in (low_session, full_session)]
    assert ROUNDING / 100 < deviation(*log_w) < MOST
    assert deviation(log_w[0], low["log_weights"]) < MOST


@pytest.mark.parametrize("family", [pytest.param("mean-field", marks=pytest.mark.slow), "flow"])
def test_all_else_is_float32(backend: str, family: str) -> None:
    """Densities are sums of float32: of given quantities they are what NumPy says, far below a rounding to bfloat16."""
    _, low = in_both(backend, family)["bfloat16"]
    assert {name: value.dtype for name, value in low.items() if value.dtype != np.float32} == {}
    x, logits, z = IMAGES[ROWS].astype(float), low["logits"].astype(float), low["z"].astype(float)
    base = -0.5 * (NOISE**2 + np.log(2 * np.pi)).sum(-1) - np.log(low["scale"]).sum(-1)
    assert deviation(low["log_p_x_given_z"], (x * logits - np.logaddexp(0, logits)).sum(-1)) < 1e-5
    assert deviation(low["log_p_z"], -0.5 * (z**2 + np.log(2 * np.pi)).sum(-1)) < 1e-5
    assert deviation(low["base_log_q"], base) < 1e-5
    assert deviation(low["base_z"], low["loc"] + low["scale"] * NOISE) < 1e-6


def test_a_step_below_a_rounding_to_bfloat16_moves_the_parameters(backend: str) -> None:
    s, _ = in_both(backend, "flow")["bfloat16"]
    before = s.state()
    step(s, 1e-6)
    after = s.state()
    assert {value.dtype for name, value in after.items() if name != "step"} == {np.dtype(np.float32)}
    name = "parameters/decoder.out.weight"
    moved = np.abs(after[name] - before[name])
    assert 0 < np.median(moved) < 2e-6
    moment = after["optimizer/first_moment/decoder.out.weight"]
    assert np.abs(moment).max() > 0


def test_what_was_trained_is_what_is_used(backend: str) -> None:
    """The network and the judged one are those of the state, where weights are rounded ahead of their use too."""
    s, _ = in_both(backend, "flow")["bfloat16"]
    before = s.encode(IMAGES[ROWS], NOISE)
    step(s, 1e-2)
    config = small("flow", dtype="float32", precision="bfloat16", batch_size=300, hidden_size=32, ema_decay=0.9)
    fresh = session(backend, config, s.state())
    ours, theirs = (each.inspect(each.place(IMAGES), ROWS, noise=NOISE, kl_weight=1.0) for each in (s, fresh))
    assert {name for name in ours if not np.array_equal(ours[name], theirs[name])} == set()
    now, new = (each.encode(IMAGES[ROWS], NOISE) for each in (s, fresh))
    assert np.array_equal(now, new)
    assert not np.array_equal(now, before)


def test_products_of_the_floor_can_be_bfloat16(backend: str) -> None:
    probes(backend).products(products=[(3, 4, 5), (2, 3, 4)], device="cpu", dtype="bfloat16")(2)


def test_it_needs_float32() -> None:
    config = Config().replace(precision="bfloat16", dtype="float64", batch_size=1)
    with pytest.raises(UserError, match="--precision bfloat16 is for --dtype float32, not float64"):
        check(config, train_images=10, test_images=10)
    check(config.replace(dtype="float32"), train_images=10, test_images=10)
