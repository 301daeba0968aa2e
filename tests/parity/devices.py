"""Sessions on several devices, in processes of their own: what `test_devices.py` asks `processes.ask` for."""

from __future__ import annotations

import re
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ranks
from common.config import Config, Model
from common.parameters import fresh_state, initial_parameters
from common.protocol import load
from common.training import chunk
from common.world import World, joined
from tests.parity.conftest import deviation

CHUNKS, STEPS = 2, 25
IMAGES = (np.random.default_rng(0).random((100, 16)) < 0.3).astype(np.uint8)
SMALL = Config(model=Model(image_shape=(4, 4))).replace(
    dtype="float64", latent_size=3, hidden_size=6, flow_depth=1, batch_size=8, steps=CHUNKS * STEPS, warm_up=10, channels=2
)
# Name → settings. Together: noise of the device and given noise, several samples, moving average, dropout, decay, clipping.
SCENARIOS: dict[str, dict[str, Any]] = {
    "mean-field": {"weight_decay": 0.1, "clip": 0.5},
    "flow": {"variational": "flow", "objective_samples": 3, "ema_decay": 0.9, "noise": "shared"},
    "resnet": {"network": "resnet", "dropout": 0.2, "decayed": "weights", "weight_decay": 0.1},
    "rmsprop": {"optimizer": "rmsprop", "objective_samples": 2},
    "compiled": {"compile_from": 0, "objective_samples": 2, "clip": 0.5},
}


def measure(question: dict[str, Any]) -> dict[str, Any]:
    """Train on several devices as rank 0, then on one. Question: backend, devices, processes, scenarios, folder.

    Returns for each scenario its largest `deviation` from one device; whether all `replicas` have the same bits, True where all
    devices are this process's; the `messages` of one step; and the `programs` of two chunks.
    """
    processes = question["devices"] if question["processes"] else 1
    with ranks.led(f"{__name__}:follow", question, devices=processes, title=question["backend"]) as lead:
        found = train(question, lead.world)
    one = trained(question | {"devices": 1}, lambda session, arguments: {})
    for name, result in found.items():
        states = [np.load(file_of(question, name, rank)) for rank in range(processes)]
        result["deviation"] = max(deviation(states[0][key], value) for key, value in one[name][0].items())
        result["replicas"] = all(np.array_equal(state[key], states[0][key]) for state in states for key in one[name][0])
    return found


def follow(question: dict[str, Any], world: World, stop: Callable[[], bool]) -> None:
    train(question, world)


def train(question: dict[str, Any], world: World) -> dict[str, Any]:
    backend = load(question["backend"])
    if world.size > 1:
        backend.join(world, device="cpu")
    found = {}
    for name, (state, counts) in trained(question, COUNTS[question["backend"]]).items():
        np.savez(file_of(question, name, world.rank), **state)
        found[name] = counts
    if world.size > 1:
        backend.leave()
    return found


def file_of(question: dict[str, Any], name: str, rank: int) -> Path:
    return Path(question["folder"]) / f"{name}-{rank}.npz"


Counted = Callable[[Any, dict[str, Any]], dict[str, Any]]


def trained(question: dict[str, Any], counted: Counted) -> dict[str, Any]:
    """Scenario → (the last state with all values, what `counted` says of the session and a chunk's arguments)."""
    found = {}
    for name in question["scenarios"]:
        config = SMALL.replace(devices=question["devices"], **SCENARIOS[name])
        initial = initial_parameters(config.model, training=config.training, pixel_log_odds=np.zeros(16))
        state = fresh_state(initial, optimizer=config.optimizer, training=config.training, dtype=config.dtype)
        session: Any = load(question["backend"]).create(config, state)
        handle, values = session.place(IMAGES), []
        arguments = [chunk(config, images=len(IMAGES), first_step=i * STEPS, steps=STEPS) for i in range(CHUNKS)]
        counts = counted(session, {"handle": handle, "chunks": arguments, "values": values})
        while len(values) < CHUNKS:
            values.append(session.train(handle, **arguments[len(values)]))
        objective, elbo = np.concatenate(values, axis=-1)
        found[name] = (session.state() | {"objective": objective, "elbo": elbo}, counts)
    return found


def of_pytorch(session: Any, work: dict[str, Any]) -> dict[str, Any]:
    import torch

    sent = unittest.mock.Mock(side_effect=torch.distributed.all_reduce)
    with unittest.mock.patch.object(torch.distributed, "all_reduce", sent):
        work["values"].append(session.train(work["handle"], **work["chunks"][0]))
        with torch._dynamo.config.patch(error_on_recompile=True):
            work["values"].append(session.train(work["handle"], **work["chunks"][1]))
    return {"messages": sent.call_count / (CHUNKS * STEPS), "programs": 1}


def of_tensorflow(session: Any, work: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    sent = unittest.mock.Mock(side_effect=tf.raw_ops.CollectiveReduceV2)
    with unittest.mock.patch.object(tf.raw_ops, "CollectiveReduceV2", sent):
        work["values"] += [session.train(work["handle"], **arguments) for arguments in work["chunks"]]
    return {"messages": sent.call_count, "programs": session._shared_chunk.experimental_get_tracing_count()}


COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-[a-z]+)(?:-start)?\(")


def of_jax(session: Any, work: dict[str, Any]) -> dict[str, Any]:
    """The messages are those in the program: the body of its loop is there once. Two processes aren't asked, to be quick."""
    given: list[Any] = []
    compiled = session.compiled_chunk

    def remember(*arguments: Any) -> Any:
        given[:] = [compiled.lower(*arguments)]
        return compiled(*arguments)

    with unittest.mock.patch.object(session, "compiled_chunk", remember):
        work["values"] += [session.train(work["handle"], **arguments) for arguments in work["chunks"]]
    if joined().size > 1:
        return {"messages": 1, "programs": compiled._cache_size()}
    found = COLLECTIVE.findall(given[0].compile().as_text())
    return {"messages": len(found), "programs": compiled._cache_size(), "kinds": sorted({*found})}


COUNTS: dict[str, Counted] = {"pytorch": of_pytorch, "tensorflow": of_tensorflow, "jax": of_jax}
