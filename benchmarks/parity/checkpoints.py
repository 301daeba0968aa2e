"""`python -m benchmarks parity --checkpoints FILE …`: a trained model scores the same in every backend.

Every backend gets the same noise: a checkpoint's log weights [samples, images] agree to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import record_names, reports, scoring
from benchmarks.harness.processes import ask
from benchmarks.outputs import terminal
from benchmarks.outputs.cells import in_order
from benchmarks.outputs.table import Part, Table
from benchmarks.parity import comparison
from common import checkpoints, protocol
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
    paths: Sequence[Path], *, backends: Sequence[str], device: Device, data: Sequence[str], data_dir: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """Compare the backends on each checkpoint and print the table.

    Returns (the report's content, a sentence for each row that isn't `even`). Raises `UserError` as `load` does.
    """
    if not paths:
        raise UserError("Which checkpoints? `python -m benchmarks run` writes them into its results folder, as .h5 files.")
    where: dict[str, Any] = {"device": device, "data": data, "data_dir": data_dir}
    loaded = [load(path, **where)[0] for path in paths]  # refuses before minutes of work, not after
    question = where | {"data_dir": str(data_dir) if data_dir else None, "checkpoints": [str(path) for path in paths]}
    # In this folder, which the paths of checkpoints and data sets can be relative to.
    found = {name: ask(f"{__name__}:score", question | {"backend": name}, title=name, folder=Path.cwd()) for name in backends}
    rows = in_order(
        row(checkpoint, {name: np.array(log_weights[i]) for name, log_weights in found.items()}, device=device)
        for i, checkpoint in enumerate(loaded)
    )
    terminal.show(table(rows), Console())
    return {"rows": rows}, [
        f"Not the same in every backend: {each['variational']}, trained by {record_names.trained_by(each)}; "
        f"{' and '.join(each['between'])} are {each['deviation']:.1e} apart, more than {TOLERANCE[each['precision']]:.0e}."
        for each in rows
        if not even(each)
    ]


def load(path: Path, *, device: Device, data: Sequence[str], data_dir: Path | None) -> tuple[Checkpoint, Config, Dataset]:
    """The checkpoint, its settings on this device, and its data.

    Raises `UserError` where file or data can't be read, and where the data isn't what the checkpoint was trained on.
    """
    checkpoint = checkpoints.load(path)
    checkpoints.refuse_diverged(checkpoint, path=path)
    config = checkpoint.config.replace(device=device)
    dataset = scoring.dataset_of(checkpoint, path=path, places=data, data_dir=data_dir)
    check(config, train_images=len(dataset.train), test_images=len(dataset.test))
    return checkpoint, config, dataset


def score(question: dict[str, Any]) -> list[list[list[float]]]:
    """One backend's process: each checkpoint's log weights [SAMPLES, IMAGES] on given noise.

    Raises `UserError` for log weights that are not finite.
    """
    backend = protocol.load(question["backend"])
    data_dir = Path(question["data_dir"]) if question["data_dir"] else None
    found = []
    for path in map(Path, question["checkpoints"]):
        checkpoint, config, dataset = load(path, device=question["device"], data=question["data"], data_dir=data_dir)
        scorer = backend.score(config, checkpoint.selected())
        rows = np.linspace(0, len(dataset.test) - 1, min(IMAGES, len(dataset.test))).astype(np.int32)  # of the whole test set
        draws = generator(config.training.seed, CHECKPOINTS_NOISE)
        noise = draws.standard_normal((SAMPLES, len(rows), config.model.latent_size)).astype(config.dtype)
        log_w = scorer.log_weights(scorer.place(dataset.test), rows, samples=range(SAMPLES), seed=0, noise=noise)
        if not np.isfinite(log_w).all():
            raise UserError(f"{path} has log weights in {question['backend']} that are not finite: its training diverged.")
        found.append(log_w.tolist())
    return found


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
        line = {"family": each["variational"], "trained by": record_names.trained_by(each)}
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
