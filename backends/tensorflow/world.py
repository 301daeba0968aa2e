"""One run on several devices: a process each, and between a step's gradient and its update one message."""

import math

import tensorflow as tf
from tensorflow.python.eager import context

from common.config import Device
from common.world import ALONE, World, enter, joined

JOB = "worker"
GROUP = 1  # the key of the processes' group


def join(world: World, *, device: Device) -> None:
    """See `common.protocol.Backend`."""
    process = context.context()
    process.configure_collective_ops(
        collective_leader=f"/job:{JOB}/replica:0/task:0",
        use_nccl_communication=device == "cuda",
        device_filters=(f"/job:{JOB}/task:{world.rank}",),
    )
    server = tf.train.ServerDef(
        cluster=tf.train.ClusterSpec({JOB: list(world.addresses)}).as_cluster_def(),
        default_session_config=process.config,  # names the leader
        job_name=JOB,
        task_index=world.rank,
        protocol="grpc",
    )
    process.enable_collective_ops(server)
    enter(world)


def leave() -> None:
    """See `common.protocol.Backend`. TensorFlow's server ends with the process: no call ends it."""
    enter(ALONE)


def averaged(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """The means over the processes of these tensors, in one message. XLA has none on a CPU: called outside its programs."""
    flat = tf.concat([tf.reshape(value, (-1,)) for value in values], 0)
    reduced = tf.raw_ops.CollectiveReduceV2(
        input=flat,
        group_size=joined().size,
        group_key=GROUP,
        instance_key=flat.shape[0],  # a key stands for messages of one size
        ordering_token=[],
        merge_op="Add",
        final_op="Id",
        communication_hint="auto",
    )
    parts = tf.split(reduced / joined().size, [math.prod(value.shape) for value in values])
    return [tf.reshape(part, value.shape) for part, value in zip(parts, values, strict=True)]
