"""`python -m benchmarks prove-regress`: does `regress` pass what is unchanged in this environment, and catch what is worse?

Each trial runs `regress` in a copy of the code, as it is or with a fault. It is added to the report, so that trials in
several environments stand in one.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.gates import regress as command
from benchmarks.gates.regress import PARTS, Part
from benchmarks.gates.rows import COLUMNS
from benchmarks.harness import environment, reports
from benchmarks.harness.cli import parse
from benchmarks.harness.reports import Report
from benchmarks.outputs.tables import LABELS
from common.errors import UserError
from tests.gates import prove_compare as prove
from tests.parity import mutations
from tests.parity.mutations import Mutation

REPORT = "regress-demonstration"


@dataclass(frozen=True)
class Fault:
    """What is wrong, one text of the checkout replaced by another, and the part of `regress` that must catch it."""

    wrong: str
    part: str
    file: str
    before: str
    after: str


_log_det = next(mutation for mutation in mutations.MUTATIONS if mutation.name == "log-det-without-gate-bias-pytorch")

FAULTS = {
    "parity": Fault(f"One backend's flow is wrong: {_log_det.wrong}", "parity", _log_det.file, _log_det.before, _log_det.after),
    "quality": Fault(
        "All backends train alike, so that parity holds, at half the learning rate.",
        "quality",
        "common/schedules.py",
        "optimizer.learning_rate * 0.5 * (1 + np.cos",
        "0.5 * optimizer.learning_rate * 0.5 * (1 + np.cos",
    ),
    "speed": Fault(
        f"PyTorch waits, after each chunk, for {prove.SLOW_DOWN:.0%} of what the chunk took.",
        "speed",
        "backends/pytorch/session.py",
        "",
        "",
    ),
}
AS_IT_IS = "as-it-is"


def trial(name: str, *, parts: tuple[Part, ...], results: Path) -> dict[str, Any]:
    """Run `regress` on a copy of the code with that fault, or with none and in these parts.

    Returns its report with what was expected of it. Raises `UserError` where `regress` can't be run.
    """
    fault = FAULTS.get(name)
    with tempfile.TemporaryDirectory(prefix="vaebench-") as folder:
        root = Path(folder)
        if fault and fault.before:
            blank = {"backend": "", "scenario": "", "rung": ""}
            change = {"file": fault.file, "before": fault.before, "after": fault.after}
            mutations.mutated(Mutation(name=name, wrong=fault.wrong, **blank, **change), root)
        else:
            mutations.copied(root)
        if fault and not fault.before:
            prove.slow_down(root, "pytorch")
        arguments = ["regress", "--results", str(results.resolve())]
        arguments += ["--part", *([fault.part] if fault else parts)]
        code = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=root, check=False).returncode
    report = reports.read(command.REPORT, results) if code in (0, 1) else None
    if report is None:
        raise UserError(f"The trial {name} ended with code {code}; its message stands above.")
    # The copy isn't a git checkout: it's this one's code.
    report["environment"] |= {key: environment.describe()[key] for key in ("commit", "dirty")}
    return {"trial": name, "wrong": fault.wrong if fault else None, "right": code == int(fault is not None), **report}


def main(arguments: list[str]) -> int:
    @dataclasses.dataclass
    class Prove:
        trial: Annotated[
            tuple[str, ...], tyro.conf.arg(help=f"One or more of {', '.join([AS_IT_IS, *FAULTS])}; all by default.")
        ] = (AS_IT_IS, *FAULTS)
        part: Annotated[tuple[Part, ...], tyro.conf.arg(help=f"What {AS_IT_IS} runs.")] = PARTS
        results: Annotated[Path, tyro.conf.arg(help="Folder of the report, to which the trials are added.")] = Path("results")

    asked = parse(Prove, arguments, command="prove-regress", description="Put `regress` to the test in this environment.")
    for name in asked.trial:
        if name not in (AS_IT_IS, *FAULTS):
            raise UserError(f"There is no trial '{name}'; choose from {', '.join([AS_IT_IS, *FAULTS])}.")
    right = True
    for name in asked.trial:
        with tempfile.TemporaryDirectory() as folder:
            found = trial(name, parts=asked.part, results=Path(folder))
        earlier = reports.read(REPORT, asked.results)
        reports.write(REPORT, {"trials": [*(earlier["trials"] if earlier else []), found]}, asked.results)
        print(f"{name}: {'as it should be' if found['right'] else 'WRONG'}, exit code {found['code']}", flush=True)
        right &= found["right"]
    return 0 if right else 1


def markdown(report: Report) -> str:
    """The report's block in docs/regress.md: the whole table of each run without a fault, a line a fault."""
    lines = []
    for found in report["trials"]:
        if found["wrong"] is None:
            lines += [*(f"{line}  " for line in command.heading(found)), f"Exit code {found['code']}.", ""]
            lines.append(f"| {' | '.join(COLUMNS)} |")
            lines.append(f"| {' | '.join('---' if column in LABELS else '---:' for column in COLUMNS)} |")
            lines += [f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in command.cells(found)]
            lines.append("")
    lines += ["| fault | part | red rows | exit code | the sentence | commit |", "| --- | --- | ---: | ---: | --- | --- |"]
    for found in report["trials"]:
        if found["wrong"] is not None:
            red = [row for row in found["rows"] if row["reason"]]
            sentence = (command.first_reason(found) or "-").replace("|", "&#124;")
            count = f"{len(red)} of {len(found['rows'])}"
            commit = reports.commit(found["environment"])
            lines.append(f"| {found['wrong']} | {found['trial']} | {count} | {found['code']} | {sentence} | {commit} |")
    lines += ["", f"{reports.machine(report['environment'], setting='cpu, float32')}."]
    return "\n".join(lines) + "\n"
