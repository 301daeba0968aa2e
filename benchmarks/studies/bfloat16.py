"""`python -m benchmarks bfloat16`: what `--precision bfloat16` gains a training step, and what it costs in log p(x).

Speed: pairs of fresh processes, full against bfloat16, whose calls take turns as in `benchmarks.throughput.compare`. Quality:
runs like any other, a seed in full and in bfloat16 each, on a data set whose test images are a seeded random choice of the
validation images. What is measured is kept in the results folder, and not measured again with --resume.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from benchmarks.harness import cases, cores, environment, records, reports, runs
from benchmarks.harness.cli import known, parse, usable
from benchmarks.harness.environment import ROOT
from benchmarks.harness.presets import STANDARD
from benchmarks.harness.reports import Report
from benchmarks.harness.turns import Contender, What, seconds_by_turns
from benchmarks.studies import ablation
from common import data, estimators
from common.config import Precision, Variational, check
from common.errors import UserError
from common.files import write_text

REPORT = "bfloat16"
Pair = dict[str, Any]
Pairs = dict[str, list[Pair]]  # "kind family batch backend" → its pairs
PRECISIONS: tuple[Precision, ...] = ("full", "bfloat16")
# A step of each family, and matrix products alone, of mean-field: the flow's are more of the same.
TIMED: tuple[tuple[str, Variational], ...] = (("train", "mean-field"), ("train", "flow"), ("products", "mean-field"))
BATCH = STANDARD.training.batch_size
CALL_STEPS = cases.ROWS_A_CALL // BATCH  # of "train" and "products"


@dataclass
class Bfloat16:
    backend: Annotated[tuple[str, ...], tyro.conf.arg(help="Whose speed is measured; all by default.")] = ()
    pairs: Annotated[int, tyro.conf.arg(help="Pairs of fresh processes a backend and family; 0 for no timing.")] = 5
    turns: Annotated[int, tyro.conf.arg(help="Turns a pair.")] = 8
    trained: Annotated[str, tyro.conf.arg(help="The backend whose log p(x) is measured.")] = "pytorch"
    variational: Annotated[tuple[Variational, ...], tyro.conf.arg(help="The families trained.")] = ("mean-field",)
    seed: Annotated[tuple[int, ...], tyro.conf.arg(help="Seeds, a run in full and one in bfloat16 each; none to train.")] = (
        *range(5),
    )
    steps: Annotated[int, tyro.conf.arg(help="Of each run; the KL warm-up takes a third.")] = 2_000
    images: Annotated[int, tyro.conf.arg(help="Validation images, a seeded random subset.")] = 500
    samples: Annotated[int, tyro.conf.arg(help="K: importance samples an image.")] = 100
    data: Annotated[str, tyro.conf.arg(help="binarized-mnist, binarized-digits or an .h5 file.")] = "binarized-mnist"
    data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for pairs, records, checkpoints and the report.")] = field(
        default_factory=lambda: Path("results/bfloat16")
    )
    resume: Annotated[bool, tyro.conf.arg(help="Go on with what is in the results folder.")] = False
    limit: Annotated[float, tyro.conf.arg(help="Minutes of timing, after which --resume has to go on.")] = math.inf


def main(arguments: list[str]) -> int:
    asked = parse(Bfloat16, arguments, command="bfloat16", description="What bfloat16 gains in speed and costs in log p(x).")
    known([asked.trained])
    for flag, least in (("pairs", 0), ("turns", 1)):
        if getattr(asked, flag) < least:
            raise UserError(f"--{flag} is {getattr(asked, flag)}; it must be at least {least}.")
    if asked.pairs:
        asked.backend = usable(asked.backend)
    results = asked.results.resolve()
    trained = quality(asked, results) if asked.seed else None
    speed = speeds(asked, results / "pairs.json")
    if speed is None:
        print("Not all pairs are timed yet: --resume goes on.", file=sys.stderr)
        return 1
    path = reports.write(REPORT, {"turns": asked.turns, "speed": speed, "quality": trained}, results)
    report = reports.read(REPORT, results)
    assert report is not None
    print(table(report))
    print(f"The report is {path}.", file=sys.stderr)
    return 0


# --- speed ---


def speeds(asked: Bfloat16, path: Path) -> list[dict[str, Any]] | None:
    """A row a kind, family and backend, a number a pair; each pair is kept in the file. None where the time was too short.

    Raises `UserError` where the file can't be gone on with.
    """
    described = environment.describe()
    place = {"turns": asked.turns} | {key: described[key] for key in ("commit", "versions", "machine")}
    kept = resumed(path, place) if asked.resume else {}
    end = time.monotonic() + 60 * asked.limit
    rows = []
    plan = [What(kind, family, BATCH, name) for kind, family in TIMED for name in asked.backend]
    for i in range(asked.pairs):  # a pair of each before the next of any, so that no row has one stretch of the day
        for what in plan:
            measured = kept.setdefault(str(what), [])
            if len(measured) > i:
                continue
            if time.monotonic() > end:
                return None
            measured.append(pair(what, turns=asked.turns, low_first=i % 2 == 1))
            write_text(path, json.dumps({"place": place, "pairs": kept}))
            print(f"{what}: {measured[-1]['ratio']:.2f}", file=sys.stderr)
    for what in plan if asked.pairs else []:
        columns = {key: [one[key] for one in kept[str(what)]] for key in ("full_ms", "bfloat16_ms", "ratio")}
        columns["round_trips_ns"] = [trip for one in kept[str(what)] for trip in one["round_trips_ns"]]
        rows.append({"kind": what.kind, "family": what.family, "batch": what.batch, "backend": what.backend, **columns})
    return rows


def resumed(path: Path, place: dict[str, Any]) -> Pairs:
    """The pairs that this file holds. Raises `UserError` where it's damaged, or they aren't of this place."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, pairs = dict(found["place"]), dict(found["pairs"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"The pairs {path} can't be read ({error!r}); remove the file, or leave out --resume.") from error
    if changed := [key for key, value in place.items() if before.get(key) != value]:
        raise UserError(f"The pairs {path} are of another {changed[0]}; remove the file, or leave out --resume.")
    return pairs


def pair(what: What, *, turns: int, low_first: bool) -> Pair:
    """ms a step in both precisions, and full/bfloat16, of one pair of fresh processes: medians over their turns.

    And how far apart the cores were at both ends, see `cores.together`. Threads wait as a run's do.
    """
    full: Contender = (ROOT, what)
    low: Contender = (ROOT, dataclasses.replace(what, precision="bfloat16"))
    found, trips = cores.together(lambda: seconds_by_turns(full, low, turns=turns, head_first=low_first, waiting={}))
    ms = {contender: 1e3 * statistics.median(turn[contender] for turn in found) / CALL_STEPS for contender in (full, low)}
    ratio = math.exp(statistics.median(math.log(turn[full] / turn[low]) for turn in found))
    return {"full_ms": ms[full], "bfloat16_ms": ms[low], "ratio": ratio, "round_trips_ns": trips}


# --- quality ---


def quality(asked: Bfloat16, results: Path) -> dict[str, Any]:
    """log p(x) of validation images after training, a number a seed. Raises `UserError` where a run fails."""
    dataset = data.load(asked.data, data_dir=asked.data_dir)
    held_out = ablation.on_validation(dataset, images=asked.images, path=results / "validation.h5")
    rows, commits = [], set()
    for family in asked.variational:
        found: dict[Precision, list[records.Record]] = {precision: [] for precision in PRECISIONS}
        for seed in asked.seed:
            for precision in PRECISIONS:
                config = STANDARD.replace(
                    image_shape=dataset.image_shape,
                    variational=family,
                    seed=seed,
                    precision=precision,
                    steps=asked.steps,
                    warm_up=asked.steps // 3,
                    validation_interval=asked.steps,
                    samples=asked.samples,
                    images=0,
                )
                check(config, train_images=len(dataset.train), test_images=len(dataset.test))
                job = runs.Job(asked.trained, "standard", str(held_out), None, config, str(results / "runs"), asked.resume)
                found[precision].append(ablation.done(job, folder=None))
        for precision, each in found.items():
            commits |= {str(record["environment"]["commit"]) for record in each}
            rows.append(
                {"family": family, "precision": precision}
                | {key: [record["test"][key] for record in each] for key in ("log_px", "log_px_se", "elbo")}
            )
    return {
        "run_commits": sorted(commits),
        "backend": asked.trained,
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        "seeds": list(asked.seed),
        "steps": asked.steps,
        "images": asked.images,
        "samples": asked.samples,
        "rows": rows,
    }


# --- the tables ---


def table(report: Report) -> str:
    """Two tables: the speed of each backend and family, and each family's log p(x)."""
    lines = []
    if report["speed"]:
        lines += [
            "| what | family | backend | full, ms a step | bfloat16 | full / bfloat16 (least … most) |",
            "| --- | --- | --- | ---: | ---: | ---: |",
        ]
        for row in report["speed"]:
            full, low, ratio = (statistics.median(row[key]) for key in ("full_ms", "bfloat16_ms", "ratio"))
            name = {"train": "a step", "products": "its products"}[row["kind"]]
            cells = (name, row["family"], row["backend"], f"{full:.2f}", f"{low:.2f}")
            least, most = min(row["ratio"]), max(row["ratio"])
            lines.append(f"| {' | '.join(cells)} | {ratio:.2f} ({least:.2f} … {most:.2f}) |")
        pairs = " or ".join(str(count) for count in sorted({len(row["ratio"]) for row in report["speed"]}))
        how = (
            f"Medians over {pairs} pairs of fresh processes of {report['turns']} turns each; `standard`'s sizes, "
            f"batch {report['speed'][0]['batch']}. "
            f"Beside the pairs, {cores.said([trip for row in report['speed'] for trip in row.get('round_trips_ns', [])])}."
        )
        lines += ["", how, ""]
    if report["quality"]:
        lines += quality_lines(report["quality"])
    lines += [reports.measured(report["environment"], setting="cpu, float32 beside bfloat16") + "."]
    return "\n".join(lines) + "\n"


def quality_lines(found: dict[str, Any]) -> list[str]:
    """Mean log p(x) in both precisions; the standard deviation of full's over seeds; the mean difference by seed ± s.e."""
    lines = [
        "| family | log p(x), full | bfloat16 | bfloat16 − full, by seed | over seeds, full's s.d. |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    by_family: dict[str, dict[str, np.ndarray]] = {}
    for row in found["rows"]:
        by_family.setdefault(row["family"], {})[row["precision"]] = np.array(row["log_px"])
    for family, log_px in by_family.items():
        change = log_px["bfloat16"] - log_px["full"]
        cells = (
            f"{log_px['full'].mean():.3f}",
            f"{log_px['bfloat16'].mean():.3f}",
            f"{change.mean():+.3f} ± {estimators.standard_error(change):.3f}",
            f"{log_px['full'].std(ddof=1):.3f}",
        )
        lines.append(f"| {family} | {' | '.join(cells)} |")
    how = (
        f"{found['backend']}, {found['dataset']['name']}, {len(found['seeds'])} seeds, {found['steps']:,} steps with the KL "
        f"warm-up in their first third, `standard` otherwise. log p(x): validation, nats, K = {found['samples']:,}, the same "
        f"{found['images']:,} images for every run; both precisions are evaluated as they were trained. "
        f"Trained at commit {reports.commits(found['run_commits'])}."
    )
    return [*lines, "", how, ""]
