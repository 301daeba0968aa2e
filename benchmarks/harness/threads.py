"""The threads of a run's process: how many there are, and how they wait for one another.

The frameworks read these environment variables when they are imported: a parent sets them for the process that it starts.
"""

from __future__ import annotations

import os

# Read by PyTorch and NumPy; TensorFlow; XLA on a CPU. No framework reads a common name.
COUNTS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "PJRT_NPROC"),
)
# PyTorch's threads wait for one another between operations. A waiting thread of OpenMP first spins, which wakes it sooner but
# keeps a core from the thread that it waits for, where other programs use the cores too. docs/timing.md has the figures.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
SPINNING = {"GOMP_SPINCOUNT": "30000"}  # a tenth of GNU OpenMP's default
SLEEPING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def variables(threads: int | None, *, disturbed: bool) -> dict[str, str]:
    """The environment variables of a run's process, beside those that this process has.

    `threads` of every framework, or as many as each chooses for None. `disturbed`: other programs use the cores, and threads
    wait asleep. Where the environment says how threads wait, it holds.
    """
    counts = dict.fromkeys(COUNTS, str(threads)) if threads else {}
    stated = any(name in os.environ for name in WAITING)
    return counts | ({} if stated else SLEEPING if disturbed else SPINNING)
