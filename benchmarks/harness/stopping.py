"""Ctrl-C, SIGTERM and SIGHUP (a closed terminal): a run in training saves its checkpoint, and then ends.

The command that a person started passes a signal on to all its descendants, and waits for the processes of `processes.ask`. A
second signal kills them. The processes of `ask` don't get the terminal's Ctrl-C, and ignore a signal that comes twice.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watch(*, again: bool) -> None:
    """From now on each of SIGNALS asks this process's descendants to end and raises KeyboardInterrupt here.

    `again`: a second signal kills the descendants; else it is ignored. A signal that this process ignores stays ignored, as
    SIGHUP under nohup.
    """
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        if ending and not again:
            return
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill() if ending else process.terminate()
        ending = True
        raise KeyboardInterrupt

    for number in _heeded():
        signal.signal(number, end)


def kill(process: int) -> None:
    """Kill a process and its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(process).children(recursive=True), psutil.Process(process)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within this context SIGNALS interrupt nothing; the yielded function says whether one has come."""
    come = threading.Event()
    before = {number: signal.signal(number, lambda *_: come.set()) for number in _heeded()}
    try:
        yield come.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """Those of SIGNALS that this process doesn't ignore; none outside the main thread, which alone may handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
