"""jax.jit: its on-disk cache, the events of that cache, and XLA's options."""

import collections
import sys
import zlib
from typing import Any

import jax

from common import cache

# XLA may skip a rounding to bfloat16 before a conversion to float32, and does on a GPU. With this option it computes them all.
EXACTLY: Any = {"xla_allow_excess_precision": False}

# Without this option XLA copies the weights on a CPU before each step writes the new ones.
IN_PLACE: Any = {"xla_cpu_copy_insertion_use_region_analysis": True}

ZSTANDARD = b"\x28\xb5\x2f\xfd"  # the first bytes of a program where the package zstandard is installed; zlib is used elsewhere


def whole(program: bytes) -> bool:
    """Whether a kept program's sum is right; one of zstandard isn't judged, since JAX compiles anew where it can't read one."""
    try:
        zlib.decompress(program)
    except zlib.error:
        return program.startswith(ZSTANDARD)
    return True


uncompiled = "JAX_DISABLE_JIT is set" if jax.config.jax_disable_jit else None
if uncompiled:
    print(f"JAX runs one operation after another, which is slower: {uncompiled}.", file=sys.stderr)
folder = cache.programs()
if folder is None:  # whatever JAX's own variables say
    jax.config.update("jax_compilation_cache_dir", None)
elif jax.config.jax_compilation_cache_dir is None:
    cache.remove_cut_short(folder / "jax", "*-cache", whole=whole)
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
