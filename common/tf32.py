"""TF32, NVIDIA's rounding of float32 factors to 10 bits, on or off for a whole process, as in the frameworks."""

from __future__ import annotations

from common.errors import UserError

_settled: list[bool] = []


def settle(wanted: bool) -> bool:
    """Returns `wanted`. The first call fixes the process's TF32 mode; a later call that wants the other raises `UserError`."""
    if not _settled:
        _settled.append(wanted)
    if _settled != [wanted]:
        raise UserError("TF32 is a switch of the whole process: sessions with and without it need a process each.")
    return wanted
