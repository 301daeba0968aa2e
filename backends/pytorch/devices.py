"""The devices and the precision of matrix products that PyTorch has here."""

import platform
from importlib.metadata import version

import torch

from common import tf32
from common.config import Device, Factors, stored
from common.errors import UserError
from common.protocol import Description

# XLA does so in JAX and TensorFlow. Otherwise Adam's moments of units that are never active decay to denormal numbers and stay
# such, and Intel's processors take some hundred cycles for each. The threads that this thread starts from now on inherit it.
torch.set_flush_denormal(True)


def describe() -> Description:
    """Versions and devices."""
    devices = {"cpu": platform.machine()}
    if torch.cuda.is_available():
        devices["cuda"] = torch.cuda.get_device_name()
    return Description(versions={"torch": version("torch")}, devices=devices)


def select(device: Device) -> torch.device:
    """The device. Raises `UserError` where PyTorch doesn't have it."""
    if device not in describe().devices:
        raise UserError(f"PyTorch has no device '{device}' here; use --device cpu, or install environments/pytorch-cuda.txt.")
    return torch.device(device)


def rounded(factors: Factors) -> torch.dtype:
    """The dtype of a product's factors. Turns TF32 on for "tf32" and off for all others; sums of bfloat16 stay in float32."""
    switch = "tf32" if tf32.settle(factors == "tf32") else "ieee"
    torch.backends.cuda.matmul.fp32_precision = switch
    torch.backends.cudnn.conv.fp32_precision = switch  # cuDNN's default is "tf32"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    dtype: torch.dtype = getattr(torch, stored(factors))
    return dtype
