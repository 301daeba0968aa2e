"""What `--precision bfloat16` gains a training step, and what it costs in log p(x).

Speed: pairs of fresh processes, full against bfloat16, whose calls take turns (harness/turns.py). Quality: runs like any other,
a seed in full and in bfloat16 each, on a data set whose test images are a seeded random choice of the validation images.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.harness import calls, cores, reports
from benchmarks.harness.cli import at_least, known
from benchmarks.harness.environment import ROOT
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.reports import Report
from benchmarks.harness.turns import Contender, What, seconds_by_turns
from benchmarks.outputs.table import Part, Table, ranged
from benchmarks.studies import ablation, skeleton
from benchmarks.studies.skeleton import Measured, Point, Result
from common import estimators
from common.config import Precision, Variational

PRECISIONS: tuple[Precision, ...] = ("full", "bfloat16")
# A step of each family, and matrix products alone, of mean-field: the flow's are more of the same.
TIMED: tuple[tuple[str, Variational], ...] = (("train", "mean-field"), ("train", "flow"), ("products", "mean-field"))
BATCH = STANDARD.training.batch_size
CALL_STEPS = calls.ROWS_A_CALL // BATCH  # of "train" and "products"


@dataclass(kw_only=True)
class Arguments(ablation.Arguments):
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Whose speed is measured; all by default.")] = ()
    pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a backend and family; 0 for no timing.")] = 5
    turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = 8
    trained: Annotated[str, tyro.conf.arg(help="The backend whose log p(x) is measured.")] = "pytorch"
    variational: Annotated[tuple[Variational, ...], tyro.conf.arg(help="The families trained.")] = ("mean-field",)
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="A run in full and one in bfloat16 each; none to train.")] = (
        *range(5),
    )
    steps: Annotated[int, tyro.conf.arg(help="Of each run; the KL warm-up takes a third.")] = 2_000


def check(asked: Arguments) -> None:
    known([asked.trained])
    at_least(asked, pairs=0, turns=1, images=2, samples=2)  # of one image or sample the errors are unknown


def plan(asked: Arguments) -> dict[str, Point]:
    """The runs, then the pairs: every row's first pair before any row's second, so that rows share the hours of the day."""
    points = quality_plan(asked) if asked.seed else {}
    for number, (kind, family), backend in itertools.product(range(asked.pairs), TIMED, asked.backend):
        what = {"kind": kind, "family": family, "batch": BATCH, "backend": backend}
        points[f"{kind}_{family}_{backend}_{number}"] = {"what": what, "turns": asked.turns, "low_first": number % 2 == 1}
    return points


def quality_plan(asked: Arguments) -> dict[str, Point]:
    """Every run, on a data set whose test images are validation images."""
    dataset = asked.dataset()
    ablation.on_validation(dataset, images=asked.images, path=asked.held_out)
    base = STANDARD.replace(warm_up=asked.steps // 3, validation_interval=asked.steps)
    points: dict[str, Point] = {}
    for family, seed, precision in itertools.product(asked.variational, asked.seed, PRECISIONS):
        settings = base.replace(variational=family, seed=seed, precision=precision)
        job = asked.job(asked.trained, "standard", settings, dataset=dataset)
        point = {"family": family, "precision": precision, "seed": seed, "job": job.as_json()}
        points[f"run_{family}_{precision}_{seed}"] = point
    return points


def run(point: Point) -> Result:
    """A pair's figures, see `pair`; or a run's test and commit."""
    if "what" in point:
        return pair(What(**point["what"]), turns=point["turns"], low_first=point["low_first"])
    record = ablation.done(dataclasses.replace(Job.from_json(point["job"]), resume=point["resume"]))
    return {"test": record["test"], "commit": str(record["environment"]["commit"])}


def pair(what: What, *, turns: int, low_first: bool) -> Result:
    """ms a step in both precisions, and full/bfloat16, of one pair of fresh processes: medians over their turns.

    `round_trips_ns`: how far apart the cores were at both ends, see `cores.together`. Threads wait as a run's do.
    """
    full: Contender = (ROOT, what)
    low: Contender = (ROOT, dataclasses.replace(what, precision="bfloat16"))
    order = [low, full] if low_first else [full, low]
    found, trips = cores.together(lambda: seconds_by_turns(order, turns=turns, waiting={}))
    seconds = [{contender: turn[contender][what.kind] for contender in order} for turn in found]
    ms = {contender: 1e3 * statistics.median(turn[contender] for turn in seconds) / CALL_STEPS for contender in order}
    ratio = math.exp(statistics.median(math.log(turn[full] / turn[low]) for turn in seconds))
    return {"full_ms": ms[full], "bfloat16_ms": ms[low], "ratio": ratio, "round_trips_ns": trips}


# --- the report and its tables ---


def content(asked: Arguments, measured: Measured) -> dict[str, Any]:
    """Speed: a row for each kind, family and backend, with lists over pairs; quality: for each precision, over seeds."""
    pairs = [point["what"] | result for point, result in measured if "what" in point]
    tests = [point | result["test"] | {"commit": result["commit"]} for point, result in measured if "what" not in point]
    speed = listed(pairs, of=("kind", "family", "batch", "backend"), each=("full_ms", "bfloat16_ms", "ratio"))
    for row, members in zip(speed, skeleton.grouped(pairs, "kind", "family", "backend").values(), strict=True):
        row["round_trips_ns"] = [trip for pair in members for trip in pair["round_trips_ns"]]
    rows = listed(tests, of=("family", "precision"), each=("log_px", "log_px_se", "elbo"))
    quality = {"backend": asked.trained, **asked.about_runs(tests), "rows": rows} if tests else None
    return {"turns": asked.turns, "speed": speed, "quality": quality}


def listed(rows: list[dict[str, Any]], *, of: tuple[str, ...], each: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a group that agrees in the values `of`, with the lists of its `each`."""
    groups = skeleton.grouped(rows, *of).values()
    return [{name: rows[0][name] for name in of} | {name: [row[name] for row in rows] for name in each} for rows in groups]


def parts(report: Report) -> list[Part]:
    """Two tables: the speed of each backend and family, and each family's log p(x)."""
    speed = speed_parts(report) if report["speed"] else []
    quality = quality_parts(report["quality"]) if report["quality"] else []
    return [*speed, *quality, reports.where(report["environment"], setting="cpu, float32 beside bfloat16") + "."]


def speed_parts(report: Report) -> list[Part]:
    """Medians over pairs, and the least and most ratio."""
    rows = []
    for row in report["speed"]:
        full, low, ratio = (statistics.median(row[key]) for key in ("full_ms", "bfloat16_ms", "ratio"))
        name = {"train": "a step", "products": "its products"}[row["kind"]]
        names = (name, row["family"], row["backend"])
        rows.append((*names, f"{full:.2f}", f"{low:.2f}", ranged(ratio, row["ratio"], ".2f")))
    pairs = " or ".join(str(count) for count in sorted({len(row["ratio"]) for row in report["speed"]}))
    labels = ("what", "family", "backend")
    columns = (*labels, "full, ms a step", "bfloat16", "full / bfloat16 (least … most)")
    how = (
        f"Medians over {pairs} pairs of fresh processes of {report['turns']} turns each; `standard`'s sizes, "
        f"batch {report['speed'][0]['batch']}. "
        f"Beside the pairs, {cores.said([trip for row in report['speed'] for trip in row.get('round_trips_ns', [])])}."
    )
    return [Table(columns=columns, rows=rows, left=labels), how]


def quality_parts(found: dict[str, Any]) -> list[Part]:
    """Mean log p(x) in both precisions; the standard deviation of full's over seeds; the mean difference by seed ± s.e."""
    by_family: dict[str, dict[str, np.ndarray]] = {}
    for row in found["rows"]:
        by_family.setdefault(row["family"], {})[row["precision"]] = np.array(row["log_px"])
    rows = []
    for family, log_px in by_family.items():
        change = log_px["bfloat16"] - log_px["full"]
        means = (f"{log_px[precision].mean():.3f}" for precision in PRECISIONS)
        difference = f"{change.mean():+.3f} {estimators.plus_minus(estimators.standard_error(change))}"
        spread = f"{log_px['full'].std(ddof=1):.3f}" if len(change) > 1 else "unknown"
        rows.append((family, *means, difference, spread))
    columns = ("family", "log p(x), full", "bfloat16", "bfloat16 − full, by seed", "over seeds, full's s.d.")
    how = (
        f"{found['backend']}, {found['dataset']['name']}, {len(found['seeds'])} seeds, {found['steps']:,} steps with the KL "
        f"warm-up in their first third, `standard` otherwise. log p(x): validation, nats, K = {found['samples']:,}, the same "
        f"{found['images']:,} images for every run; both precisions are evaluated as they were trained. "
        f"Trained at commit {reports.commits(found['run_commits'])}."
    )
    return [Table(columns=columns, rows=rows, left=("family",)), how]
