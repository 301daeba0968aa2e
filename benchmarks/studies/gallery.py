"""Samples of trained flows, each backend's from the same latents, beside the training curves of the table `standard`.

A process loads a checkpoint in the backend that trained it, draws latents z ~ N(0, I) with NumPy, the same for every
checkpoint, and decodes p(x = 1|z). The report holds these probabilities as grey values: the picture needs no checkpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.harness import looks, packing, records
from benchmarks.harness.cli import at_least
from benchmarks.outputs import figures, published
from benchmarks.outputs.table import Part
from benchmarks.studies import skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import checkpoints, protocol
from common.errors import UserError

LINES = {"mean-field": (0, (4, 1.5)), "flow": "-"}
WIDTHS = dict(zip(protocol.BACKENDS, (4.5, 2.5, 1.0), strict=False))  # points: a narrower curve lies on a wider one
LEAST_ELBO = -120.0  # nats, of the curves' axis: the first steps are far below


@dataclass(kw_only=True)
class Arguments(skeleton.Arguments):
    checkpoint: Annotated[tuple[Path, ...], tyro.conf.arg(help="A row of samples each.")] = ()
    samples: Annotated[int, tyro.conf.arg(help="Samples in a row.")] = 10
    seed: Annotated[int, tyro.conf.arg(help="Of the latents.")] = 0


def check(asked: Arguments) -> None:
    if not asked.checkpoint:
        raise UserError("Which checkpoints? Give --checkpoint FILE …, as `python -m benchmarks run` writes them.")
    at_least(asked, samples=1)


def plan(asked: Arguments) -> dict[str, Point]:
    points = {}
    for i, path in enumerate(asked.checkpoint):
        checkpoints.load(path)  # refuses a bad file before anything is measured
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        of_checkpoint = {"checkpoint": str(path.absolute()), "sha256": digest}
        points[f"{i}_{path.stem}"] = {**of_checkpoint, "samples": asked.samples, "seed": asked.seed}
    return points


def measure(point: Point) -> Result:
    """Decode one checkpoint's samples: its provenance, and `grey`, bytes [samples, pixels], deflated, in base64."""
    checkpoint = checkpoints.load(Path(point["checkpoint"]))
    model = checkpoint.config.model
    scorer = protocol.load(checkpoint.backend).score(checkpoint.config, checkpoint.selected())
    draws = looks.base(checkpoint.config, samples=point["samples"], seed=point["seed"])
    grey = looks.grey(scorer.decode(scorer.prior(draws.astype(checkpoint.config.dtype))))
    return {
        "backend": checkpoint.backend,
        "variational": model.variational,
        "preset": checkpoint.preset,
        "steps": checkpoint.selected_step(),
        "dataset": {"name": checkpoint.dataset, "sha256": checkpoint.sha256},
        "config": checkpoint.config.as_dict(),
        "image_shape": list(model.image_shape),
        "grey": packing.pack(grey),
    }


def unpacked(row: dict[str, Any]) -> np.ndarray:
    """A row's samples, uint8 [samples, rows, columns]."""
    return packing.unpack(row["grey"], dtype="uint8", shape=(-1, *row["image_shape"]))


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    rows = [result | {"checkpoint_sha256": point["sha256"]} for point, result in measured]
    return {
        "seed": asked.seed,
        "samples": asked.samples,
        "rows": sorted(rows, key=lambda row: protocol.BACKENDS.index(row["backend"])),
    }


def parts(report: dict[str, Any]) -> list[Part]:
    """The picture and its caption."""
    rows = report["rows"]
    what = " and ".join(dict.fromkeys(row["variational"] for row in rows))
    steps = {row["backend"]: f"after {row['steps']:,} steps" for row in rows}
    alike = len(set(steps.values())) == 1
    trained = next(iter(steps.values())) if alike else ", ".join(" ".join(each) for each in steps.items())
    return [
        f"![Samples of the {what} in three frameworks; training curves of both families](docs/figures/gallery.png)",
        (
            f"Left: p(x = 1|z) of the {what} on {rows[0]['dataset']['name']}, {trained}, for the same {report['samples']} "
            "draws of z ~ N(0, I). Each framework trained its model on noise of its own, so the same z gives another digit in "
            "each. Right: the ELBO of training minibatches; the frameworks' curves of a family overlap."
        ),
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """Rows of samples at the left; at the right the training ELBO by step of the committed records of `standard` on a CPU."""
    from matplotlib.figure import Figure

    rows = report["rows"]
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 1), squeeze=False)[0]
    for row, panels in zip(rows, left.subplots(len(rows), report["samples"], squeeze=False), strict=True):
        for panel, image in zip(panels, unpacked(row), strict=True):
            panel.imshow(image, cmap="gray_r", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set_visible(False)
        panels[0].set_ylabel(row["backend"], color=figures.OF_BACKEND[row["backend"]], fontsize=11)
    axes = right.subplots()
    for record in published.rows("standard", records.read_all(records.RECORDS)):
        if record["device"] == "cpu":
            axes.plot(
                [step / 1000 for step in record["curve"]["step"]],
                record["curve"]["elbo"],
                color=figures.OF_BACKEND[record["backend"]],
                linestyle=LINES[record["variational"]],
                linewidth=WIDTHS[record["backend"]],
                label=f"{record['backend']}, {record['variational']}",
            )
    axes.set_ylim(LEAST_ELBO, -88)
    axes.set_xlabel("thousand training steps")
    axes.set_ylabel("ELBO (nats per image)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    figures.save(figure, path)
