"""Where a run was measured: software, source, machine, threads. No framework is imported for it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pynvml

from benchmarks.harness.cores import WITHIN, count

ROOT = Path(__file__).parents[2]
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# A run's numbers depend on these packages; those that are not installed are left out.
PACKAGES = (
    *("numpy", "h5py", "scikit-learn", "torch", "jax", "jaxlib", "flax", "optax"),
    *("tensorflow", "tensorflow-cpu", "keras"),
)
# The instructions of a matrix product, widest first. A virtual machine's processor often has no name that tells it from others.
VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve", "asimd")
BFLOAT16 = (
    "amx_bf16",
    "avx512_bf16",
    "bf16",
)  # the instructions that multiply bfloat16; without them it is slower than float32
# What is run or timed; docs/examples has the bare loops.
SOURCES = (
    "backends",
    "common",
    "benchmarks",
    "environments",
    "docs/examples",
    ":!benchmarks/records",
    ":!benchmarks/baselines",
)
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_AFFINITY"),
    *("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "XLA_FLAGS", WITHIN),
)


def describe(device: str = "cpu") -> dict[str, Any]:
    """The `environment` of a record or report whose measurements start now on this device; `ended` completes it.

    versions: {package: version}, python's among them. commit: git's HEAD, and `dirty` whether a source differs from it; both
    None outside a git checkout. machine: the CPU, its family and model, and the first of VECTORS that it has, None where
    unknown; cores, memory in bytes, system, and the GPU where the device is one. threads: the cores that this process may use,
    and those of THREAD_VARIABLES that are set. clock: see `clock`. load: see `load`.
    """
    commit, dirty = _commit()
    return {
        "versions": versions(),
        "commit": commit,
        "dirty": dirty,
        "machine": _machine() | {"gpu": gpu() if device == "cuda" else None},
        "threads": {
            "cores": count(),
            "variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        },
        "clock": clock(),
        "load": load(),
    }


def ended(before: dict[str, Any]) -> dict[str, Any]:
    """An environment that was described before measuring, with what is so afterwards.

    load_after: see `load`. commit_after and dirty_after: HEAD and whether a source differs from it by now; left out where
    neither has changed.
    """
    after = dict(zip(("commit_after", "dirty_after"), _commit(), strict=True))
    changed = (after["commit_after"], after["dirty_after"]) != (before["commit"], before["dirty"])
    return before | {"load_after": load()} | (after if changed else {})


def load() -> float:
    """Runnable threads of the whole system, mean of the last minute."""
    return psutil.getloadavg()[0]


def own_threads() -> int:
    """Threads of this process now, with those of the framework's pools."""
    return int(psutil.Process().num_threads())


def clock() -> dict[str, Any]:
    """The cores' frequency in MHz, now and at most, and its governor; None where the system doesn't say."""
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError):  # some systems and virtual machines
        frequency = None
    try:
        governor = GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:
        governor = None
    return {
        "mhz": frequency.current if frequency else None,
        "max_mhz": (frequency.max or None) if frequency else None,
        "governor": governor,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the installed PACKAGES."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


@functools.cache  # py-cpuinfo can take a second
def _processor() -> dict[str, Any]:
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have none of BFLOAT16."""
    flags = set(_processor().get("flags", ()))
    return bool(flags) and flags.isdisjoint(BFLOAT16)


def _machine() -> dict[str, Any]:
    found = _processor()
    return {
        "cpu": found.get("brand_raw") or platform.processor() or platform.machine(),
        "model": f"family {found['family']} model {found['model']}" if "family" in found and "model" in found else None,
        "vectors": next((vectors for vectors in VECTORS if vectors in found.get("flags", ())), None),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "os": platform.platform(),
    }


def gpu() -> str | None:
    """The first NVIDIA card and its driver's version; None where there is no driver."""
    try:
        pynvml.nvmlInit()
        return f"{pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))}, driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """HEAD's hash, and whether SOURCES differ from it."""
    # Unpacked inside another project's checkout, git would answer for that one.
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != ROOT.resolve():
        return None, None
    return commit, bool(_git("status", "--porcelain", "--", *SOURCES))


def _git(*arguments: str) -> str | None:
    """What git prints, or None where there is no git, no checkout or no commit."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
