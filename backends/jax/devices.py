"""The devices and the precision of matrix products that JAX has here."""

import platform
from importlib.metadata import version

import jax
import jax.numpy as jnp

from common import tf32
from common.config import Device, Factors, stored
from common.errors import UserError
from common.protocol import Description

# For --dtype float64. Every array of this backend names its dtype, so that float32 runs stay in float32.
jax.config.update("jax_enable_x64", True)
# The draws of a key depend on this switch, whatever the environment says.
jax.config.update("jax_threefry_partitionable", True)
# JAX's strict modes refuse shapes and dtypes that this code and Optax combine on purpose.
jax.config.update("jax_numpy_rank_promotion", "allow")
jax.config.update("jax_numpy_dtype_promotion", "standard")


def describe() -> Description:
    """Versions and devices. Raises `UserError` where JAX_PLATFORMS names no platform that is here."""
    named = jax.config.jax_platforms
    try:
        gpus = [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"JAX has no device here, since JAX_PLATFORMS is '{named}'; unset it.") from error
    devices = {"cpu": platform.machine()} if not named or "cpu" in named.split(",") else {}
    if gpus:
        devices["cuda"] = gpus[0]
    return Description(versions={name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}, devices=devices)


def select(device: Device) -> jax.Device:
    """The device. Raises `UserError` where JAX doesn't have it."""
    if device not in describe().devices:
        named = jax.config.jax_platforms
        remedy = f"unset JAX_PLATFORMS, which is '{named}', " if named else "use --device cpu, "
        raise UserError(f"JAX has no device '{device}' here; {remedy}or install environments/jax-cuda.txt.")
    return jax.local_devices(backend=device)[0]


def rounded(factors: Factors) -> jnp.dtype:
    """The dtype of a product's factors. Turns TF32 on for "tf32" and off for all others, convolutions included."""
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32.settle(factors == "tf32") else "highest")
    return jnp.dtype(stored(factors))
