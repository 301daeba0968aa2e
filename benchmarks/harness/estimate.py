"""How long runs will take, by records of earlier runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import checks, floor, records
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from common import checkpoints
from common.config import Config, check_settings
from common.errors import UserError
from common.parameters import multiplications

SAME = ("backend", "variational", "preset", "device", "precision")  # of a record by which a run's time is judged


def known(folder: Path) -> list[Record]:
    """The timed records of the folder, then the committed ones, without other files and networks that this checkout lacks."""
    found = []
    for path in [*sorted(folder.glob("[!.]*.json")), *sorted(records.RECORDS.glob("*.json"))]:
        try:
            record = records.read(path)
            check_settings(Config.from_dict(record["config"]))
        except UserError:
            continue
        if record["status"] == "ok" and record["timing"]["examples_per_s"] and record["timing"]["evaluation_s"]:
            found.append(record)
    return found


def seconds(job: Job, *, of: Sequence[Record], test_images: int, steps_left: int) -> float | None:
    """Seconds of importing, compiling, training and testing; None where no record of `of` agrees with the job in SAME.

    The training of the record whose step has the nearest FLOP is scaled, by FLOP and steps; the test of the record whose test
    has the nearest FLOP, by FLOP.
    """
    blank = job.blank(dataset=None)
    alike = [record for record in of if all(record[key] == blank[key] for key in SAME)]
    if not alike:
        return None
    step = floor.flop(job.config)
    steps = [floor.flop(Config.from_dict(record["config"])) for record in alike]
    nearest = _nearest(step, steps)
    timing = alike[nearest]["timing"]
    batch = alike[nearest]["config"]["training"]["batch_size"]
    before = sum(timing[key] or 0.0 for key in ("import_s", "setup_s", "placement_s", "compile_s"))
    training = steps_left * batch / timing["examples_per_s"] * step / steps[nearest]
    evaluation = job.config.evaluation
    test = _test_flop(job.config, samples=evaluation.samples, images=evaluation.images or test_images)
    tests = [
        _test_flop(
            Config.from_dict(record["config"]), samples=record["test"]["importance_samples"], images=record["test"]["images"]
        )
        for record in alike
    ]
    nearest = _nearest(test, tests)
    return float(before + training + alike[nearest]["timing"]["evaluation_s"] * test / tests[nearest])


def _nearest(value: float, others: Sequence[float]) -> int:
    """The place of the number of `others` whose ratio to the value is nearest to 1; of equals the first."""
    return min(range(len(others)), key=lambda i: abs(math.log(value / others[i])))


def _test_flop(config: Config, *, samples: int, images: int) -> float:
    products = floor.forward(config.model, batch=1, samples=samples).values()
    return images * sum(2.0 * multiplications(product) for product in products)


@dataclass(frozen=True)
class Planned:
    """A run before it begins."""

    job: Job
    state: checks.RunState
    seconds: float | None  # that it will take, 0 where it is done; None where nothing is known


def planned(jobs: Sequence[Job], *, test_images: int) -> list[Planned]:
    """The jobs of one results folder, which `checks.checked` has accepted, with what is left of them."""
    earlier = known(Path(jobs[0].results))
    result = []
    for i, job in enumerate(jobs):
        state, done = checks.state(job), 0
        if state == "resumable":
            done = int(checkpoints.load(job.checkpoint).state["step"])
        elif job.resume and job.checkpoint in {other.checkpoint for other in jobs[:i]}:
            done = job.config.training.steps  # another job of these trains the model
        left = seconds(job, of=earlier, test_images=test_images, steps_left=job.config.training.steps - done)
        result.append(Planned(job, state, 0.0 if state == "done" else left))
    return result


def total(found: Sequence[Planned]) -> str:
    """The time of all runs in words."""
    left = [one for one in found if one.state != "done"]
    times = [one.seconds for one in left if one.seconds is not None]
    if not left:
        return "all done"
    if not times:
        return "time unknown, no earlier run to judge by"
    unknown = len(left) - len(times)
    return f"about {words(sum(times))} by earlier runs' times" + (f", and {unknown} of unknown time" if unknown else "")


def words(seconds: float) -> str:
    """ "40 s", "7 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
