"""Where a run was measured: software, source, machine, threads. No framework is imported for it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pynvml

from benchmarks.harness.cores import WITHIN, count, quota
from benchmarks.harness.threads import COUNTS
from common.config import Config
from common.errors import UserError

ROOT = Path(__file__).parents[2]
LOADAVG = Path("/proc/loadavg")
RUNNABLE_SAMPLES = 20
CARDS = "CUDA_VISIBLE_DEVICES"  # environment variable
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

# The packages that a run's numbers depend on.
PACKAGES = (
    *("numpy", "h5py", "scikit-learn", "torch", "jax", "jaxlib", "flax", "optax"),
    *("tensorflow", "tensorflow-cpu", "keras"),
)
# The instructions of a matrix product, widest first: in a virtual machine, processors that differ often have one name.
VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "sve", "asimd")
# The instructions that multiply bfloat16: a processor without them is faster in float32.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
# The files that are run or timed; docs/examples has the bare loops.
SOURCES = (
    *("backends", "common", "benchmarks", "environments", "docs/examples"),
    *(":!benchmarks/records", ":!benchmarks/baselines"),
)
# The beginnings of the names of environment variables that can change a run's numbers or its speed: those of the frameworks,
# of their libraries of matrix products, of OpenMP and of CUDA. Terraform's variables begin with TF_, too, and may be secret.
DECIDING = (
    *("JAX_", "XLA_", "PJRT_", "KERAS_", "TORCH", "PYTORCH_", "ATEN_", "TF32_"),
    *(f"TF_{name}_" for name in ("XLA", "NUM", "ENABLE", "DISABLE", "DETERMINISTIC", "CUDNN", "GPU", "USE", "FORCE", "AUTO")),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "OPENBLAS_"),
    *("CUDA_", "CUBLAS", "CUDNN_", "NVIDIA_TF32", WITHIN),
)
# The ends of names whose values are places or secrets.
NOT_RECORDED = ("DIR", "PATH", "HOME", "FILE", "TOKEN", "KEY", "SECRET", "PASSWORD")


def deciding(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that begin with one of DECIDING, without those that end in one of NOT_RECORDED."""
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(DECIDING) and not name.endswith(NOT_RECORDED)
    }


# Asked before a framework is imported, which may set some by itself.
GIVEN = deciding(os.environ)


def describe(device: str = "cpu") -> dict[str, Any]:
    """The `environment` of a record or report whose measurements start now on this device; `ended` completes it.

    versions      {package: version}, Python's among them
    commit, dirty git's HEAD; whether SOURCES differ from it; both None outside a git checkout
    machine       the processor, its family and model, the first of VECTORS that it has: None where unknown; cores, memory in
                  bytes, system; the GPU where the device is one
    threads       the cores that this process may use, its quota of them, and GIVEN
    clock, load   see `clock` and `load`
    """
    commit, dirty = head()
    return {
        "versions": versions(),
        "commit": commit,
        "dirty": dirty,
        "machine": machine() | {"gpu": gpu() if device == "cuda" else None},
        "threads": {
            "cores": count(),
            "quota": quota(),
            "variables": GIVEN,
        },
        "clock": clock(),
        "load": load(),
    }


def ended(before: dict[str, Any]) -> dict[str, Any]:
    """An environment from before measuring, with `load_after`; also `commit_after` and `dirty_after` where the code changed."""
    commit, dirty = head()
    changed = (commit, dirty) != (before["commit"], before["dirty"])
    return before | {"load_after": load()} | ({"commit_after": commit, "dirty_after": dirty} if changed else {})


def load() -> float:
    """The mean number of runnable threads of the whole system in the last minute."""
    return psutil.getloadavg()[0]


def runnable() -> float:
    """The mean number of the system's runnable threads over half a second, without this one; idle processes have none.

    Unlike `load` it doesn't count a run that has just ended. Where the system has no /proc, `load` in its place.
    """
    found = []
    for _ in range(RUNNABLE_SAMPLES):
        try:
            found.append(int(LOADAVG.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1)
        except OSError:
            return load()
        time.sleep(0.5 / RUNNABLE_SAMPLES)
    return statistics.mean(found)


def crowded(others: float | None, machine: dict[str, Any] | None) -> bool:
    """Whether other programs keep more threads runnable than the machine has cores; False where either isn't known."""
    cores = (machine or {}).get("logical_cores")
    return others is not None and cores is not None and others > cores


def own_threads() -> int:
    """The number of threads of this process now, those of the framework's pools among them."""
    return int(psutil.Process().num_threads())


def clock() -> dict[str, Any]:
    """The cores' frequency in MHz, now and at most, and its governor; each None where the system doesn't say."""
    try:
        frequency = psutil.cpu_freq()
    except (AttributeError, NotImplementedError, OSError):  # some systems and virtual machines
        frequency = None
    try:
        governor = GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:
        governor = None
    now, most = (frequency.current, frequency.max or None) if frequency else (None, None)
    return {"mhz": now, "max_mhz": most, "governor": governor}


def versions() -> dict[str, str]:
    """The versions of Python and of the installed PACKAGES."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[package] = importlib.metadata.version(package)
    return installed


@functools.cache  # py-cpuinfo can take a second
def _processor() -> dict[str, Any]:
    import cpuinfo

    return dict(cpuinfo.get_cpu_info())


def lacks_bfloat16() -> bool:
    """Whether the processor is known to have none of BFLOAT16."""
    flags = set(_processor().get("flags", ()))
    return bool(flags) and flags.isdisjoint(BFLOAT16)


def machine() -> dict[str, Any]:
    """The `machine` of `describe`, without the GPU."""
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


def timed_on(config: Config, *, threads: int | None) -> str:
    """What decides a run's speed beside its settings, as JSON: processor or card, cores, threads, devices, versions."""
    own, on_card = machine(), config.device == "cuda"
    found = {
        **{name: own[name] for name in ("cpu", "model", "vectors")},
        "gpu": gpu() if on_card else None,
        "cores": count(),
        "quota": quota(),
        "threads": threads,
        "variables": {name: value for name, value in GIVEN.items() if name in COUNTS},
        "device": config.device,
        "devices": config.training.devices,
        "versions": versions(),
    }
    return json.dumps(found, sort_keys=True)


def gpu() -> str | None:
    """The first NVIDIA card and its driver's version; None where there is no driver."""
    try:
        pynvml.nvmlInit()
        return f"{pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))}, driver {pynvml.nvmlSystemGetDriverVersion()}"
    except pynvml.NVMLError:
        return None


@functools.cache  # a run on several cards leaves its process one of them
def cards() -> list[str]:
    """The NVIDIA cards that this process could use when it first asked, as CUDA_VISIBLE_DEVICES names them."""
    if (named := os.environ.get(CARDS)) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        pynvml.nvmlInit()
        return [str(number) for number in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def head() -> tuple[str | None, bool | None]:
    """(HEAD's hash, whether SOURCES differ from it); (None, None) where there is no git, no checkout or no commit."""
    try:
        # Where this folder lies inside another project's checkout, git answers for that project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *SOURCES))
    except UserError:
        return None, None


def git(*arguments: str, refusal: str = "") -> str:
    """The output of git in this checkout. Raises `UserError` where git is missing or refuses; `refusal` is then the message."""
    mine = ["-c", f"safe.directory={ROOT}"]  # also where the checkout is another user's, as in a container
    try:
        return subprocess.run(["git", *mine, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        raise UserError(f"git can't be started ({error.strerror}).") from error
    except subprocess.CalledProcessError as error:
        raise UserError(refusal or f"git {arguments[0]} refused: {' '.join(error.stderr.split())}.") from error
