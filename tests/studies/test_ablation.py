"""The variants, the data that they are judged on, faulty code beside right code, resuming, and the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import checks, records, reports, runs
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import flat, preset
from benchmarks.outputs import markdown
from benchmarks.studies import ablation
from benchmarks.studies.ablation import AS_IT_IS, EQUAL_TO, GROUPS
from common import data
from common.errors import UserError
from tests.parity.mutations import MUTATIONS

VARIANTS = ablation.variants()


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    dataset = data.load("binarized-digits", data_dir=None, binarize=None)
    ablation.on_validation(dataset, images=20, path=tmp_path / "validation.h5")
    return tmp_path / "validation.h5"


# --- the variants ---


def test_every_difference_between_two_scripts_is_in_a_group() -> None:
    """But for the budget, which is the ablation's own."""
    grouped = {setting for settings in GROUPS.values() for setting in settings} | {"steps", "validation_interval"}
    for base, other in EQUAL_TO.items():
        ours, theirs = flat(preset(base)), flat(preset(other))
        assert {name for name in ours if ours[name] != theirs[name]} <= grouped


@pytest.mark.parametrize(("base", "other"), EQUAL_TO.items())
def test_a_variant_changes_one_group_and_all_of_them_make_the_other_script(base: str, other: str) -> None:
    members = [v for v in VARIANTS.values() if v.base == base and v.variational == "mean-field" and v.fault is None]
    ours, theirs = flat(preset(base)), flat(preset(other))
    first, *singles, every = members
    assert (first.settings, every.name) == ({}, "all")
    for variant in singles:
        assert variant.settings
        assert variant.settings.keys() <= set(GROUPS[variant.name])
        assert all(ours[name] != value == theirs[name] for name, value in variant.settings.items())
    grouped = {setting for settings in GROUPS.values() for setting in settings}
    result = flat(preset(base).replace(**every.settings))
    assert {name for name in result if result[name] != theirs[name]}.isdisjoint(grouped)


def test_every_fault_is_a_mutation_of_its_backend() -> None:
    faults = [variant for variant in VARIANTS.values() if variant.fault]
    assert len(faults) == len(ablation.FAULTS)
    for variant in faults:
        (mutation,) = (mutation for mutation in MUTATIONS if mutation.name == variant.mutation)
        assert mutation.backend == variant.backend


# --- the runs ---


def test_the_judges_are_validation_images(held_out: Path) -> None:
    whole, judged = (
        data.load("binarized-digits", data_dir=None, binarize=None),
        data.load(str(held_out), data_dir=None, binarize=None),
    )
    assert np.array_equal(judged.train, whole.train)
    assert np.array_equal(judged.valid, whole.valid)
    places = {image.tobytes(): i for i, image in enumerate(whole.valid)}
    chosen = [places[image.tobytes()] for image in judged.test]
    assert len(set(chosen)) == 20
    assert chosen != list(range(20))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, str | None]]:
    """Runs whose own code says log p(x) -2 and this checkout's -1; the list has each run's job and the flow's code."""
    asked: list[tuple[Job, str | None]] = []

    def work(job: Job, *, folder: Path) -> int:
        faulty = folder != ablation.ROOT
        asked.append((job, None if not faulty else (folder / f"backends/{job.backend}/flow.py").read_text()))
        blank = checks.checked(job).blank(dataset=job.dataset())
        test = blank["test"] | {"log_px": -2.0, "log_px_se": 0.5, "elbo": -3.0}
        environment = {"commit": None if faulty else "this"}
        records.write(
            blank | {"status": "ok", "reason": None, "test": test, "environment": blank["environment"] | environment},
            Path(job.results),
        )
        job.checkpoint.with_suffix(".weights").write_text("weights")  # in place of a checkpoint
        return 0

    def ask(target: str, question: Any, *, title: str, folder: Path | None = None) -> Any:
        if target.endswith(":judged"):
            assert Job.from_json(question).checkpoint.with_suffix(".weights").exists()
            return {"log_px": -1.0, "log_px_se": 0.5, "elbo": -3.0}
        assert target.endswith(":clock")
        faulty = folder != ablation.ROOT
        assert len(question) == 1 if faulty else len(question) > 3
        return [{"step_s": [1.0, 2.0], "floor_s": [0.5, 1.0]}] * len(question)

    monkeypatch.setattr(runs, "in_process", work)
    monkeypatch.setattr(ablation.processes, "ask", ask)
    return asked


def test_faulty_code_trains_and_claims_and_right_code_judges_its_weights(
    tmp_path: Path, workers: list[tuple[Job, str | None]]
) -> None:
    small = ["--data", "binarized-digits", "--images", "20", "--samples", "25", "--steps", "4", "--results", str(tmp_path)]
    assert main(["study", "ablation", *small]) == 0
    report = reports.read("ablation", tmp_path)
    assert report is not None
    assert report["run_commits"] == ["this"], "a copy has no commit"
    for row in report["rows"]:
        assert row["claimed_log_px"] == [-2.0] * 2
        assert row["log_px"] == ([-1.0] * 2 if row["mutation"] else [-2.0] * 2)
        assert row["floor_ratio"] == 2
    assert len(workers) == 2 * len(VARIANTS) == 2 * len(report["rows"])
    faulty = [(job, code) for job, code in workers if code is not None]
    assert len(faulty) == 2 * len(ablation.FAULTS)
    assert {"flip(z, 0)" in code for job, code in faulty if "reversal" in job.preset} == {True}
    for job, _ in workers:
        assert (job.config.training.steps, job.config.evaluation.samples) == (4, 25)

    workers.clear()
    points, kept = sorted((tmp_path / "points").glob("*mean-field*")), [*(tmp_path / "runs").glob("*.json")]
    points[0].unlink()
    kept[0].unlink()
    assert main(["study", "ablation", *small, "--resume"]) == 0
    assert workers == [], "a finished run's record is enough, or its point"
    for path in points[1:]:
        path.unlink()
    assert main(["study", "ablation", *small, "--resume"]) == 0
    assert len(workers) == 1


def test_the_judge_tests_the_weights_of_the_checkpoint(tmp_path: Path, held_out: Path) -> None:
    asked = ablation.Arguments(steps=2, samples=25, results=tmp_path)
    job = ablation.job_of(
        VARIANTS["ancestor-pytorch mean-field as it is"],
        asked,
        seed=0,
        dataset=data.load(str(held_out), data_dir=None, binarize=None),
    )
    record = runs.run(job, import_s=0.0)
    judged = ablation.judged(job.as_json())
    assert judged == {name: record["test"][name] for name in judged}


def test_the_clock_times_each_job_in_turns(tmp_path: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "ROUNDS", 2)
    monkeypatch.setattr(ablation, "ROUND_STEPS", 3)
    turns: list[int] = []

    class Watched(ablation.Bench):
        def case(self, kind: str, batch: int, *, steps: int | None = None) -> Any:
            case = super().case(kind, batch, steps=steps)
            assert (kind, batch, case.steps) == ("train", 128, 3)

            def work() -> None:
                turns.append(self.config.model.hidden_size)
                case.work()

            return dataclasses.replace(case, work=work)

    monkeypatch.setattr(ablation, "Bench", Watched)
    asked = ablation.Arguments(results=tmp_path)
    members = [VARIANTS[f"ancestor-pytorch mean-field {name}"] for name in (AS_IT_IS, "width")]
    dataset = data.load(str(held_out), data_dir=None, binarize=None)
    jobs = [ablation.job_of(variant, asked, seed=0, dataset=dataset) for variant in members]
    found = ablation.clock([job.as_json() for job in jobs])
    assert turns == [256, 512] * 3, "the first compiles"
    for seconds in found:
        assert len(seconds["step_s"]) == len(seconds["floor_s"]) == 2
        assert min(seconds["step_s"] + seconds["floor_s"]) > 0


# --- the table ---


def test_the_table_sets_each_row_against_its_script_seed_by_seed() -> None:
    figures: dict[str, Any] = {
        "elbo": [],
        "claimed_elbo": [],
        "log_px_se": [0.5],
        "examples_per_s_iqr": 1.0,
        "floor_ratio": 1.5,
    }

    def row(
        change: str, log_px: list[float], *, speed: float, mutation: str | None = None, claimed: float = 0.0
    ) -> dict[str, Any]:
        labels = {"base": "ancestor-jax", "backend": "jax", "variational": "flow", "change": change, "mutation": mutation}
        return figures | labels | {"log_px": log_px, "claimed_log_px": [claimed], "examples_per_s": speed}

    rows = [
        row(AS_IT_IS, [-100.0, -102.0], speed=1000.0),
        row("decay", [-99.0, -103.0], speed=500.0),
        row("bug", [-120.0, -121.0], speed=1000.0, mutation="bug-jax", claimed=-80.0),
    ]
    environment = {"machine": None, "threads": None, "commit": None, "versions": None}
    report = {"environment": environment, "dataset": {"name": "binarized-mnist"}, "steps": 10, "seeds": [0, 1], "images": 500}
    text = markdown.page(ablation.parts(report | {"samples": 100, "run_commits": ["a" * 40], "rows": rows}))
    assert "Judged at commit aaaaaaaaaaaa." in text
    first, decay, bug = text.splitlines()[2:5]
    assert "| -101.00 |  |  | 1,000 (1) | 1.00 | 1.50 |" in first
    assert "| -101.00 | +0.00 (-1.00 … +1.00) |  | 500 (1) | 0.50 |" in decay
    assert "| -120.50 | -19.50 (-20.00 … -19.00) | -80.00 |" in bug


@pytest.mark.parametrize("name", ["images", "samples"])
def test_one_image_or_sample_whose_errors_are_unknown_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--{name} is 1"):
        ablation.check(ablation.Arguments(**{name: 1}))
