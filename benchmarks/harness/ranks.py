"""The processes of a run on several devices. Rank 0 is the run's own process: it starts the others, which end with it.

Before each chunk rank 0 says whether there is another one, so that all processes stop at the same step. A process that waits
for another one's message heeds no signal: where one process dies, a thread of each other one ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from benchmarks.harness import events, processes, stopping
from common.errors import UserError, printable
from common.world import ALONE, World

LOOK = 0.1  # seconds between two looks at the other processes
END = 10.0  # seconds that a process without work has to end
NEXT, STOP, LEAVE = b"n", b"s", b"l"  # what rank 0 writes: the first two before each chunk, the last one at the end
LOST = 1  # exit code of rank 0 where another process died


class Lead:
    """Rank 0's side of the other processes."""

    def __init__(self, world: World, *, title: str):
        self.world = world
        self.title = title
        self.peers: list[subprocess.Popen[str]] = []
        self.orders: list[int] = []  # descriptors of pipes to the peers
        self.said: list[IO[str]] = []  # what each peer wrote to stderr
        self.over = threading.Event()

    def stops(self, wish: bool) -> bool:
        """The wish, told to every other process."""
        self._tell(STOP if wish else NEXT)
        return wish

    def _tell(self, order: bytes) -> None:
        for pipe in self.orders:
            with contextlib.suppress(BrokenPipeError):  # `watch` says which process died
                os.write(pipe, order)

    def start(self, target: str, question: Any, *, rank: int, variables: Mapping[str, str]) -> None:
        """Start the process of this rank."""
        reading, writing = os.pipe()
        self.orders.append(writing)
        asked, said = processes.temporary(), processes.temporary()
        self.said.append(said)
        place = {"rank": rank, "addresses": list(self.world.addresses)}
        json.dump({"target": target, "question": question, "world": place, "orders": reading}, asked)
        asked.seek(0)
        own = {name: value for name, value in os.environ.items() if name not in (events.VARIABLE, processes.PARENT)}
        command = [sys.executable, "-m", "benchmarks", "answer", f"{__name__}:follow"]
        options: dict[str, Any] = {"stdin": asked, "stdout": subprocess.DEVNULL, "stderr": said, "env": {**own, **variables}}
        process = processes.started(command, blocked=stopping.SIGNALS, pass_fds=[reading], text=True, **options)
        self.peers.append(process)
        os.close(reading)
        asked.close()

    def watch(self) -> None:
        """End this process soon after another one has failed, wherever it waits."""
        while not self.over.wait(LOOK):
            for rank, process in enumerate(self.peers, 1):
                if process.poll():
                    self.said[rank - 1].seek(0)
                    lines = [line.strip() for line in self.said[rank - 1] if line.strip()]
                    ended = f"the process of device {rank + 1} of {self.world.size} ended with code {process.returncode}"
                    reason = f": {printable(lines[-1])}" if lines else "."
                    print(f"{self.title}: {ended}{reason}", file=sys.stderr, flush=True)
                    self.kill()
                    os._exit(LOST)

    def kill(self) -> None:
        """Kill the other processes and those that they have started."""
        self.over.set()
        orders, self.orders = self.orders, []
        for pipe in orders:
            os.close(pipe)
        for process in self.peers:
            stopping.kill(process.pid)
        for process, said in zip(self.peers, self.said, strict=True):
            process.wait()
            said.close()

    def end(self) -> None:
        """Let the other processes end; kill one that doesn't. They have no work left but what rank 0 does, too."""
        self.over.set()
        self._tell(LEAVE)
        for process in self.peers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END)
        self.kill()


@contextlib.contextmanager
def led(
    target: str, question: Any, *, devices: int, title: str, variables: Callable[[int], Mapping[str, str]] = lambda rank: {}
) -> Iterator[Lead]:
    """Rank 0's side of a run on so many devices; for one device nothing is started.

    Within the context, each other process works: the function `target`, "benchmarks.harness.runs:follow" say, is called there
    with the question, its `World` and a function that says whether to stop; it returns after its backend's `leave`.
    `variables`: of the environment of the process of a rank. Where a process fails, all end, this one with code LOST.
    """
    if devices == 1:
        yield Lead(ALONE, title=title)
        return
    lead = Lead(World(rank=0, addresses=_free(devices)), title=title)
    try:
        for rank in range(1, devices):
            lead.start(target, question, rank=rank, variables=variables(rank))
        threading.Thread(target=lead.watch, daemon=True).start()
        yield lead
    except (KeyboardInterrupt, UserError):
        lead.kill()
        stopping.hurry()
        raise
    except BaseException:
        time.sleep(10 * LOOK)  # a message may have failed since its sender died: `watch` then ends this process
        traceback.print_exc()
        lead.kill()
        os._exit(LOST)
    lead.end()


def follow(question: dict[str, Any]) -> None:
    """The process of a rank above 0, started by `Lead.start`."""
    orders = _Orders(question["orders"])
    place = question["world"]
    world = World(rank=place["rank"], addresses=tuple(place["addresses"]))
    processes.function(question["target"])(question["question"], world, orders.stop)
    orders.leave()


class _Orders:
    """What rank 0 writes. This process ends at once when rank 0 has died."""

    def __init__(self, pipe: int):
        self.pipe = pipe
        self.parent = os.getppid()
        self.came: queue.SimpleQueue[int] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while os.getppid() == self.parent:
            if select.select([self.pipe], [], [], 10 * LOOK)[0]:
                orders = os.read(self.pipe, 64)
                if not orders:
                    break
                for order in orders:
                    self.came.put(order)
        stopping.end_descendants(kill=True)
        os._exit(128 + signal.SIGTERM)

    def stop(self) -> bool:
        """Whether to stop; waits for rank 0 to say so before each chunk."""
        return self.came.get() == STOP[0]

    def leave(self) -> None:
        """End this process when rank 0 has left, too: until then it may read this process's last message."""
        while self.came.get() != LEAVE[0]:
            pass
        os._exit(0)  # a framework's own clearing up could wait for another process


def _free(count: int) -> tuple[str, ...]:
    """So many addresses of this machine on which nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)
