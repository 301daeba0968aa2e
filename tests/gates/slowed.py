"""A backend that is slower on purpose."""

from __future__ import annotations

from pathlib import Path

SLOWED = """

def _slowed(train):
    import time

    def slowed(self, *arguments, **keywords):
        start = time.perf_counter()
        result = train(self, *arguments, **keywords)
        end = start + (1 + BY) * (time.perf_counter() - start)
        while time.perf_counter() < end:
            pass
        return result

    return slowed


Session.train = _slowed(Session.train)
"""


def slow_down(root: Path, backend: str, *, by: float) -> None:
    """In this copy of the code, make `train` wait after each chunk for a share `by` of the chunk's time."""
    path = root / "backends" / backend / "session.py"
    path.write_text(path.read_text(encoding="utf-8") + SLOWED.replace("BY", str(by)), encoding="utf-8")
