"""The live table: what it shows of a sweep, on wide, narrow and short terminals; and plain lines in a pipe."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import preset
from benchmarks.outputs import live

TRAINING: dict[str, Any] = {
    "kind": "progress",
    "phase": "train",
    "done": 1300,
    "total": 2000,
    "unit": "steps",
    "elbo": -102.345,
}
TRAINING |= {"rate": 16259.4, "left": 143.0}


def job(backend: str = "jax", **settings: Any) -> Job:
    return Job(backend, "quick", "binarized-digits", None, preset("quick").replace(**settings), "nowhere", False)


SIX = [job(name, variational=family) for family in ("mean-field", "flow") for name in ("pytorch", "jax", "tensorflow")]


def record(of: Job, *, status: str = "ok", reason: str | None = None) -> dict[str, Any]:
    found = of.blank(dataset=None) | {"status": status, "reason": reason}
    if status == "ok":
        found["test"] |= {"elbo": -95.123, "log_px": -90.831}
        found["timing"] |= {"examples_per_s": 17654.3}
    return found


def half_way(jobs: list[Job], *, failed: int, ended: int) -> live.Sweep:
    """Some jobs have ended, one of them failed, and the next is in training."""
    sweep = live.Sweep(jobs)
    for i, each in enumerate(jobs[: ended + 1]):
        sweep.begin(each)
        sweep.heard(each, {"kind": "begin", "step": 0, "steps": 2000})
        sweep.heard(each, TRAINING)
        if i < ended:
            reason = "jax: its process ended with code -9." if i == failed else None
            sweep.end(each, record(each, status="failed" if reason else "ok", reason=reason), skipped=False)
    return sweep


def text(sweep: live.Sweep, *, width: int, height: int = 40) -> list[str]:
    lines = [line.plain.rstrip() for line in sweep.lines(width=width, height=height)]
    assert max(map(len, lines)) <= width
    assert len(lines) < height
    return lines


def test_each_run_has_its_state_and_numbers() -> None:
    header, done, failed, _, training, waiting, *_, summary = text(half_way(SIX, failed=1, ended=3), width=100)
    assert header.split() == ["run", "state", "step", "ELBO", "log", "p(x)", "examples/s", "left"]
    assert done.split() == ["pytorch", "mean-field", "done", "2,000/2,000", "-95.12", "-90.83", "17,654"]
    assert failed.split(maxsplit=3) == ["jax", "mean-field", "failed", "jax: its process ended with code -9."]
    assert training.split() == ["pytorch", "flow", "training", "1,300/2,000", "-102.34", "16,259", "2:23"]
    assert waiting.split()[:3] == ["jax", "flow", "waiting"]
    assert summary.startswith("2 of 6 done, 1 failed; ")
    assert summary.endswith(" left")


def test_a_run_goes_through_its_states() -> None:
    (one,) = jobs = [job()]
    sweep = live.Sweep(jobs)
    states = []
    for event in (
        {"kind": "begin", "step": 500, "steps": 2000},
        TRAINING | {"done": 500, "elbo": None, "rate": None, "left": None},
        TRAINING,
        {
            "kind": "progress",
            "phase": "test",
            "done": 100,
            "total": 300,
            "unit": "images",
            "elbo": None,
            "rate": 9.0,
            "left": 2.0,
        },
        {"kind": "result", "step": 2000, "elbo": -95.123, "log_px": -90.831},
    ):
        if not states:
            sweep.begin(one)
            states.append(sweep.rows[one].state)
        sweep.heard(one, event)
        states.append(sweep.rows[one].state)
    assert states == ["starting", "compiling", "compiling", "training", "testing", "testing"]
    assert len(text(sweep, width=100)) == 2, "one run needs no summary"
    sweep.end(one, record(one), skipped=True)
    assert sweep.rows[one].state == "skipped"


@pytest.mark.parametrize("width", range(40, 100))
def test_a_narrow_terminal_drops_columns_and_cuts_no_number(width: int) -> None:
    numbers = {"2,000/2,000", "1,300/2,000", "0/2,000", "-95.12", "-90.83", "-102.34", "17,654", "16,259", "2:23"}
    rows = [line.split() for line in text(half_way(SIX, failed=1, ended=3), width=width)[1:-1] if "process" not in line]
    words = {word for row in rows for word in row if any(map(str.isdigit, word))}
    assert words <= numbers
    assert words >= {"-90.83"} | ({"-95.12", "2:23"} if width >= 60 else set())


def test_of_many_runs_a_short_terminal_shows_the_failed_the_latest_and_counts() -> None:
    grid = itertools.product(range(10), (16, 64), (3e-4, 1e-3), ("pytorch", "jax", "tensorflow"))
    many = [job(name, seed=seed, latent_size=latent, learning_rate=rate) for seed, latent, rate, name in grid]
    sweep = half_way(many, failed=7, ended=50)
    lines = text(sweep, width=120, height=14)
    assert len(lines) == 13
    assert sum("failed" in line for line in lines[1:-2]) == 1
    assert sum("training" in line for line in lines) == 1
    assert lines[-2] == "… and 41 done, 69 waiting"
    assert lines[-1].startswith("49 of 120 done, 1 failed")
    narrow = text(sweep, width=60, height=14)
    assert any("failed" in line for line in narrow)
    assert any("training" in line for line in narrow)


def test_the_time_left_is_that_of_the_runs_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    sweep = live.Sweep(SIX)
    assert sweep.left() is None
    for i, seconds in enumerate((100.0, 200.0)):
        sweep.begin(SIX[i])
        now[0] += seconds
        sweep.end(SIX[i], record(SIX[i]), skipped=False)
    assert sweep.left() == 4 * 150
    sweep.begin(SIX[2])
    now[0] += 60
    assert sweep.left() == 3 * 150 + 90
    sweep.heard(SIX[2], {"kind": "begin", "step": 0, "steps": 2000})
    sweep.heard(SIX[2], TRAINING | {"left": 240.0})
    assert sweep.left() == 240 + 3 * 200


def test_a_name_says_what_differs() -> None:
    assert list(live.names([job()]).values()) == ["jax mean-field"]
    assert list(live.names([job(seed=0), job(seed=1)]).values()) == ["seed 0", "seed 1"]
    named = live.names([job("jax", latent_size=16), job("pytorch", latent_size=64)])
    assert list(named.values()) == ["jax latent-size 16", "pytorch latent-size 64"]


def test_what_a_process_says_stands_above_the_table() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, height=20, color_system=None)
    sweep = live.Sweep(SIX)
    with Live(sweep, console=console, auto_refresh=False, transient=True) as drawn:
        display = live.OnTerminal(sweep, drawn)
        display.begin(SIX[0])
        display.heard(SIX[0], {"kind": "said", "text": "a warning [not markup] of the framework"})
    said, _, after = shown.getvalue().partition("a warning [not markup] of the framework")
    assert "pytorch mean-field" in said
    assert "pytorch mean-field" in after


def test_in_a_pipe_lines_are_plain_and_quiet_leaves_them_out(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, lines in ((False, ["jax train 2000/2000 steps, ELBO -102.34, 16,259 examples/s, 0 s left"]), (True, [])):
        with live.display([job("jax"), job("pytorch")], quiet=quiet) as display:
            display.begin(job("jax"))
            display.heard(job("jax"), TRAINING)
            display.heard(job("jax"), TRAINING | {"done": 2000, "left": 0.0})
            display.heard(job("jax"), {"kind": "said", "text": "a warning"})
            display.end(job("jax"), record(job("jax")))
        assert capsys.readouterr().err.splitlines() == [*lines, "a warning"]


@pytest.mark.parametrize(("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3845, "1:04:05")])
def test_a_duration(seconds: float, words: str) -> None:
    assert live.duration(seconds) == words
