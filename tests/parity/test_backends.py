"""Each backend by itself: it is what NumPy says, and keeps the promises of common/protocol.py."""

from __future__ import annotations

import gc
import itertools
import sys
import types
import weakref
from typing import Any

import numpy as np
import pytest

from common import parameters, protocol
from common.config import Optimizer
from common.errors import UserError
from common.parameters import fresh_state, initial_parameters
from common.training import chunk
from tests.parity.conftest import IMAGES, deviation, random_state, session, small

NOISE = np.random.default_rng(2).normal(size=(3, 20, 4))
ROWS = np.arange(40, 60, dtype=np.int32)


def test_the_objective_is_what_numpy_says(backend: str, family: str) -> None:
    config = small(family, objective_samples=3)
    s = session(backend, config, random_state(config))
    q = s.inspect(s.place(IMAGES), ROWS, noise=NOISE, kl_weight=0.3)
    x, logits, z = IMAGES[ROWS].astype(float), q["logits"], q["z"]
    log_p_x = (x * logits - np.logaddexp(0, logits)).sum(-1)
    log_p_z = -0.5 * (z**2 + np.log(2 * np.pi)).sum(-1)
    base = -0.5 * (NOISE**2 + np.log(2 * np.pi)).sum(-1) - np.log(q["scale"]).sum(-1)
    log_q = base - (q["log_det"] if family == "flow" else 0)
    log_w = log_p_x + 0.3 * (log_p_z - log_q)
    assert deviation(q["log_weights"], log_w) < 1e-12
    assert deviation(q["objective"], np.log(np.exp(log_w).mean(0)).mean()) < 1e-12
    untempered = s.log_weights(s.place(IMAGES), ROWS, samples=range(3), seed=0, noise=NOISE)
    assert deviation(untempered, log_p_x + log_p_z - log_q) < 1e-12


def test_a_network_that_a_backend_has_not_written_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parameters.NETWORKS, "other", parameters.mlp)
    config = small("flow", network="other")
    with pytest.raises(UserError, match=f"Backend '{backend}' has no network 'other', only mlp, resnet"):
        session(backend, config, random_state(config))


def test_a_layer_that_common_parameters_lacks_is_refused(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would have values that nothing trains, saves or averages."""

    def without_the_last(prefix: str, *sizes: Any) -> list[parameters.Layer]:
        return parameters.mlp(prefix, *sizes)[: -1 if prefix == "encoder" else None]

    monkeypatch.setitem(parameters.NETWORKS, "mlp", without_the_last)
    config = small("mean-field")
    with pytest.raises(ValueError, match=r"differ in the parameters .*(encoder\.out|linear_)"):
        session(backend, config, random_state(config))


OPTIMIZERS = [{"optimizer": "adam", "weight_decay": 0.1}, {"optimizer": "adam"}] + [
    {
        "optimizer": "rmsprop",
        "rmsprop_epsilon_in_root": in_root,
        "rmsprop_centered": centered,
        "rmsprop_initial_accumulator": start,
        "rmsprop_epsilon": 1e-6,
    }
    for in_root, centered, start in itertools.product((False, True), (False, True), (0.0, 1.0))
]


def numpy_update(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int, lr: float, o: Optimizer) -> np.ndarray:
    """One step of design's formula on one tensor, in place of the moments; g is of the loss."""
    p = p * (1 - lr * o.weight_decay)
    if o.optimizer == "adam":
        m += (1 - o.adam_beta1) * (g - m)
        v += (1 - o.adam_beta2) * (g * g - v)
        return p - lr * (m / (1 - o.adam_beta1**t)) / (np.sqrt(v / (1 - o.adam_beta2**t)) + o.adam_epsilon)
    m += (1 - o.rmsprop_decay) * (g - m)
    v += (1 - o.rmsprop_decay) * (g * g - v)
    variance = v - m * m if o.rmsprop_centered else v
    if o.rmsprop_epsilon_in_root:
        return p - lr * g / np.sqrt(variance + o.rmsprop_epsilon)
    return p - lr * g / (np.sqrt(variance) + o.rmsprop_epsilon)


@pytest.mark.parametrize("changes", OPTIMIZERS, ids=lambda changes: "-".join(str(v) for v in changes.values()))
def test_an_optimizer_is_its_formula(changes: dict[str, object]) -> None:
    """PyTorch's, which compiles nothing here. That the others' are the same, rule by rule, is the ladder's to show."""
    config = small("mean-field", warm_up=0, **changes)
    state = random_state(config)
    name = "decoder.out.bias"
    p = state[f"parameters/{name}"].copy()
    m, v = np.zeros_like(p), state[f"optimizer/second_moment/{name}"].copy()
    s = session("pytorch", config, state)
    handle = s.place(IMAGES)
    for t in range(5):
        noise = NOISE[:1] + t
        gradient = -s.inspect(handle, ROWS, noise=noise, kl_weight=1.0)[f"gradient/{name}"]
        rates, betas = np.array([0.01 / (t + 1)]), np.ones(1)
        s.train(handle, ROWS[None], first_step=t, learning_rates=rates, kl_weights=betas, seed=0, noise=noise[None])
        p = numpy_update(p, gradient, m, v, t + 1, rates[0], config.optimizer)
    assert deviation(s.state()[f"parameters/{name}"], p) < 1e-12


def test_noise_is_a_function_of_image_and_sample(backend: str) -> None:
    config = small("flow")
    s = session(backend, config, random_state(config))
    handle = s.place(IMAGES)
    whole = s.log_weights(handle, ROWS, samples=range(60), seed=5, noise=None)
    part = s.log_weights(handle, ROWS[::-3].copy(), samples=range(25, 60), seed=5, noise=None)
    assert deviation(part, whole[25:, ::-3]) < 1e-12
    other = s.log_weights(handle, ROWS, samples=range(60), seed=6, noise=None)
    assert not (np.abs(other - whole) < 1e-9).any()
    assert len(np.unique(whole.round(9))) == whole.size


def test_two_halves_of_the_device_noise_agree(backend: str) -> None:
    """E_q[w] is p(x), so that two independent halves agree within their error."""
    config = small("mean-field")
    s = session(backend, config, random_state(config))
    log_w = s.log_weights(s.place(IMAGES), ROWS, samples=range(5000), seed=1, noise=None)
    first, second = (np.exp(half).mean(0) for half in np.split(log_w, 2))
    error = np.exp(log_w).std(0) * np.sqrt(2 / 2500)
    assert (np.abs(first - second) < 5 * error).all()


def test_the_state_survives_a_session(backend: str, family: str) -> None:
    config = small(family, ema_decay=0.9, optimizer="rmsprop", rmsprop_centered=True)
    state = random_state(config)
    state |= {name: np.abs(value) + 0.1 for name, value in state.items() if "moment" in name}
    state["step"] = np.array(7)
    again = session(backend, config, state).state()
    assert again.keys() == state.keys()
    for name, value in state.items():
        assert np.array_equal(again[name], value), name


def test_encoding_is_the_whole_posterior(backend: str, family: str) -> None:
    """z of `encode` is that of `inspect` on the same noise, of the judged parameters."""
    config = small(family, ema_decay=0.9)
    state = random_state(config)
    s = session(backend, config, state)
    expected = s.inspect(s.place(IMAGES), ROWS, noise=NOISE, kl_weight=1.0)["z"]
    assert deviation(s.encode(IMAGES[ROWS], NOISE), expected) < 1e-12
    other = {name: value * (1.1 if name.startswith("ema/") else 1) for name, value in state.items()}
    assert deviation(session(backend, config, other).encode(IMAGES[ROWS], NOISE), expected) > 1e-3


def test_a_flow_reconstructs_from_what_it_encodes(backend: str) -> None:
    """After training, log p(x|z) at z ~ q(z|x) is higher than at the flow's base, which the decoder has never seen."""
    config = small("flow", steps=300, warm_up=3000, learning_rate=1e-2, noise="shared")
    initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(12))
    s = session(backend, config, fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype))
    patterns = np.repeat(np.random.default_rng(5).random((6, 12)) < 0.5, 50, axis=0).astype(np.uint8)
    handle = s.place(patterns)
    s.train(handle, **chunk(config, images=len(patterns), first_step=0, steps=300))

    def log_likelihood(z: np.ndarray) -> float:
        p = s.decode(z[0])
        return float(np.where(patterns[::15] == 1, np.log(p), np.log1p(-p)).sum(-1).mean())

    base = s.inspect(handle, np.arange(0, 300, 15, dtype=np.int32), noise=NOISE[:1], kl_weight=1.0)["base_z"]
    encoded = s.encode(patterns[::15], NOISE[:1])
    assert log_likelihood(encoded) > log_likelihood(base) + 0.5


def test_a_scorer_judges_as_the_session_does(backend: str, family: str) -> None:
    """From the moving average alone, without optimizer state."""
    config = small(family, ema_decay=0.9)
    state = random_state(config)
    state |= {name: value * 1.1 for name, value in state.items() if name.startswith("ema/")}
    s, scorer = session(backend, config, state), protocol.load(backend).score(config, parameters.judged(state))
    for one, other in (
        (each.log_weights(each.place(IMAGES), ROWS, samples=range(25), seed=3, noise=None) for each in (s, scorer)),
        (each.encode(IMAGES[ROWS], NOISE) for each in (s, scorer)),
        (each.decode(NOISE[0]) for each in (s, scorer)),
    ):
        assert np.array_equal(one, other)
    assert not hasattr(scorer, "optimizer")


def test_a_deleted_session_and_its_arrays_are_garbage(backend: str) -> None:
    """After it was used in every way. The arrays are those of the parameters, at the start and after a chunk."""
    config = small("flow", ema_decay=0.9)
    s: Any = session(backend, config, random_state(config))
    first = [weakref.ref(value) for value in s.parameters.values()]
    handle = s.place(IMAGES)
    s.train(handle, **chunk(config, images=300, first_step=0, steps=2))
    s.log_weights(handle, ROWS, samples=range(25), seed=0, noise=None)
    s.inspect(handle, ROWS, noise=NOISE, kl_weight=1.0)
    s.encode(IMAGES[ROWS], NOISE)
    s.decode(NOISE[0])
    protocol.probes(backend).gradient(s, handle, ROWS, noise=NOISE, kl_weight=1.0)(1)
    alive = [weakref.ref(s), *first, *(weakref.ref(value) for value in s.parameters.values())]
    assert alive[0]() is s
    del s, handle
    gc.collect()
    assert [reference() for reference in alive if reference() is not None] == []


def test_a_backend_has_every_probe_or_its_default(backend: str) -> None:
    probes = protocol.probes(backend)
    for name in (name for name in vars(protocol.Probes) if not name.startswith("_")):
        assert callable(getattr(probes, name)), name
    assert probes.device_peak("cpu") is None
    if backend == "tensorflow":
        assert probes.programs_compiled is protocol.DEFAULT_PROBES["programs_compiled"]
        assert probes.programs_compiled() is None
    with pytest.raises(UserError, match="no backend 'mxnet'"):
        protocol.probes("mxnet")


@pytest.mark.parametrize("collecting", [True, False])
def test_an_import_isnt_gone_through_by_the_collector_which_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, collecting: bool
) -> None:
    during: list[bool] = []
    monkeypatch.setattr(
        protocol.importlib, "import_module", lambda name: during.append(gc.isenabled()) or types.ModuleType(name)
    )
    monkeypatch.delitem(sys.modules, "backends.jax.session", raising=False)
    frozen = gc.get_freeze_count()
    kept = [[i] for i in range(1000)]
    try:
        (gc.enable if collecting else gc.disable)()
        protocol.load("jax")
        assert gc.isenabled() == collecting
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "backends.jax.session", None)  # an ImportError
        with pytest.raises(UserError, match="Backend 'jax' is unavailable"):
            protocol.load("jax")
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
    assert during == [False]
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_versions_that_do_not_fit_one_another_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("jaxlib version 0.9 is incompatible with jax version 0.10")

    monkeypatch.setattr(protocol.importlib, "import_module", broken)
    monkeypatch.delitem(sys.modules, "backends.jax.session", raising=False)
    with pytest.raises(UserError, match=r"'jax' is unavailable \(RuntimeError: jaxlib version 0.9 .*install"):
        protocol.load("jax")


@pytest.mark.parametrize(
    ("platforms", "fails", "cpu"),
    [(None, False, True), ("cuda,cpu", False, True), ("cuda", False, False), ("cuda", True, None)],
)
def test_jax_has_the_devices_that_its_platforms_leave(
    monkeypatch: pytest.MonkeyPatch, platforms: str | None, fails: bool, cpu: bool | None
) -> None:
    backend: Any = protocol.load("jax")

    def devices() -> list[object]:
        assert not fails  # what JAX does where it finds no GPU
        return []

    config = types.SimpleNamespace(jax_platforms=platforms)
    monkeypatch.setattr(backend.devices, "jax", types.SimpleNamespace(devices=devices, config=config))
    if fails:
        with pytest.raises(UserError, match="JAX_PLATFORMS is 'cuda'; unset it"):
            backend.describe()
        return
    assert ("cpu" in backend.describe().devices) == cpu
    if not cpu:
        with pytest.raises(UserError, match="no device 'cpu' here; unset JAX_PLATFORMS, which is 'cuda'"):
            backend.devices.select("cpu")


def test_tensorflow_traces_once_a_shape_and_is_silent_about_many_sessions(caplog: pytest.LogCaptureFixture) -> None:
    tf = pytest.importorskip("tensorflow")
    config = small("mean-field")
    tf.get_logger().addHandler(caplog.handler)
    try:
        for _ in range(6):
            s = session("tensorflow", config, random_state(config))
            for samples in (1, 3, 3, 1):
                s.log_weights(s.place(IMAGES), ROWS, samples=range(samples), seed=0, noise=NOISE[:samples])
            assert s._log_weights.experimental_get_tracing_count() == 2
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert not caplog.records
