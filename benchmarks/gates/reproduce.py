"""Run a README table's rows again and say which differ from their records by more than their error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks.harness import records, runs
from benchmarks.harness.cli import parse
from benchmarks.harness.records import RECORDS, Record
from benchmarks.outputs import published, terminal
from benchmarks.outputs.table import Table, number
from common.config import Config, Device
from common.errors import UserError

# The allowed error of a row: how far, in nats of test log p(x), two runs of one setting and one seed may lie apart.
#
# On one machine with one set of versions they are equal. Elsewhere float32 sums are taken in another order, training amplifies
# the difference over thousands of steps, and the two models are as far apart as two seeds' are. Both are scored on the same
# images, so the standard error over images is common to them and isn't counted; the K importance samples' noise averages out
# over the images to far less than this.
TOLERANCE_NATS = {
    "quick": 0.3,
    "standard": 0.3,
    # Their learning rate stays constant: the parameters still move when training stops.
    "ancestor-pytorch": 1.0,
    "ancestor-jax": 1.0,
    "ancestor-tensorflow": 1.0,
}


@dataclass(frozen=True)
class Comparison:
    """A row's verdict; `difference` is the new less the old test log p(x), nats, or None, and then there is a reason."""

    agrees: bool
    verdict: str
    difference: float | None = None
    reason: str | None = None


def compare(old: Record, new: Record) -> Comparison:
    """Whether a new run's test log p(x) is the old one's, within TOLERANCE_NATS of the preset; the speed isn't judged.

    Runs that failed, or on other data, settings or test images, don't agree.
    """
    if new["status"] != "ok":
        return Comparison(False, new["status"], reason=new["reason"])
    for key in ("dataset.sha256", "test.images", "test.importance_samples", *_settings(old["config"], "config")):
        if _at(old, key) != _at(new, key):
            return Comparison(False, "another run", reason=f"{key} was {_at(old, key)}, is {_at(new, key)}")
    if old["test"]["log_px"] is None or new["test"]["log_px"] is None:
        return Comparison(False, "no figure", reason="there is no log p(x) to compare")
    difference = new["test"]["log_px"] - old["test"]["log_px"]
    if difference == 0:
        return Comparison(True, "identical", difference)
    agrees = abs(difference) <= TOLERANCE_NATS[old["preset"]]
    return Comparison(agrees, "within error" if agrees else "differs", difference)


def reproduce(
    table: str,
    *,
    device: str,
    results: Path,
    run: Callable[[Record], Record],
    records_dir: Path = RECORDS,
    console: Console | None = None,
) -> int:
    """Run each "ok" record that a README table has of this device again, write the new record into `results`, print both.

    `run` maps a record to that of a new run of its backend, data set, preset, seed and config. A row whose run raises
    `UserError` (its framework isn't installed, say) doesn't agree, and the others still run.

    Returns the exit code: 1 if any row doesn't agree, else 0. Raises `UserError` for an unknown table, one without an "ok"
    record, or `results` that is the folder of the records.
    """
    console = console or Console()
    if results.resolve() == records_dir.resolve():
        raise UserError(f"{results} holds the records to compare with; give another folder as --results.")
    rows = published.rows(table, records.read_all(records_dir))
    olds = [record for record in rows if (record["status"], record["device"]) == ("ok", device)]
    if not olds:
        raise UserError(
            f"The table '{table}' has no record of a finished run on '{device}' in {records_dir}; nothing to repeat."
        )
    lines, verdicts, reasons = [], [], []
    for old in olds:
        try:
            new = run(old)
            records.write(new, results)
        except UserError as error:
            new = old | {"status": "not-run", "reason": str(error), "timing": {}, "test": {}}
        comparison = compare(old, new)
        verdicts.append(comparison.agrees)
        if comparison.reason:
            reasons.append(
                f"{old['backend']} {old['variational']}, seed {old['seed']}: {comparison.verdict}: {comparison.reason}"
            )
        lines.append(_cells(old, new, comparison))
    left = ("family", "backend", "preset", "seed", "verdict")
    cells = [list(line.values()) for line in lines]
    terminal.show(Table(columns=list(lines[0]), rows=cells, left=left, title=f"{table}, run again"), console)
    for reason in reasons:
        console.print(reason, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{sum(verdicts)} of {len(verdicts)} rows agree.", highlight=False)
    return 0 if all(verdicts) else 1


def _cells(old: Record, new: Record, comparison: Comparison) -> dict[str, str]:
    return {
        "family": old["variational"],
        "backend": old["backend"],
        "preset": old["preset"],
        "seed": str(old["seed"]),
        "old log p(x)": number(old["test"].get("log_px"), ".3f"),
        "new log p(x)": number(new["test"].get("log_px"), ".3f"),
        "difference": number(comparison.difference, "+.3f"),
        "allowed": number(TOLERANCE_NATS[old["preset"]], ".1f"),
        "old examples/s": number(old["timing"].get("examples_per_s"), ",.0f"),
        "new examples/s": number(new["timing"].get("examples_per_s"), ",.0f"),
        "verdict": comparison.verdict,
    }


def _settings(config: dict[str, Any], place: str) -> list[str]:
    """The places of a config's settings in its record: "config.model.latent_size" and so on."""
    places = []
    for key, value in config.items():
        places += _settings(value, f"{place}.{key}") if isinstance(value, dict) else [f"{place}.{key}"]
    return places


def _at(record: Record, place: str) -> Any:
    """The value at a place, "dataset.sha256" say; None where the record lacks it."""
    value: Any = record
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Reproduce:
        table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"One of {', '.join(published.TABLES)}.")]
        device: Annotated[Device, tyro.conf.arg(help="Which rows: those that were measured there.")] = "cpu"
        data_dir: Annotated[Path | None, tyro.conf.arg(help="Folder of the binarized MNIST files.")] = None
        results: Annotated[Path, tyro.conf.arg(help="Folder for the new records.")] = Path("results/reproduce")
        resume: Annotated[bool, tyro.conf.arg(help="Keep the rows that the folder has, and go on from its checkpoints.")] = (
            False
        )

    asked = parse(Reproduce, arguments, command="reproduce", description="Run a README table's rows again and compare.")

    def again(old: records.Record) -> records.Record:
        job = runs.Job(
            backend=old["backend"],
            preset=old["preset"],
            data=old["dataset"]["name"],
            data_dir=str(asked.data_dir) if asked.data_dir else None,
            config=Config.from_dict(old["config"]),
            results=str(asked.results),
            resume=asked.resume,
        )
        runs.checked(job)
        if code := runs.in_process(job):
            raise UserError(f"The run of {job.record.name} ended with code {code}; its message stands above.")
        return records.read(job.record)

    return reproduce(asked.table, device=asked.device, results=asked.results, run=again)
