"""Tiny sweeps, on an engine and here, and whether their runs are one, bit for bit."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import records
from benchmarks.torture import same

# Seconds of training, with a checkpoint every 100 steps. One thread: with several, sums may be of another order elsewhere.
TINY = (
    *("--preset", "quick", "--variational", "mean-field", "--latent-size", "2", "--hidden-size", "8", "--chunk", "20"),
    *("--log-interval", "100", "--validation-interval", "100", "--warm-up", "10", "--samples", "30", "--images", "50"),
    *("--ema-decay", "0.9", "--selection", "best-validation", "--threads", "1"),
)


def assert_same_sweeps(ours: Path, theirs: Path, *, runs: int) -> None:
    """Every run of both folders ended well, and has the same checkpoint and record, but for what a clock measured."""
    found = [{path.name: record for path, record in records.found(folder).items()} for folder in (ours, theirs)]
    assert [[record["status"] for record in one.values()] for one in found] == [["ok"] * runs] * 2
    assert found[0].keys() == found[1].keys()
    for name, a in found[0].items():
        b = found[1][name]
        assert [key for key in a if key not in same.MEASURED and a[key] != b[key]] == []
    checkpoints = sorted(path.name for path in ours.glob("*.h5"))
    assert checkpoints == sorted(path.name for path in theirs.glob("*.h5"))
    for name in checkpoints:
        assert same.differing(same.contents(ours / name), same.contents(theirs / name)) == []
