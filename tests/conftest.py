"""What every test runs under."""

from __future__ import annotations

import gc
import os

import pytest

# Shapes are checked in every test, and in the processes that it starts (docs/shapes.md). Backends read this when imported.
os.environ["VAEBENCH_CHECK_SHAPES"] = "1"

# Two tests at a time and the processes that they start share the cores: threads that wait for one another by spinning take the
# others' time. libgomp reads these when it's loaded.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}

# Three frameworks are many objects: going through all of them as often as Python does took 6 % of three files of tests.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory):
    """A cache of the session's own, so that the user's is neither read nor written, and no display, for subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "VAEBENCH_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setitem(os.environ, "MPLBACKEND", "agg")
        yield
