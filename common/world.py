"""The processes of one run on several devices: each has a rank, one device, and an equal part of every batch."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError


@dataclass(frozen=True)
class World:
    """A process's place among those of its run."""

    rank: int  # from 0
    addresses: tuple[str, ...]  # of each rank, HOST:PORT; the first is where the processes meet

    @property
    def size(self) -> int:
        """The number of processes, and of devices."""
        return len(self.addresses)

    def own(self, rows: int) -> slice:
        """This rank's part of a batch of so many rows, which `size` divides."""
        part = rows // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


ALONE = World(rank=0, addresses=("",))
_joined = [ALONE]


def enter(world: World) -> None:
    """Note that this process has joined the world; a backend's `join` and `leave` call this."""
    _joined[0] = world


def joined() -> World:
    """The world that this process has joined; ALONE where it hasn't."""
    return _joined[0]


def of_session(devices: int) -> World:
    """The world of a session that trains on so many devices, one a process.

    Raises `UserError` where that many processes haven't joined.
    """
    if devices == 1:
        return ALONE
    if joined().size != devices:
        raise UserError(
            f"--devices is {devices}, but this process trains alone, on one device; "
            f"`python -m benchmarks run --devices {devices}` starts a process for each device."
        )
    return joined()
