"""The one way in which this suite times work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def timed(work: Callable[[], Result], *, synchronize: Callable[[], None]) -> tuple[Result, float]:
    """(what `work` returns, seconds from an idle device to an idle device).

    A device works on after a call has returned. Without the first `synchronize` a span would pay for the work before it;
    without the second it would end before its own work does. One span goes around many steps, never around one.
    """
    synchronize()
    start = time.perf_counter()
    result = work()
    synchronize()
    return result, time.perf_counter() - start
