"""What a run's process tells its parent while it works: events, a JSON object a line, through a pipe of their own.

Where no parent listens, nothing is written. The fields of each `kind`:

    begin        step: steps done before; steps: of how many
    progress     phase: train or test; done, total, unit; elbo, rate (examples a second), left (seconds): null where unknown
    point        a point of the training curve: step, objective, elbo; learning_rate and kl_weight of the step done last
    validation   step, elbo
    images       step, samples, reconstructions: uint8 [images, rows, columns], `packing.packed`; of a job with `pictures`
    result       step, elbo, log_px: the test of the trained model
    said         text: a line of the process's stderr; `processes.ask` makes this event

Units are those of the records.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable
from typing import Any, TextIO

Event = dict[str, Any]
Heard = Callable[[Event], None]

VARIABLE = "VAEBENCH_EVENTS"  # environment variable: the file descriptor of the pipe to the parent


def listened() -> bool:
    """Whether the parent listens to this process."""
    return VARIABLE in os.environ


def tell(kind: str, **fields: Any) -> None:
    """Write an event to the parent, if it listens. A parent that has ended is no error: the run goes on."""
    if listened():
        with contextlib.suppress(OSError):
            print(json.dumps({"kind": kind, **fields}), file=_pipe(), flush=True)


def each(*listeners: Heard | None) -> Heard:
    """The function that calls each of the listeners with an event; None stands for no listener."""

    def heard(event: Event) -> None:
        for listener in filter(None, listeners):
            listener(event)

    return heard


@functools.cache
def _pipe() -> TextIO:
    return open(int(os.environ[VARIABLE]), "w", encoding="utf-8")
