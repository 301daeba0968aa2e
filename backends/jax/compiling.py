"""jax.jit: its on-disk cache, the events of that cache, and XLA's options."""

import collections
from typing import Any

import jax

from common import cache

# XLA may skip a rounding to bfloat16 before a conversion to float32, and does on a GPU. With this option it computes them all.
EXACTLY: Any = {"xla_allow_excess_precision": False}

# Without this option XLA copies the weights on a CPU before each step writes the new ones.
IN_PLACE: Any = {"xla_cpu_copy_insertion_use_region_analysis": True}

folder = cache.programs()
if folder is None:  # whatever JAX's own variables say
    jax.config.update("jax_compilation_cache_dir", None)
elif jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events: collections.Counter[str] = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
