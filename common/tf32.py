"""TF32, NVIDIA's rounding of float32 factors to 10 bits: for a whole process or not at all, as the frameworks' switches are."""

from __future__ import annotations

_settled: list[bool] = []


def settle(wanted: bool) -> bool:
    """`wanted`, which the process's first model or probe settles for all. Raises `ValueError` where it's settled otherwise."""
    if not _settled:
        _settled.append(wanted)
    if _settled != [wanted]:
        raise ValueError("TF32 is a switch of the whole process: what computes in it can't share one with what doesn't.")
    return wanted
