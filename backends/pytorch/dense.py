"""Dense layers on AMD processors: oneDNN multiplies by AVX-512 there, and MKL, PyTorch's own choice, by AVX2."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PROCESSOR = Path("/proc/cpuinfo")
# Multiplications of a product, at least: changing the factors' layout takes time of its own. 128 × 512 × 512 was tried.
LEAST = 2**25


def onednn_is_faster() -> bool:
    """Whether oneDNN's large products are faster than MKL's: on AMD's processors with AVX-512.

    The processor decides and not a clock, so that two runs on one machine have the same bits.
    """
    try:
        amd = "AuthenticAMD" in PROCESSOR.read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False
    return amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()


onednn = onednn_is_faster()


def through_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether x·weightᵀ goes through oneDNN here. In bfloat16 each product does, by PyTorch's own choice."""
    return onednn and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() * len(weight) >= LEAST


# An operator of its own, since torch.compile doesn't trace oneDNN's layout.
@torch.library.custom_op("vaebench::product", mutates_args=())
def product(left: Tensor, right: Tensor) -> Tensor:
    """left·rightᵀ through oneDNN, of [rows, inputs] and [columns, inputs]."""
    return F.linear(left.to_mkldnn(), right).to_dense()


@product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[0])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    left, right = ctx.saved_tensors
    of_left, of_right = ctx.needs_input_grad
    return (
        product(gradient, right.t()) if of_left else None,
        product(gradient.t(), left.t()) if of_right else None,
    )


product.register_autograd(_gradients, setup_context=_save)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x·weightᵀ + bias, [*rows, outputs], with a weight [outputs, inputs]."""
    if not through_onednn(x, weight):
        return F.linear(x, weight, bias)
    result = product(x.reshape(-1, x.shape[-1]), weight)
    return (result if bias is None else result + bias).reshape(*x.shape[:-1], -1)
