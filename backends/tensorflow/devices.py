"""The devices and the precision of matrix products that TensorFlow has here."""

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

import tensorflow as tf

from common import tf32
from common.config import Device, Factors, stored
from common.errors import UserError
from common.protocol import Description


def describe() -> Description:
    """Versions and devices."""
    devices = {"cpu": platform.machine()}
    for gpu in tf.config.list_physical_devices("GPU"):
        devices.setdefault("cuda", tf.config.experimental.get_device_details(gpu)["device_name"])
    versions = {"keras": version("keras")}
    for name in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return Description(versions=versions, devices=devices)


def select(device: Device) -> str:
    """The device's name. Raises `UserError` where TensorFlow doesn't have it."""
    if device not in describe().devices:
        raise UserError(
            f"TensorFlow has no device '{device}' here; use --device cpu, or install environments/tensorflow-cuda.txt."
        )
    return {"cpu": "/CPU:0", "cuda": "/GPU:0"}[device]


def rounded(factors: Factors) -> str:
    """The dtype of a product's factors. Turns TF32 on for "tf32" and off for all others, convolutions included."""
    tf.config.experimental.enable_tensor_float_32_execution(tf32.settle(factors == "tf32"))
    return stored(factors)
