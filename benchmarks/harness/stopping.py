"""Ctrl-C, SIGTERM and SIGHUP (a closed terminal): a run in training saves its checkpoint, and then ends.

The command that a person started passes a signal on to all its descendants, and waits for the processes of `processes.ask`. A
second signal kills them. The processes of `ask` don't get the terminal's Ctrl-C, and ignore a signal that comes twice.

SIGUSR1, which a scheduler sends before it takes a machine away: a run in training saves its checkpoint, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAVE = signal.SIGUSR1

workers: set[int] = set()  # the processes of `processes.ask`
_came: list[int] = []  # signals that asked this process to end
_hasty: list[bool] = []  # whether `leave` has to end this process at once
_saves: list[int] = []  # SAVE, as often as it came and wasn't followed


def watch(*, again: bool, words: str = "") -> None:
    """From now on each of SIGNALS asks this process's descendants to end and raises KeyboardInterrupt here.

    While a module is being imported, the signal prints `words` and ends the process at once: an extension module may drop an
    exception, or crash on it. `again`: a second signal kills the descendants, and a third ends the process at once; else
    both are ignored. A signal that this process ignores stays ignored, as SIGHUP under nohup.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if _came and not again:
            return
        _came.append(number)
        if _importing(frame):
            os.write(2, words.encode())
        else:
            end_descendants(kill=len(_came) > 1)
        if _importing(frame) or len(_came) > 2:
            os._exit(exit_code())
        raise KeyboardInterrupt

    def save(number: int, _: FrameType | None) -> None:
        _saves.append(number)
        for process in list(workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, SAVE)

    for each in _heeded():
        signal.signal(each, end)
    if threading.current_thread() is threading.main_thread():
        signal.signal(SAVE, save)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {SAVE})  # a process of `ask` starts with it blocked


def save_asked() -> bool:
    """Whether SAVE has come since this function was last called."""
    asked = bool(_saves)
    _saves.clear()
    return asked


def leave(code: int) -> NoReturn:
    """End this process, whose work is done, with this exit code. A signal meanwhile ends it at once.

    A process that was asked to end does so at once: a framework that an exception left in the middle of a computation may wait
    for ever in its own clearing up. So does one that has called `hurry`.
    """
    for each in _heeded():
        signal.signal(each, lambda *_: os._exit(code))
    if _came or _hasty:
        os._exit(code)
    sys.exit(code)


def hurry() -> None:
    """From now on `leave` ends this process at once: its framework would wait for processes that are gone."""
    _hasty.append(True)


def exit_code() -> int:
    """The exit code of a process that a signal has asked to end: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (_came[0] if _came else signal.SIGINT)


def _importing(frame: FrameType | None) -> bool:
    """Whether the code that runs in this frame was called by an import."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def end_descendants(*, kill: bool) -> None:
    """Kill the processes that this one has started, and theirs, or ask them to end."""
    import psutil  # not at the top: Python would begin to handle signals later

    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill() if kill else process.terminate()


def kill(process: int) -> None:
    """Kill a process and its descendants."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [*psutil.Process(process).children(recursive=True), psutil.Process(process)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within this context SIGNALS interrupt nothing; the yielded function says whether one has come."""
    before_this = len(_came)
    before = {number: signal.signal(number, lambda number, _: _came.append(number)) for number in _heeded()}
    try:
        yield lambda: len(_came) > before_this
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    """Those of SIGNALS that this process doesn't ignore; none outside the main thread, which alone may handle signals."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
