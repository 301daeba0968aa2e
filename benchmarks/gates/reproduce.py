"""`python -m benchmarks reproduce`: run a published table's rows again, and say which differ by more than their error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import checks, records, runs
from benchmarks.harness.cli import DataDir, installed, parse
from benchmarks.harness.jobs import Job
from benchmarks.harness.record_schema import Record
from benchmarks.harness.records import RECORDS
from benchmarks.outputs import published, terminal
from benchmarks.outputs.table import Table, number
from common.config import Config, Device
from common.errors import UserError

# How far, in nats of test log p(x), two runs of one setting and one seed may differ: with a learning rate that ends at 0, and
# with another one, under which the parameters still move at the end.
#
# On one machine with one set of versions both runs are equal. Elsewhere float32 sums are taken in another order, training
# amplifies the difference over thousands of steps, and the models are as far apart as those of two seeds. The standard error
# over images isn't counted, since both are scored on the same images. The noise of the K importance samples averages out over
# the images to far less than these bounds.
SETTLED, MOVING = 0.3, 1.0

COLUMNS = (
    *("family", "backend", "preset", "seed", "old log p(x)", "new log p(x)", "difference", "allowed"),
    *("old examples/s", "new examples/s", "verdict"),
)


@dataclass(frozen=True)
class Comparison:
    """A row's verdict; `difference` is new − old test log p(x), nats. Without a difference there is a reason."""

    agrees: bool
    verdict: str
    difference: float | None = None
    reason: str | None = None


def tolerance(record: Record) -> float:
    """How far a new run's log p(x) may lie from the record's, nats. The record's schedule decides, not its preset."""
    return SETTLED if record["config"]["optimizer"]["schedule"] == "cosine" else MOVING


def compare(old: Record, new: Record) -> Comparison:
    """Whether a new run's test log p(x) is the old one's, within `tolerance`; the speed isn't judged.

    Failed runs don't agree, nor do runs of other data, settings or test images. A setting that the old record lacks is ignored.
    """
    if new["status"] != "ok":
        return Comparison(False, new["status"], reason=new["reason"])
    after = _settings(new)
    for name, value in _settings(old).items():
        if after.get(name) != value:
            return Comparison(False, "another run", reason=f"{name} was {value}, is {after.get(name)}")
    if old["test"]["log_px"] is None or new["test"]["log_px"] is None:
        return Comparison(False, "no figure", reason="there is no log p(x) to compare")
    difference = new["test"]["log_px"] - old["test"]["log_px"]
    if difference == 0:
        return Comparison(True, "identical", difference)
    agrees = abs(difference) <= tolerance(old)
    return Comparison(agrees, "within error" if agrees else "differs", difference)


def _settings(record: Record) -> dict[str, Any]:
    """The settings that a result depends on: "config.model.latent_size", "dataset.sha256" and so on → value."""
    settings = {"dataset.sha256": record["dataset"]["sha256"]}
    settings |= {f"test.{name}": record["test"].get(name) for name in ("images", "importance_samples")}
    for name, value in record["config"].items():
        section = {f".{key}": each for key, each in value.items()} if isinstance(value, dict) else {"": value}
        settings |= {f"config.{name}{key}": each for key, each in section.items()}
    return settings


def reproduce(
    name: str,
    *,
    device: str,
    results: Path,
    run: Callable[[Record], Record],
    records_dir: Path = RECORDS,
    console: Console | None = None,
) -> int:
    """Run each finished record of a published table on this device again, write the new records into `results`, print both.

    stderr names the backends whose rows are left out, since they aren't installed here.

    `run` maps a record to that of a new run of its backend, data set, preset, seed and config. A row whose run raises
    `UserError` (its framework can't be imported, say) doesn't agree, and the others still run.

    Returns the exit code: 1 if any row doesn't agree, else 0. Raises `UserError` for an unknown table, one without a finished
    record, `results` that is the folder of the records, and where none of the backends is installed.
    """
    console = console or Console()
    if results.resolve() == records_dir.resolve():
        raise UserError(f"{results} holds the records to compare with; give another folder as --results.")
    rows = published.rows(name, records.read_all(records_dir))
    olds = [record for record in rows if (record["status"], record["device"]) == ("ok", device)]
    if not olds:
        raise UserError(
            f"The table '{name}' has no record of a finished run on '{device}' in {records_dir}; nothing to repeat."
        )
    there = installed(dict.fromkeys(record["backend"] for record in olds))
    left_out = [record for record in olds if record["backend"] not in there]
    olds = [record for record in olds if record["backend"] in there]
    cells: list[list[str]] = []
    reasons: list[str] = []
    agree = 0
    for old in olds:
        try:
            new = run(old)
            records.write(new, results)
        except UserError as error:
            new = old | {"status": "not-run", "reason": str(error), "timing": {}, "test": {}}
        comparison = compare(old, new)
        agree += comparison.agrees
        labels = [old["variational"], old["backend"], old["preset"], str(old["seed"])]
        scores = [number(record["test"].get("log_px"), ".3f") for record in (old, new)]
        judged = [number(comparison.difference, "+.3f"), number(tolerance(old), ".1f")]
        speeds = [number(record["timing"].get("examples_per_s"), ",.0f") for record in (old, new)]
        cells.append([*labels, *scores, *judged, *speeds, comparison.verdict])
        if comparison.reason:
            reasons.append(
                f"{old['backend']} {old['variational']}, seed {old['seed']}: {comparison.verdict}: {comparison.reason}"
            )
    left = ("family", "backend", "preset", "verdict")
    table = Table(columns=COLUMNS, rows=cells, left=left, title=f"{name}, run again")
    said = f"{agree} of {len(olds)} rows agree" + (f"; {len(left_out)} left out." if left_out else ".")
    terminal.page([table, "\n".join([*reasons, said])], console)
    return 0 if agree == len(olds) else 1


@dataclass
class Reproduce:
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"One of {', '.join(published.TABLES)}.")]
    device: Annotated[Device, tyro.conf.arg(help="Run the rows that were measured on this device.")] = "cpu"
    data_dir: DataDir = None
    results: Annotated[Path, tyro.conf.arg(help="Folder for the new records.")] = Path("results/reproduce")
    resume: Annotated[bool, tyro.conf.arg(help="Keep the folder's finished rows, and go on from its checkpoints.")] = False


def main(arguments: list[str]) -> int:
    asked = parse(Reproduce, arguments, command="reproduce", description="Run a published table's rows again and compare.")

    def again(old: Record) -> Record:
        job = Job(
            backend=old["backend"],
            preset=old["preset"],
            data=old["dataset"]["name"],
            data_dir=str(asked.data_dir) if asked.data_dir else None,
            config=Config.from_dict(old["config"]),
            results=str(asked.results),
            resume=asked.resume,
            binarize=old["dataset"]["binarize"],
        )
        checks.checked(job)
        if code := runs.in_process(job):
            raise UserError(f"The run of {job.record.name} ended with code {code}; its message stands above.")
        return records.read(job.record)

    return reproduce(asked.table, device=asked.device, results=asked.results, run=again)
