"""`python -m benchmarks parity --checkpoints FILE …`: what one backend has trained scores the same in every other.

Every backend gets the same noise, so that nothing is random: a checkpoint's log weights [samples, images] agree to rounding.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import environment, reports
from benchmarks.harness.processes import ask
from benchmarks.outputs import terminal
from benchmarks.outputs.cells import in_order, trained_by
from benchmarks.outputs.table import Part, Table
from benchmarks.parity import comparison
from common import checkpoints, data, protocol
from common.checkpoints import Checkpoint
from common.config import Config, Device, check
from common.data import Dataset
from common.errors import UserError
from common.noise import CHECKPOINTS_NOISE, generator

REPORT = "cross-evaluate"
SAMPLES, IMAGES = 25, 100  # of a checkpoint's log weights
# Deviation allowed by the precision of a product's factors: sums over pixels and layers, taken in another order. float32: ten
# times the 3e-7, five roundings, seen at the sizes of `quick` and `standard`. The others: the bounds of the parity tests.
TOLERANCE = {"float32": 3e-6, "float64": 1e-12, "tf32": 1e-3, "bfloat16": 1e-3}

Row = dict[str, Any]


def compare(
    paths: Sequence[Path], *, backends: Sequence[str], required: bool, device: Device, data_dir: Path | None, results: Path
) -> int:
    """Compare the backends on each checkpoint, print the table and write the report.

    Returns the exit code: 1 where log weights of a checkpoint differ by more than TOLERANCE. Raises `UserError` for a
    checkpoint that can't be read or whose data isn't there, and as `comparison.check_present` does.
    """
    if not paths:
        raise UserError("Which checkpoints? `python -m benchmarks run` writes them into its results folder, as .h5 files.")
    before = environment.describe(device)
    loaded = [checkpoints.load(path) for path in paths]
    question = {"device": device, "data_dir": str(data_dir) if data_dir else None, "checkpoints": [str(path) for path in paths]}
    for path, checkpoint in zip(paths, loaded, strict=True):
        settings(path, checkpoint, device=device, data_dir=data_dir)  # refuses before minutes of work, not after
    found: dict[str, list[np.ndarray]] = {}
    unavailable: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in backends:
            output = Path(folder) / f"{name}.npz"
            its = question | {"backend": name, "output": str(output)}
            # In this folder, which the paths of checkpoints and data sets can be relative to.
            if reason := ask(f"{__name__}:score", its, title=name, folder=Path.cwd()):
                unavailable[name] = reason
                continue
            with np.load(output, allow_pickle=False) as arrays:
                found[name] = [arrays[str(i)] for i in range(len(loaded))]
    comparison.check_present(unavailable, backends=backends, required=required)
    rows = in_order(
        row(checkpoint, {name: arrays[i] for name, arrays in found.items()}, device=device)
        for i, checkpoint in enumerate(loaded)
    )
    terminal.show(table(rows), Console())
    for name, reason in unavailable.items():
        print(f"{name}: not run: {reason}")
    content = {"device": device, "rows": rows}
    print(f"Wrote {reports.write(reports.of_device(REPORT, device), content, results, environment=before)}.")
    uneven = [each for each in rows if not even(each)]
    for each in uneven:
        print(
            f"Not the same in every backend: {each['variational']}, trained by {trained_by(each)}; "
            f"{' and '.join(each['between'])} are {each['deviation']:.1e} apart, more than {TOLERANCE[each['precision']]:.0e}.",
            file=sys.stderr,
        )
    return 1 if uneven else 0


def settings(path: Path, checkpoint: Checkpoint, *, device: Device, data_dir: Path | None) -> tuple[Config, Dataset]:
    """The checkpoint's settings on this device, and its data. Raises `UserError` where they don't fit."""
    config = checkpoint.config.replace(device=device)
    dataset = data.load(checkpoint.dataset, data_dir=data_dir)
    if dataset.sha256 != checkpoint.sha256:
        raise UserError(f"{path} was trained on other data than {checkpoint.dataset} now holds.")
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    return config, dataset


def score(question: dict[str, Any]) -> str | None:
    """One backend's process: write each checkpoint's log weights [SAMPLES, IMAGES] on given noise.

    Returns why the backend is unavailable; None when done. Raises `UserError` for log weights that are not finite.
    """
    try:
        backend = protocol.load(question["backend"])
    except UserError as error:
        return str(error)
    data_dir = Path(question["data_dir"]) if question["data_dir"] else None
    arrays = {}
    for i, path in enumerate(map(Path, question["checkpoints"])):
        checkpoint = checkpoints.load(path)
        config, dataset = settings(path, checkpoint, device=question["device"], data_dir=data_dir)
        scorer = backend.score(config, checkpoint.selected())
        rows = np.linspace(0, len(dataset.test) - 1, min(IMAGES, len(dataset.test))).astype(np.int32)  # of the whole test set
        draws = generator(config.training.seed, CHECKPOINTS_NOISE)
        noise = draws.standard_normal((SAMPLES, len(rows), config.model.latent_size)).astype(config.dtype)
        log_w = scorer.log_weights(scorer.place(dataset.test), rows, samples=range(SAMPLES), seed=0, noise=noise)
        if not np.isfinite(log_w).all():
            raise UserError(f"{path} has log weights in {question['backend']} that are not finite: its training diverged.")
        arrays[str(i)] = log_w
    np.savez(question["output"], allow_pickle=False, **arrays)
    return None


# --- the report and its table ---


def row(checkpoint: Checkpoint, found: dict[str, np.ndarray], *, device: str) -> Row:
    """A checkpoint's row of the report, from its log weights in each backend.

    `deviation`, max|a − b| / max|b|, is the largest over pairs of backends, of the pair `between`. Rows of older reports also
    have `evaluated`, each backend's figures on its own noise, and `difference` ± `difference_se`, the largest of log p(x).
    """
    config = checkpoint.config
    off, between = max((comparison.deviation(found[a], found[b]), [a, b]) for a, b in combinations(found, 2))
    samples, images = next(iter(found.values())).shape
    return {
        "backend": checkpoint.backend,
        "trained": checkpoint.trained(checkpoint.selected_step()),
        "variational": config.model.variational,
        "preset": checkpoint.preset,
        "dataset": {"name": checkpoint.dataset, "sha256": checkpoint.sha256},
        "seed": config.training.seed,
        "precision": config.factors,
        "device": device,
        "backends": list(found),
        "samples": samples,
        "images": images,
        "deviation": off,
        "between": between,
    }


def even(row: Row) -> bool:
    """Whether the backends agree on the row's checkpoint."""
    return bool(row["deviation"] <= TOLERANCE[row["precision"]])


def table(rows: Sequence[Row]) -> Table:
    """A row a checkpoint; an older report's rows have their figures on each backend's own noise too."""
    lines = []
    for each in rows:
        line = {"family": each["variational"], "trained by": trained_by(each)}
        for name, its in each.get("evaluated", {}).items():
            line[f"in {name}"] = f"{its['log_px']:.3f} ± {its['log_px_se']:.3f}"
        if "difference" in each:
            line["largest difference"] = f"{each['difference']:+.4f} ± {each['difference_se']:.4f}"
        lines.append(line | {"given noise": f"{each['deviation']:.1e}"})
    title = "Log weights of one checkpoint on the same noise in every backend: the largest deviation of two backends"
    return Table(
        columns=list(lines[0]), rows=[list(line.values()) for line in lines], left=("family", "trained by"), title=title
    )


def parts(report: reports.Report) -> list[Part]:
    """The document block: the table, the checkpoints' settings, and where it was measured."""
    rows: list[Row] = report["rows"]
    trained = set()
    for each in rows:
        setting = f"`{each['preset']}` on {each['dataset']['name']}, {each['trained'][-1]['last_step']:,} steps"
        if "samples" in each:
            trained.add(f"{setting}; {each['samples']} samples of {each['images']} images in {', '.join(each['backends'])}")
        for its in each.get("evaluated", {}).values():
            trained.add(f"{setting}; {its['images']:,} test images, K = {its['importance_samples']:,}")
    where = "; ".join(sorted({f"{each['device']}, {each['precision']}" for each in rows}))
    notes = [*sorted(trained), reports.where(report["environment"], setting=where)]
    return [table(rows), "\n".join(f"- {note}." for note in notes)]
