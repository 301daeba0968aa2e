"""What the suite itself costs: the bare loops train the same model, and the clock sees what it should."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import cores, processes, reports, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.outputs import markdown
from benchmarks.studies import overhead
from common import data, protocol, training
from common.errors import UserError
from common.protocol import BACKENDS


def seed_pytorch() -> None:
    import torch

    torch.manual_seed(0)


def seed_tensorflow() -> None:
    import keras

    keras.utils.set_random_seed(0)


SEEDS: dict[str, Callable[[], None]] = {"pytorch": seed_pytorch, "jax": lambda: None, "tensorflow": seed_tensorflow}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bare_loop_learns_what_our_loop_learns(backend: str) -> None:
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    config = preset("quick").replace(
        image_shape=(8, 8), hidden_size=32, latent_size=4, learning_rate=3e-3, steps=800, warm_up=0
    )
    config = config.replace(schedule="constant", batch_size=100)
    job = Job(backend, "quick", data="", data_dir=None, config=config, results="", resume=False)
    _, session = runs.begin(job, backend=protocol.load(backend), dataset=digits)
    SEEDS[backend]()  # of the bare loop's initial weights: JAX's have a seed of their own
    bare = overhead.bare_loop(backend)(digits.train, hidden=32, latent=4, learning_rate=3e-3)
    chunk = training.chunk(config, images=len(digits.train), first_step=0, steps=800)
    _, ours = session.train(session.place(digits.train), **chunk)
    theirs = bare(chunk["indices"])
    assert theirs.shape == (800,)
    assert theirs.dtype == np.float32, "JAX's switch to 64 bits, which the suite throws, must not slow the other side down"
    # 400 steps of 100 images; from one initialisation to the next, the means differ by some tenths of a nat.
    assert abs(theirs[400:].mean() - ours[400:].mean()) < 1.0
    assert theirs[400:].mean() > theirs[:50].mean() + 5


def test_the_sides_take_turns_and_neither_compiles_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Session:
        def place(self, images: np.ndarray) -> None: ...
        def synchronize(self) -> None: ...
        def train(self, handle: None, **chunk: Any) -> None:
            order.append(f"ours {chunk['first_step']}")

    def bare(rows: np.ndarray) -> np.ndarray:
        order.append("bare")
        return np.zeros(len(rows))

    monkeypatch.setattr(overhead, "bare_loop", lambda name: lambda *_, **__: bare)
    config = preset("standard").replace(chunk=2)
    session: Any = Session()
    found = overhead.by_turns(session, "jax", config=config, images=np.zeros((300, 784), np.uint8), turns=3)
    assert order == ["ours 0", "bare", "bare", "ours 2", "ours 4", "bare", "bare", "ours 6"]
    assert len(found["ours"]) == len(found["bare"]) == 3
    assert len(found["round_trips_ns"]) == 6, "at both ends of each turn"


def test_outside_is_the_share_that_is_spent_in_no_call_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Session:
        def train(self) -> None:
            nonlocal now
            now += 3

    def train(session: Session, checkpoint: Any, **_: Any) -> None:
        nonlocal now
        for _ in range(5):
            session.train()
            now += 1

    monkeypatch.setattr(overhead, "time", types.SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(overhead.training, "train", train)
    checkpoint, session, dataset = types.SimpleNamespace(config=preset("quick")), Session(), None
    assert overhead.outside(session, checkpoint, dataset=dataset) == 0.25  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [6, 8, 24, 101])
def test_the_interval_is_the_narrowest_that_covers_the_median_95_times_in_100(n: int) -> None:
    low, high = overhead.interval([float(k) for k in range(n, 0, -1)])
    assert low - 1 == n - high

    def coverage(rank: int) -> float:
        """P(the rank-th smallest < median < the rank-th largest): neither fewer than `rank` values below it nor above."""
        return 1 - 2 * sum(math.comb(n, k) for k in range(rank)) / 2**n

    assert coverage(int(low)) >= 0.95 > coverage(int(low) + 1)


def test_the_report_has_each_backends_turns_and_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chunk = preset("standard").training.chunk
    loops = {"ours": [chunk * 0.011] * 6, "bare": [chunk * 0.01] * 6, "outside": 0.004, "round_trips_ns": [290.0, 510.0]}
    monkeypatch.setattr(processes, "ask", lambda target, point, **_: overhead.measure(point))
    monkeypatch.setattr(overhead, "beside", lambda name, **_: loops)
    order: list[tuple[str, str]] = []

    def start(backend: str, family: str, *, cache: Path) -> dict[str, float | None]:
        """A cold one fills its cache."""
        turn = int(cache.exists())
        order.append((backend, family))
        cache.mkdir(parents=True, exist_ok=True)
        compiled = None if backend == "pytorch" else 0.0 if turn else 9.0
        return {"command_s": 9.0 - turn, "first_chunk_s": 2.0 - turn / 4, "import_s": 1.0, "programs_compiled": compiled}

    monkeypatch.setattr(overhead, "start", start)
    arguments = ("--backend", "jax", "pytorch", "--processes", "2", "--starts", "1", "--results", str(tmp_path))
    for _ in range(2):  # the second finds the first one's caches, and empties them
        assert main(["study", "overhead", *arguments]) == 0
        report = reports.read("overhead", tmp_path)
        assert report is not None
        text = markdown.page(overhead.parts(report))
        assert "| jax | 11.00 | 10.00 | 1.100 (1.100 … 1.100) | 12 | 2 | 0.40% |" in text
        assert "| jax | flow | 9.0 | 8.0 | 1.0 | 2.00 | 1.75 | 0 |" in text
        assert "| pytorch | flow | 9.0 | 8.0 | 1.0 | 2.00 | 1.75 | – |" in text
        assert "two cores 290 to 510 ns beside the bare loop" in text
    assert order[:4] == order[4:8], "all cold starts come before any other"
    assert len(set(order[:4])) == 4


def test_a_start_waits_for_no_cores_and_has_its_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cores.WITHIN, "400")
    given: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> types.SimpleNamespace:
        given.append(env)
        return types.SimpleNamespace(returncode=1, stderr="That's all.")

    monkeypatch.setattr(overhead.subprocess, "run", run)
    with pytest.raises(UserError, match=r"ended with code 1:\nThat's all\."):
        overhead.start("jax", "flow", cache=tmp_path)
    assert cores.WITHIN not in given[0]
    assert given[0]["VAEBENCH_CACHE_DIR"] == str(tmp_path)
    assert "PATH" in given[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--turns", "5"), "--turns is 5; it must be at least 6"), (("--steps", "1"), "--steps is 1; it must be at least")],
)
def test_too_few_turns_and_steps_are_refused(
    arguments: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "overhead", *arguments, "--results", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
