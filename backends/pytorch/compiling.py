"""torch.compile: its on-disk cache, its options, and what to do where it fails."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch

from common import cache
from common.errors import UserError

# Inductor may skip a rounding to bfloat16 before a conversion to float32. With this option it computes every rounding.
EXACTLY: Any = {"emulate_precision_casts": True}

if folder := cache.programs():
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "pytorch"))
else:
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # the user disabled the cache


def compiled(function: Callable[..., Any], *, whole: bool) -> Callable[..., Any]:
    """The function as one program (`whole`), or as few as possible. Its first call compiles it, or raises `UserError`."""
    torch._dynamo.config.trace_autograd_ops = True  # otherwise the forward pass and its gradient are two programs
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit  # each session compiles its own
    program: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=whole, options=EXACTLY)

    def call(*inputs: Any) -> Any:
        try:
            return program(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            lines = str(error).splitlines()
            reason = next((line for line in lines if "error:" in line), lines[0])
            remedy = "let --compile-from be more than --steps."
            if lines[0].startswith(("InvalidCxxCompiler", "CppCompileError")):
                remedy = f"install a C++ compiler and Python's headers (g++, python3-dev), or {remedy}"
            raise UserError(f"PyTorch compiles long runs, and can't here ({reason}): {remedy}") from error

    return call
