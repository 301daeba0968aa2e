"""Runs in bfloat16: their label, their evaluation in full; and the command that measures what it gains and costs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import record_names, records, runs, turns
from benchmarks.harness.jobs import Job
from benchmarks.harness.turns import What
from benchmarks.outputs import cells, markdown
from benchmarks.outputs.table import Table
from benchmarks.studies import bfloat16
from common import checkpoints
from common.errors import UserError

TINY = ("--latent-size", "2", "--hidden-size", "8", "--steps", "40", "--validation-interval", "20", "--samples", "30")
LOW = ("--precision", "bfloat16")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(job: Job, *, folder: Path | None = None, heard: Any = None) -> int:
        return runs.worker(job.as_json())

    monkeypatch.setattr(runs, "in_process", work)


def run(folder: Path, *arguments: str) -> int:
    return main(["run", "--backend", "pytorch", "--variational", "mean-field", *TINY, "--results", str(folder), *arguments])


def test_a_run_in_bfloat16_is_labelled_resumed_as_such_and_judged_in_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *LOW) == run(tmp_path) == 0
    low, full = sorted(records.read_all(tmp_path), key=lambda record: str(record["precision"]))
    assert record_names.name_of(low).endswith("_binarized-digits_pytorch_mean-field_cpu_bfloat16_seed0.json")
    assert record_names.name_of(full).endswith("_binarized-digits_pytorch_mean-field_cpu_float32_seed0.json")
    assert (low["config"]["dtype"], low["config"]["precision"]) == ("float32", "bfloat16")
    assert 0 < abs(low["test"]["log_px"] - full["test"]["log_px"]) < 0.5
    assert low["timing"]["floor_s"] > 0
    (table, *_) = cells.page([low, full])
    assert isinstance(table, Table)
    assert (table.columns[0], [row[0] for row in table.rows]) == ("precision", ["bfloat16", "float32"])

    (path,) = tmp_path.glob("*_bfloat16_*.h5")
    assert {value.dtype.name for name, value in checkpoints.load(path).state.items() if name != "step"} == {"float32"}
    capsys.readouterr()
    printed = []
    for precision in ((), LOW, ("--precision", "full")):
        assert main(["evaluate", str(path), *precision]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2], "what was trained is judged, unless asked otherwise"
    for arguments, words in (
        (
            ("run", "--from", str(path), "--precision", "full", "--results", str(tmp_path / "new")),
            "precision bfloat16, not full",
        ),
        (("run", "--dtype", "float64", *LOW, "--results", str(tmp_path)), "--precision bfloat16 is for --dtype float32"),
    ):
        assert main([*arguments]) == 2
        assert words in capsys.readouterr().err


def test_the_command_measures_pairs_and_seeds_and_goes_on_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[What] = []

    class Stand:
        """A side that takes 32 ms a call of 16 steps in full, and half of that in bfloat16."""

        def __init__(self, root: Path, what: What, *, floor_too: bool, waiting: Mapping[str, str]):
            assert not waiting, "as in a run"
            self.what = what
            started.append(what)

        def answer(self) -> str:
            return "ready"

        def turn(self) -> dict[str, float]:
            return {self.what.kind: 0.032 if self.what.precision == "full" else 0.016}

        def __enter__(self) -> Stand:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(turns, "Side", Stand)
    trips = itertools.cycle([300.0, 900.0, 300.0, 310.0])  # a pair whose cores ended far apart is measured again
    monkeypatch.setenv(bfloat16.cores.WITHIN, "400")
    monkeypatch.setattr(bfloat16.cores, "round_trip", lambda: next(trips))
    monkeypatch.setattr(bfloat16, "STANDARD", bfloat16.STANDARD.replace(latent_size=2, hidden_size=8))
    asked = ("study", "bfloat16", "--backend", "pytorch", "--pairs", "2", "--seed", "3", "4", "--steps", "20", "--images", "30")
    asked += ("--data", "binarized-digits", "--results", str(tmp_path))
    assert main([*asked, "--limit", "0"]) == 1
    assert "--resume goes on" in capsys.readouterr().err
    assert main([*asked, "--resume"]) == 0
    assert [(what.kind, what.precision) for what in started[:2]] == [("train", "full"), ("train", "bfloat16")]
    report = json.loads((tmp_path / "bfloat16.json").read_text())
    assert len(started) == 2 * 2 * 2 * len(report["speed"])
    for row in report["speed"]:
        assert row["full_ms"] == pytest.approx([2.0, 2.0])
        assert row["ratio"] == pytest.approx([2.0, 2.0])
        assert row["round_trips_ns"] == [300.0, 310.0] * 2
    low, full = sorted(report["quality"]["rows"], key=lambda row: str(row["precision"]))
    assert [len(row["log_px"]) for row in (low, full)] == [2, 2]
    assert low["log_px"] != full["log_px"]
    started.clear()
    (tmp_path / "points" / "train_flow_pytorch_1.json").unlink()
    assert main([*asked, "--resume"]) == 0
    assert [str(what) for what in started] == ["train flow 128 pytorch bfloat16", "train flow 128 pytorch"] * 2


def test_the_table_has_medians_over_pairs_and_differences_by_seed() -> None:
    speed: dict[str, Any] = {"kind": "train", "family": "flow", "batch": 128, "backend": "jax"}
    speed |= {"full_ms": [9.0, 10.0, 14.0], "bfloat16_ms": [5.0, 6.0, 7.0], "ratio": [1.5, 1.75, 2.0]}
    speed["round_trips_ns"] = [300.0, 390.0]
    quality: dict[str, Any] = {"backend": "pytorch", "dataset": {"name": "binarized-mnist"}, "seeds": [0, 1], "steps": 10}
    quality |= {"images": 500, "samples": 100, "run_commits": ["a" * 40, "b" * 40]}
    rows = [
        {"family": "flow", "precision": "full", "log_px": [-100.0, -102.0]},
        {"family": "flow", "precision": "bfloat16", "log_px": [-100.1, -102.3]},
    ]
    environment = {"machine": None, "threads": None, "commit": None, "versions": None}
    report = {"environment": environment, "turns": 8, "speed": [speed], "quality": quality | {"rows": rows}}
    text = markdown.page(bfloat16.parts(report))
    assert "| a step | flow | jax | 10.00 | 6.00 | 1.75 (1.50 … 2.00) |" in text
    assert "Trained at commit aaaaaaaaaaaa, bbbbbbbbbbbb." in text
    assert "| flow | -101.000 | -101.200 | -0.200 ± 0.100 | 1.414 |" in text
    assert "Medians over 3 pairs" in text
    assert "Beside the pairs, a byte's round trip between two cores 300 to 390 ns." in text


@pytest.mark.parametrize(("flag", "value"), [("--pairs", "-1"), ("--turns", "0")])
def test_what_cannot_be_measured_is_refused(flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "bfloat16", flag, value, "--results", str(tmp_path / "results")]) == 2
    assert f"{flag} is {value}; it must be at least" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["images", "samples"])
def test_one_image_or_sample_whose_errors_are_unknown_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name} is 1"):
        bfloat16.check(bfloat16.Arguments(**{name: 1}))
