"""A signal ends a command with one line; a traceback, and another exit code, are found."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture import signals
from benchmarks.torture.running import Ended

# A command that handles signals as Python does by itself: SIGTERM raises, as a plain handler would.
PLAIN = """
import signal
from benchmarks.harness import stopping
def watch(**_):
    def end(number, frame):
        raise KeyboardInterrupt
    for number in stopping.SIGNALS:
        signal.signal(number, end)
stopping.watch = watch
"""


def interrupted(folder: Path, *, seconds: float) -> list[str]:
    """The faults of three signals to a command, while it imports."""
    case = signals.Case("results", lambda _: ("results", str(folder)))
    rounds = [signals.interrupt(case, folder / "none", seconds=seconds, out="", seed=0, number=number) for number in range(3)]
    return [fault for _, faults in rounds for fault in faults]


def test_a_signal_ends_a_command_with_one_line_and_one_with_a_traceback_is_found(
    tmp_path: Path, broken: Callable[[str], None]
) -> None:
    assert interrupted(tmp_path, seconds=0.3) == []
    broken(PLAIN)
    assert any("Traceback" in fault or "ended it with code" in fault for fault in interrupted(tmp_path, seconds=0.3))


def test_words_beside_the_one_line_are_found() -> None:
    assert signals.of_words("Stopped.\n", training=False) == []
    assert (
        signals.of_words("pytorch flow: stopped at step 20 of 60, saved in x.\nStopped; --resume goes on.\n", training=True)
        == []
    )
    for error in ("", "Stopped.\nStopped.\n", "Stopped.\nmore\n", "ValueError: x\nStopped.\n"):
        assert signals.of_words(error, training=False), error
    assert Ended(0, "", "Exception ignored in: <function>", hung=False).faults()


def test_a_runs_process_that_gets_a_signal_is_one_failed_row(tmp_path: Path) -> None:
    ended = Ended(code=1, out="", error="", hung=False)
    assert signals.of_worker(ended, tmp_path, signal.SIGTERM, [])[1], "no row"
