"""The clock's self-test: known delays are put into a real training run, and its times must be exactly what they should.

Each breach of the contract is then committed on purpose, and the same check must go red: the guard is tested with the clock.

What proves what. Time is a stand-in in the first part: it passes only in the calls of a session, so that sums are exact on a
busy machine, and on a stand-in device that works on after each call has returned. That proves of every backend's session that
the harness synchronises at both ends of a span and keeps out what isn't a chunk's. That a backend's own `train` and
`synchronize` wait is the second part, in real time. On a CPU only JAX dispatches asynchronously, so only there can the
synchronisation be taken out and missed; PyTorch and TensorFlow compute inside the call there, and have nothing to wait for.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import chunk_times, environment, spread
from common import clock, training
from common.checkpoints import Checkpoint
from common.config import Config, Training
from common.data import Dataset
from common.protocol import BACKENDS, Session, load, probes
from tests.parity.conftest import IMAGES, random_state, session, small

# Seconds of the stand-in clock: a chunk's own, compiling, placing a data set, and all that doesn't belong into a chunk.
WORK, COMPILING, PLACING, ASIDE = 1.0, 50.0, 3.0, 7.0
BATCH, STEPS, CHUNK = 20, 40, 10

DATASET = Dataset("images", "", train=IMAGES[:200], valid=IMAGES[200:250], test=IMAGES[250:], image_shape=(3, 4))


class Known:
    """A session whose calls return at once and keep a stand-in device busy for a known time; `now` is the stand-in clock."""

    def __init__(self, inner: Session):
        self.inner, self.now, self.idle_at, self.compiled = inner, 0.0, 0.0, False

    def perf_counter(self) -> float:
        return self.now

    def enqueue(self, seconds: float) -> None:
        self.idle_at = max(self.now, self.idle_at) + seconds

    def place(self, images: np.ndarray) -> Any:
        self.enqueue(PLACING)
        return self.inner.place(images)

    def train(self, *arguments: Any, **keywords: Any) -> Any:
        self.enqueue(WORK if self.compiled else WORK + COMPILING)
        self.compiled = True
        return self.inner.train(*arguments, **keywords)

    def log_weights(self, *arguments: Any, **keywords: Any) -> Any:
        self.enqueue(ASIDE)
        return self.inner.log_weights(*arguments, **keywords)

    def state(self) -> Any:
        self.enqueue(ASIDE)
        return self.inner.state()

    def synchronize(self) -> None:
        self.now = max(self.now, self.idle_at)
        self.inner.synchronize()


def settings() -> Config:
    return small("mean-field", batch_size=BATCH, steps=STEPS, chunk=CHUNK, log_interval=CHUNK, validation_interval=CHUNK)


@pytest.fixture(scope="module", params=BACKENDS)
def born(request: pytest.FixtureRequest) -> tuple[Session, list[float]]:
    """A real session, and the seconds of its first chunks."""
    made = session(request.param, settings(), random_state(settings()))
    return made, [chunk(made, steps=CHUNK, batch=BATCH)[0] for _ in range(2)]


@pytest.fixture(scope="module")
def real(born: tuple[Session, list[float]]) -> Session:
    return born[0]


@pytest.fixture
def known(real: Session, monkeypatch: pytest.MonkeyPatch) -> Known:
    made = Known(real)
    monkeypatch.setattr(clock, "time", made)
    return made


def history(known: Known) -> dict[str, list[float]]:
    """Of a run with this session; reports, checkpoints and what is done between chunks take their time too."""
    checkpoint = Checkpoint(settings(), "", "", DATASET.name, "", random_state(settings()))

    def aside(*_: Any) -> None:
        known.now += ASIDE

    training.train(known, checkpoint, dataset=DATASET, save=aside, report=aside, between=aside)
    return checkpoint.history | {"floor_seconds": []}


def right(found: dict[str, list[float]]) -> None:
    """The clock's times are those of the chunks alone, and compiling, the first chunk and placing data are apart."""
    assert found["chunk_seconds"] == [WORK + COMPILING, WORK, WORK, WORK]
    timing = chunk_times.timing(found, settings().training)
    assert timing["examples_per_s"] == CHUNK * BATCH / WORK
    assert (timing["compile_s"], timing["first_chunk_s"]) == (COMPILING, WORK + COMPILING)
    assert (timing["steady_s"], timing["placement_s"]) == (4 * WORK, 2 * PLACING)
    assert (timing["chunks"], timing["examples_per_s_iqr"], timing["warning"]) == (3, 0, None)


def test_the_clock_times_the_chunks_and_nothing_else(known: Known) -> None:
    right(history(known))


def no_sync_after(work: Callable[[], Any], *, synchronize: Callable[[], None]) -> tuple[Any, float]:
    synchronize()
    start = clock.time.perf_counter()
    return work(), clock.time.perf_counter() - start


def no_sync_before(work: Callable[[], Any], *, synchronize: Callable[[], None]) -> tuple[Any, float]:
    start = clock.time.perf_counter()
    result = work()
    synchronize()
    return result, clock.time.perf_counter() - start


@pytest.mark.parametrize("broken", [no_sync_after, no_sync_before])
def test_without_a_synchronisation_it_is_red(known: Known, monkeypatch: pytest.MonkeyPatch, broken: Any) -> None:
    monkeypatch.setattr(training, "timed", broken)
    with pytest.raises(AssertionError):
        right(history(known))


def test_with_the_evaluation_inside_it_is_red(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    train = known.train

    def train_and_validate(handle: Any, *arguments: Any, **keywords: Any) -> Any:
        result = train(handle, *arguments, **keywords)
        training.validate(known, handle, images=50, seed=0)
        return result

    monkeypatch.setattr(known, "train", train_and_validate)
    with pytest.raises(AssertionError):
        right(history(known))


def test_with_compiling_counted_it_is_red(known: Known) -> None:
    found = history(known)
    right(found)
    with pytest.raises(AssertionError):
        right(found | {"chunk_first": [0.0] * len(found["chunk_first"])})


@pytest.mark.parametrize("chunk", range(STEPS // CHUNK))
def test_with_a_sleep_in_one_chunk_it_is_red(known: Known, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    train = known.train

    def sleepy(*arguments: Any, **keywords: Any) -> Any:
        if keywords["first_step"] == chunk * CHUNK:
            known.now += 0.01
        return train(*arguments, **keywords)

    monkeypatch.setattr(known, "train", sleepy)
    with pytest.raises(AssertionError):
        right(history(known))


# The backends' own waiting, in real time


def module(made: Session) -> Any:
    return sys.modules[type(made).__module__]


def chunk(made: Session, *, steps: int, batch: int) -> tuple[float, float]:
    """(seconds of a chunk by the clock, seconds until its parameters are in NumPy, which is after its work)."""
    rows = np.arange(steps * batch, dtype=np.int32).reshape(steps, batch) % len(IMAGES)
    settings: dict[str, Any] = {"learning_rates": np.zeros(steps), "kl_weights": np.zeros(steps), "seed": 0, "noise": None}
    handle = made.place(IMAGES)
    start = time.perf_counter()
    _, seconds = training.timed(lambda: made.train(handle, rows, first_step=0, **settings), synchronize=made.synchronize)
    made.state()
    return seconds, time.perf_counter() - start


@pytest.fixture(scope="module")
def heavy(real: Session) -> Session:
    """The same backend with a chunk of a tenth of a second or more, compiled."""
    backend = type(real).__module__.split(".")[1]
    config = small("mean-field", dtype="float32", hidden_size=384)
    made = session(backend, config, random_state(config))
    chunk(made, steps=20, batch=200)
    return made


def test_when_the_clock_stops_the_work_is_done_and_a_sleep_is_seen(heavy: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, whole = chunk(heavy, steps=20, batch=200)
    assert seconds > 0.6 * whole
    train = heavy.train

    def sleepy(*arguments: Any, **keywords: Any) -> Any:
        time.sleep(0.5)
        return train(*arguments, **keywords)

    monkeypatch.setattr(heavy, "train", sleepy)
    assert chunk(heavy, steps=20, batch=200)[0] > 0.5


def test_the_gradient_alone_changes_nothing(real: Session) -> None:
    before = real.state()
    noise = np.zeros((1, BATCH, 4))
    backend, rows = type(real).__module__.split(".")[1], np.arange(BATCH, dtype=np.int32)
    probes(backend).gradient(real, real.place(IMAGES), rows, noise=noise, kl_weight=1.0)(2)
    assert all(np.array_equal(value, before[name]) for name, value in real.state().items())


def test_a_length_compiles_in_its_first_chunk_alone(born: tuple[Session, list[float]]) -> None:
    """Else the second would pass for a steady one. JAX would compile again, were its state not all on one device."""
    made, (first, second) = born
    if hasattr(module(made), "torch"):
        pytest.skip("compiles nothing")
    assert second < 0.5 * first


def test_a_session_that_does_not_wait_is_red(heavy: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of JAX, the only one that could hide work from the clock on a CPU."""
    if not hasattr(module(heavy), "jax"):
        pytest.skip("computes inside the call on a CPU: nothing to wait for")
    jax = module(heavy).jax
    monkeypatch.setattr(jax, "device_get", lambda values: values)  # how `train` waits
    # The shape check would see that these are no NumPy arrays yet.
    monkeypatch.setattr(type(heavy), "train", inspect.unwrap(type(heavy).train))
    seconds, whole = chunk(heavy, steps=20, batch=200)
    assert seconds > 0.6 * whole, "synchronize alone waits"
    monkeypatch.setattr(jax, "block_until_ready", lambda values: values)  # how `synchronize` waits
    seconds, whole = chunk(heavy, steps=20, batch=200)
    assert seconds < 0.5 * whole


def test_on_a_gpu_pytorch_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that the call is made; that it waits is the framework's word until there is a GPU."""
    pytorch: Any = load("pytorch")
    waited: list[None] = []
    monkeypatch.setattr(pytorch.torch.cuda, "synchronize", lambda: waited.append(None))
    for kind, times in (("cpu", 0), ("cuda", 1)):
        pytorch.Session.synchronize(SimpleNamespace(device=SimpleNamespace(type=kind)))
        assert len(waited) == times


def test_tensorflow_waits_for_its_devices_and_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the parameters would wait too, and put a copy of them all into every span."""
    tensorflow: Any = load("tensorflow")
    waited: list[None] = []
    monkeypatch.setattr(tensorflow.tf.test.experimental, "sync_devices", lambda: waited.append(None))
    tensorflow.Session.synchronize(SimpleNamespace())  # which has no parameters
    assert len(waited) == 1


# What is said of times

OUTSIDE: dict[str, list[float]] = {"floor_seconds": [], "placement_seconds": [0.5]}


def test_a_spread_beyond_the_bound_is_a_warning_on_the_record() -> None:
    def timing(seconds: list[float]) -> dict[str, Any]:
        chunks = {
            "chunk_steps": [10.0] * len(seconds),
            "chunk_seconds": seconds,
            "chunk_first": [1.0] + [0.0] * (len(seconds) - 1),
        }
        return chunk_times.timing(chunks | OUTSIDE, Training(batch_size=20, chunk=10))

    quiet, loud = timing([3.0, 1.0, 1.02, 1.04, 1.06]), timing([3.0, 1.0, 1.2, 1.4, 1.6])
    assert quiet["warning"] is None
    assert quiet["examples_per_s_iqr"] / quiet["examples_per_s"] < spread.BOUND
    assert "spreads over" in loud["warning"]
    assert "10%" in loud["warning"]
    assert (quiet["chunks"], quiet["first_chunk_s"], quiet["placement_s"]) == (4, 3.0, 0.5)


@pytest.mark.parametrize(("chunk", "seconds"), [(10, 1.0), (20, 1.8), (40, None)])
def test_the_median_is_of_the_runs_own_chunks_alone(chunk: int, seconds: float | None) -> None:
    """Ten steps a chunk, then resumed with twenty; or with forty, when nothing was left to train."""
    chunks = {
        "chunk_steps": [10.0, 10, 10, 20, 20, 20],
        "chunk_seconds": [3.0, 1, 1, 4, 1.8, 1.8],
        "chunk_first": [1.0, 0, 0, 1, 0, 0],
    }
    timing = chunk_times.timing(chunks | OUTSIDE, Training(batch_size=5, chunk=chunk))
    assert timing["examples_per_s"] == (None if seconds is None else pytest.approx(5 * chunk / seconds))
    assert timing["chunks"] == (None if seconds is None else 2)


def test_the_environment_says_load_clock_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    described = environment.describe()
    assert described["load"] >= 0
    assert described["clock"].keys() == {"mhz", "max_mhz", "governor"}
    assert environment.own_threads() >= 1

    def silent() -> None:
        raise NotImplementedError

    monkeypatch.setattr(environment.psutil, "cpu_freq", silent)
    assert environment.clock()["mhz"] is None
