"""torch.compile: its on-disk cache, its options, and what to do where it fails."""

import logging
import os
import shlex
import shutil
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import cache

# Inductor may skip a rounding to bfloat16 before a conversion to float32. With this option it computes every rounding.
EXACTLY: Any = {"emulate_precision_casts": True}

uncompiled: list[str] = []  # why functions of this process run uncompiled, each with a line on stderr


def whole(program: bytes) -> bool:
    """Whether a shared library is as long as its first bytes say: the table of its sections is its end."""
    if not program.startswith(b"\x7fELF"):
        return bool(program) and sys.platform != "linux"
    if len(program) < 64:
        return False
    (table,) = struct.unpack_from("=Q", program, 0x28)
    size, count = struct.unpack_from("=HH", program, 0x3A)
    return bool(len(program) >= table + size * count)


def nameable(folder: Path) -> bool:
    """Whether the compiler's commands, which have no quotes, can name the folder."""
    try:
        return shlex.split(str(folder)) == [str(folder)]
    except ValueError:  # a quote without its partner
        return False


def kept() -> Path | None:
    """The folder of this process's compiled programs; None where they aren't kept."""
    folder = cache.programs()
    if folder is None:
        return None
    if not nameable(folder):
        print(
            f"PyTorch's compiled programs aren't kept, since its compiler can't name {folder}: "
            "set VAEBENCH_CACHE_DIR to a folder without spaces and quotes.",
            file=sys.stderr,
        )
        return None
    cache.remove_cut_short(folder / "pytorch", "*.so", whole=whole)
    return folder / "pytorch"


# Inductor settles its folder when it is imported, so no line above imports it.
folder = kept()
if folder:
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
else:
    torch.compiler.config.force_disable_caches = True
    warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # the user disabled the cache


def compiled(function: Callable[..., Any], *, fullgraph: bool) -> Callable[..., Any]:
    """The function as one program (`fullgraph`), or as few as possible. Its first call compiles it.

    Where that fails, a kept file may be damaged: the call compiles with an empty cache, and removes the kept programs if this
    succeeds. Where it fails again, the function runs uncompiled.
    """
    # `call` itself reports a failed compilation; a profiler's mark in the steps of torch.optim is no fault.
    for name in ("torch._inductor.utils", "torch._dynamo.variables.ctx_manager"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch._dynamo.config.trace_autograd_ops = True  # otherwise the forward pass and its gradient are two programs
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit  # each session compiles its own

    def compiling() -> Callable[..., Any]:
        return torch.compile(function, dynamic=False, fullgraph=fullgraph, options=EXACTLY)

    if torch._dynamo.config.disable:
        left_uncompiled("TORCH_COMPILE_DISABLE is set")
        return function  # with its compiler off, PyTorch refuses `fullgraph`
    program = compiling()

    def call(*inputs: Any) -> Any:
        nonlocal program
        try:
            return program(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            first = error
        from torch._inductor.utils import fresh_cache

        try:
            torch._dynamo.reset()
            program = compiling()
            with tempfile.TemporaryDirectory() as empty, fresh_cache(dir=empty):
                result = program(*inputs)
        except torch._dynamo.exc.TorchDynamoException:
            left_uncompiled(reason(first))
            program = function
            return program(*inputs)
        print(f"PyTorch compiles anew, since its kept programs can't be used ({described(first)}).", file=sys.stderr)
        if folder and os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder):  # else the folder is the user's own
            shutil.rmtree(folder, ignore_errors=True)  # another process may write there
        return result

    return call


def left_uncompiled(why: str) -> None:
    uncompiled.append(why)
    print(f"PyTorch's steps run uncompiled, which is slower: {why}.", file=sys.stderr)


def described(error: Exception) -> str:
    """The compiler's own line of the message where there is one, else an exception's, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = (line for sign in ("error: ", "Error: ", "") for line in lines if sign in line)
    return next(found, type(error).__name__)


def reason(error: Exception) -> str:
    """Why the function wasn't compiled, and what would mend that."""
    remedy = ""
    if not nameable(own := Path(torch.__file__).parent):
        remedy = f"; its compiler can't name {own}: install PyTorch in a folder without spaces and quotes"
    elif str(error).startswith(("InvalidCxxCompiler", "CppCompileError")):
        remedy = "; it needs a C++ compiler and Python's headers (g++, python3-dev)"
    return f"torch.compile failed ({described(error)}){remedy}"
