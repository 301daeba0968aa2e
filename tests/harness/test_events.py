"""A process's events reach its parent, whole and in order; where nobody listens, it writes none."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import events, processes, progress
from benchmarks.harness.events import Event
from benchmarks.harness.packing import packed, unpacked
from benchmarks.harness.progress import Progress

MANY = 2_000


def talk(words: str) -> dict[str, Any]:
    """A process that tells much, says some on stderr, and answers."""
    for i in range(MANY):
        events.tell("point", step=i, words=words)
    print("said\nagain", file=sys.stderr)
    return {"listened": events.listened(), "descriptors": len(os.listdir("/dev/fd"))}


def fail(_: None) -> None:
    sys.exit("it fails")


def test_events_and_lines_of_stderr_are_heard_whole_and_in_order() -> None:
    heard: list[Event] = []
    found = processes.ask(f"{__name__}:talk", "é" * 100, title="talk", heard=heard.append)
    assert found["listened"]
    assert [event["step"] for event in heard if event["kind"] == "point"] == list(range(MANY))
    assert all(event["words"] == "é" * 100 for event in heard if event["kind"] == "point")
    assert [event["text"] for event in heard if event["kind"] == "said"] == ["said", "again"]


def test_without_a_listener_nothing_is_written_and_stderr_is_shared(capfd: pytest.CaptureFixture[str]) -> None:
    assert not processes.ask(f"{__name__}:talk", "é", title="talk")["listened"]
    assert capfd.readouterr() == ("", "said\nagain\n")


def test_what_a_failing_process_says_is_heard() -> None:
    heard: list[Event] = []
    with pytest.raises(processes.ProcessError, match="The process of fail ended with code 1"):
        processes.ask(f"{__name__}:fail", None, title="fail", heard=heard.append)
    assert heard == [{"kind": "said", "text": "it fails"}]


def test_a_listener_that_fails_ends_the_process() -> None:
    def heard(event: Event) -> None:
        raise ValueError("a fault of the listener")

    with pytest.raises(ValueError, match="a fault of the listener"):
        processes.ask(f"{__name__}:fail", None, title="fail", heard=heard)


def test_images_are_packed_and_unpacked() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    assert np.array_equal(unpacked(json.loads(json.dumps(packed(images)))), images)


def test_progress_is_told_a_few_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    told: list[Event] = []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(events, "listened", lambda: True)
    monkeypatch.setattr(events, "tell", lambda kind, **fields: told.append(fields))
    with Progress("title").phase("train", total=1_000, unit="steps", rows=128) as advance:
        advance(0, None)
        for _ in range(100):
            now[0] += 0.01
            advance(10, -5.0)
    assert len(told) <= 2 + 1 / progress.SECONDS_BETWEEN_EVENTS
    assert told[0] | {"done": 0, "rate": None, "left": None, "elbo": None} == told[0]
    last = told[-1]
    assert (last["done"], last["total"], last["unit"], last["elbo"], last["left"]) == (1_000, 1_000, "steps", -5.0, 0.0)
    assert last["rate"] == pytest.approx(1_000 * 128)
