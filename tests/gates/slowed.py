"""A backend that is slower on purpose."""

from __future__ import annotations

from pathlib import Path

SLOW_DOWN = 0.15
SLOWED = f"""

def _slowed(train):
    import time

    def slowed(self, *arguments, **keywords):
        start = time.perf_counter()
        result = train(self, *arguments, **keywords)
        end = start + {1 + SLOW_DOWN} * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result

    return slowed


Session.train = _slowed(Session.train)
"""


def slow_down(root: Path, backend: str) -> None:
    """In this copy of the code, make `train` wait after each chunk for SLOW_DOWN of what the chunk took."""
    path = root / "backends" / backend / "session.py"
    path.write_text(path.read_text(encoding="utf-8") + SLOWED, encoding="utf-8")
