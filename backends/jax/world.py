"""One run on several devices: JAX shards each batch over a mesh of them, of one process's devices or one of each process."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from common.config import Device
from common.errors import UserError
from common.world import ALONE, World, enter, joined

AXIS = "devices"
EVERYWHERE = PartitionSpec()  # a copy on each device


def join(world: World, *, device: Device) -> None:
    """See `common.protocol.Backend`."""
    if device == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        world.addresses[0],
        num_processes=world.size,
        process_id=world.rank,
        cluster_detection_method="deactivate",
        coordinator_bind_address=world.addresses[0],
    )
    enter(world)


def leave() -> None:
    """See `common.protocol.Backend`."""
    jax.distributed.shutdown()
    enter(ALONE)


def averaged(values: Any) -> Any:
    """The means over the mesh of these arrays, in one message. Called within `jax.shard_map`."""
    return jax.lax.pmean(values, AXIS)


def mesh(device: Device, *, size: int) -> Mesh | None:
    """The devices of a run: the first of each process that has joined, else this process's own; None for one device.

    Raises `UserError` where `size` isn't the number of processes that have joined, or where this process, alone, has fewer.
    """
    if size == 1:
        return None
    found = jax.devices(device)
    if joined().size > 1:
        first = {one.process_index: one for one in reversed(found)}
        found = [first[rank] for rank in sorted(first)]
    if len(found) < size or joined().size not in (1, size):
        raise UserError(
            f"--devices is {size}, but JAX has {len(found)} of '{device}' here; "
            f"`python -m benchmarks run --devices {size}` starts a process for each device."
        )
    return Mesh(np.array(found[:size]), (AXIS,))


def spread(values: Any, *, over: Mesh, by: PartitionSpec) -> Any:
    """NumPy's or JAX's arrays on a mesh, each device with its own part; every process calls this with the same arrays."""
    sharding = NamedSharding(over, by)

    def one(value: Any) -> jax.Array:
        whole = np.array(value)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(one, values)


def here(values: Any) -> Any:
    """Of arrays that are copied on every device, this process's first copies; arrays of one device as they are."""
    return jax.tree.map(lambda value: value.addressable_data(0) if value.sharding.num_devices > 1 else value, values)
