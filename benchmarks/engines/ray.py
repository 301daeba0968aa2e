"""--on ray: each job a task of Ray, which places it on a node with free cores and starts it again where that node is lost.

Ray is needed in the command's environment alone; a job's process may be of another (--python). The task waits for this process,
and sends its events to the command through a queue of Ray's.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.engines import Begin, Ends, elsewhere, seen, shared
from benchmarks.harness import environment, events, processes, runs, stopping
from benchmarks.harness.events import Event, Heard
from benchmarks.harness.flags import Values
from benchmarks.harness.jobs import Job
from common.errors import UserError

FLAGS: tuple[str, ...] = ("address",)
WAITS = True
STOPPED = 128 + signal.SIGTERM  # the exit code of a run's process that SIGTERM has asked to end
RETRIES = 10  # of a task whose node or worker is lost; each goes on from the checkpoint
SECONDS_BETWEEN_LOOKS = 0.3
REMEDY = "start one with `ray start --head`, or leave out --address."
STARTS: Event = {"kind": "starts"}  # the first event of each try
OWN = (processes.PARENT, events.VARIABLE, "CUDA_VISIBLE_DEVICES")  # variables of one process, and Ray's choice


class StoppedError(Exception):
    """A run's process was asked to end by another than this command, as when a node is taken away; it has saved its step."""


def check(values: Values, jobs: Sequence[Job]) -> None:
    """Raises `UserError` where Ray isn't installed."""
    package()


def remark(values: Values, jobs: Sequence[Job]) -> str | None:
    """Where the Ray isn't one that starts here."""
    return shared(jobs) if _address(values) else None


def package() -> ModuleType:
    """Ray. Raises `UserError` where it isn't installed."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--on ray needs the package ray; `python -m pip install -r environments/ray.txt`.") from error
    return ray


def _address(values: Values) -> str | None:
    """That of --address, or the environment's RAY_ADDRESS; None where neither is given."""
    return values["address"] or os.environ.get("RAY_ADDRESS") or None


def run(jobs: Sequence[Job], *, values: Values, begin: Begin) -> Ends:
    """See `Engine.run`. Raises `UserError` where no Ray answers, and where a Ray that starts here is too small."""
    ray = package()
    connect(ray, _address(values), jobs)
    try:
        yield from _ended(ray, jobs, begin)
    finally:
        ray.shutdown()


def connect(ray: ModuleType, address: str | None, jobs: Sequence[Job]) -> None:
    """Connect to the Ray at this address; without one, start a Ray on this machine, which ends with the command.

    The variables that decide a run's numbers are this command's on every node. Raises `UserError` as `run` does.
    """
    if address not in (None, "auto", "local"):
        _reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    variables = {
        name: value
        for name, value in os.environ.items()
        if (name in environment.GIVEN or name.startswith("VAEBENCH_")) and name not in OWN
    }
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": {"env_vars": variables}}
    if address is None:
        options["include_dashboard"] = False
    handlers = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    try:
        ray.init(address=address or "local", **options)
    except Exception as error:  # Ray raises the bare one too
        where = f"at {address}" if address else "here"
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise UserError(f"No Ray answers {where} ({first}); {REMEDY}") from error
    finally:  # Ray takes SIGTERM
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for need in {tuple(sorted(needs(job).items())) for job in jobs}:
        fits = [node for node in ray.nodes() if node["Alive"] and all(node["Resources"].get(_KEYS[k], 0) >= n for k, n in need)]
        if not fits:
            wanted = " and ".join(f"{number} {_KEYS[key]}" for key, number in need)
            if address is None:
                ray.shutdown()
                raise UserError(f"This machine lacks the {wanted} of a run; choose fewer --threads or another --device.")
            print(f"No node of the Ray at {address} has the {wanted} of a run: it waits until one joins.", file=sys.stderr)


def _reach(address: str) -> None:
    """Raises `UserError` where nothing listens at HOST:PORT: Ray would end the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it must be HOST:PORT, as `ray start --head` prints it"
        raise UserError(f"No Ray answers at {address} ({reason}); {REMEDY}") from error


_KEYS = {"num_cpus": "CPU", "num_gpus": "GPU"}  # what a task asks for → what a node calls it


def needs(job: Job) -> dict[str, int]:
    """What a node must have free for the job: as many cores as the framework's threads, and the GPU."""
    return {"num_cpus": job.threads or 1} | ({"num_gpus": 1} if job.config.device == "cuda" else {})


def _ended(ray: ModuleType, jobs: Sequence[Job], begin: Begin) -> Ends:
    """See `Engine.run`."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The queue lies on this command's node: another may be lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    Path(jobs[0].results).mkdir(parents=True, exist_ok=True)
    task = ray.remote(max_retries=RETRIES, retry_exceptions=[StoppedError])(_carry_out)
    left = {
        task.options(name=job.record.stem, **needs(job)).remote(elsewhere(job).as_json(), number, queue): (number, job)
        for number, job in enumerate(jobs)
    }
    listeners: dict[int, Heard] = {}

    def listen() -> None:
        for number, event in queue.get_nowait_batch(queue.qsize()):
            if event == STARTS:
                listeners[number] = begin(jobs[number])
            else:
                listeners[number](event)

    try:
        with stopping.deferred() as stop:  # the tasks are asked to end through Ray, wherever they run
            while left and not stop():
                done, _ = ray.wait([*left], timeout=SECONDS_BETWEEN_LOOKS)
                listen()
                for ref in done:
                    number, job = left.pop(ref)
                    yield job, _code(ray, ref, listeners.get(number) or begin(job))
        if stop():
            raise KeyboardInterrupt
    finally:
        for ref in left:
            ray.cancel(ref)
        while left:
            done, _ = ray.wait([*left], timeout=SECONDS_BETWEEN_LOOKS)
            listen()
            for ref in done:
                del left[ref]


def _code(ray: ModuleType, ref: Any, heard: Heard) -> int:
    """What the job's task returned; LOST where Ray gave it up, with the reason as the last words."""
    try:
        return int(ray.get(ref))
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        heard({"kind": "said", "text": f"Ray gave the run up: {type(error).__name__}: {lines[-1] if lines else ''}"})
        return runs.LOST


def _carry_out(text: str, number: int, queue: Any) -> int:
    """The task of a job of `as_json`, on a node: `attempt`, whose events go into the queue, each with the job's number.

    No event waits for its arrival, but for the last one: while a task waits for Ray, Ray gives its cores to another.
    """
    sent: list[Any] = [None]

    def send(event: Event) -> None:
        sent[0] = queue.actor.put_nowait.remote((number, event))

    try:
        return attempt(Job.from_json(text), send)
    finally:
        package().get(sent[0])


def attempt(job: Job, heard: Heard) -> int:
    """`runs.in_process`, on a node. Raises `StoppedError`, after which Ray tries again."""
    heard(STARTS)
    try:
        seen(job)
        code = runs.in_process(job, folder=environment.ROOT, heard=heard)
    except UserError as error:
        heard({"kind": "said", "text": str(error)})
        return runs.UNWRITABLE
    if code == STOPPED:
        raise StoppedError
    return code
