"""The variants, the data that they are judged on, faulty code beside right code, resuming, and the table."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness import records, runs
from benchmarks.harness.presets import preset
from benchmarks.studies import ablation
from benchmarks.studies.ablation import AS_IT_IS, EQUAL_TO, GROUPS, Ablation, Variant
from common import data
from tests.parity.mutations import MUTATIONS

VARIANTS = ablation.variants()


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    dataset = data.load("binarized-digits", data_dir=None)
    return ablation.on_validation(dataset, images=20, path=tmp_path / "validation.h5")


def job(variant: Variant, held_out: Path, folder: Path, *, resume: bool = False) -> runs.Job:
    asked = Ablation(steps=4, samples=25, resume=resume)
    return ablation.job_of(variant, asked, seed=0, data=held_out, image_shape=(8, 8), results=folder)


def named(name: str, base: str) -> Variant:
    (found,) = (v for v in VARIANTS if (v.name, v.base) == (name, base) and not (name == AS_IT_IS and v.variational == "flow"))
    return found


# --- the variants ---


def test_every_difference_between_two_scripts_is_in_a_group() -> None:
    """But for the budget, which is the ablation's own."""
    grouped = {setting for settings in GROUPS.values() for setting in settings} | {"steps", "validation_interval"}
    for base, other in EQUAL_TO.items():
        ours, theirs = ablation.flat(preset(base)), ablation.flat(preset(other))
        assert {name for name in ours if ours[name] != theirs[name]} <= grouped


@pytest.mark.parametrize(("base", "other"), EQUAL_TO.items())
def test_a_variant_changes_one_group_and_all_of_them_make_the_other_script(base: str, other: str) -> None:
    members = [v for v in VARIANTS if v.base == base and v.variational == "mean-field" and v.fault is None]
    ours, theirs = ablation.flat(preset(base)), ablation.flat(preset(other))
    first, *singles, every = members
    assert (first.settings, every.name) == ({}, "all")
    for variant in singles:
        assert variant.settings
        assert variant.settings.keys() <= set(GROUPS[variant.name])
        assert all(ours[name] != value == theirs[name] for name, value in variant.settings.items())
    grouped = {setting for settings in GROUPS.values() for setting in settings}
    result = ablation.flat(preset(base).replace(**every.settings))
    assert {name for name in result if result[name] != theirs[name]}.isdisjoint(grouped)


def test_every_fault_is_a_mutation_of_its_backend() -> None:
    faults = [variant for variant in VARIANTS if variant.fault]
    assert len(faults) == len(ablation.FAULTS)
    for variant in faults:
        (mutation,) = (mutation for mutation in MUTATIONS if mutation.name == variant.mutation)
        assert mutation.backend == variant.backend


# --- the runs ---


def test_the_judges_are_validation_images(held_out: Path) -> None:
    whole, judged = data.load("binarized-digits", data_dir=None), data.load(str(held_out), data_dir=None)
    assert np.array_equal(judged.train, whole.train)
    assert np.array_equal(judged.valid, whole.valid)
    places = {image.tobytes(): i for i, image in enumerate(whole.valid)}
    chosen = [places[image.tobytes()] for image in judged.test]
    assert len(set(chosen)) == 20
    assert chosen != list(range(20))


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[runs.Job, str | None]]:
    """Workers that write a record of log p(x) -1 in this checkout, -2 in another; the list has each job and its flow."""
    asked: list[tuple[runs.Job, str | None]] = []

    def work(job: runs.Job, *, folder: Path | None) -> int:
        asked.append((job, None if folder is None else (folder / f"backends/{job.backend}/flow.py").read_text()))
        blank = job.blank(dataset=runs.checked(job))
        test = blank["test"] | {"log_px": -1.0 if folder is None else -2.0}
        records.write(blank | {"status": "ok", "reason": None, "test": test}, Path(job.results))
        job.checkpoint.write_bytes(b"weights")
        return 0

    monkeypatch.setattr(runs, "in_process", work)
    return asked


def test_faulty_code_trains_and_claims_and_right_code_judges_its_weights(
    tmp_path: Path, held_out: Path, workers: list[tuple[runs.Job, str | None]]
) -> None:
    variant = named("reversal-on-sample-axis", "ancestor-jax")
    own, judged = ablation.run(variant, job(variant, held_out, tmp_path))
    assert (own["test"]["log_px"], judged["test"]["log_px"]) == (-2, -1)
    (first, faulty), (second, right) = workers
    assert faulty is not None
    assert "flip(z, 0)" in faulty
    assert right is None
    assert (first.resume, second.resume) == (False, True)
    assert second.config == first.config
    assert second.checkpoint != first.checkpoint
    assert second.checkpoint.read_bytes() == b"weights"


def test_what_is_there_is_not_run_again(tmp_path: Path, held_out: Path, workers: list[tuple[runs.Job, str | None]]) -> None:
    for name, base in ((AS_IT_IS, "ancestor-pytorch"), ("analytic-kl", "ancestor-tensorflow")):
        variant = named(name, base)
        workers.clear()
        ablation.run(variant, job(variant, held_out, tmp_path))
        count = len(workers)
        ablation.run(variant, job(variant, held_out, tmp_path, resume=True))
        assert len(workers) == count
        ablation.run(variant, job(variant, held_out, tmp_path))
        assert len(workers) == 2 * count, "not asked to resume"
        count = len(workers)
        ablation.run(variant, dataclasses.replace(job(variant, held_out, tmp_path, resume=True), config=preset("quick")))
        assert len(workers) > count, "other settings"


def test_the_clock_times_each_job_in_turns(tmp_path: Path, held_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "ROUNDS", 2)
    monkeypatch.setattr(ablation, "ROUND_STEPS", 3)
    turns: list[int] = []
    round_of = ablation.Clock.round

    def watched(clock: ablation.Clock) -> None:
        turns.append(clock.config.model.hidden_size)
        round_of(clock)

    monkeypatch.setattr(ablation.Clock, "round", watched)
    jobs = [job(named(name, "ancestor-pytorch"), held_out, tmp_path) for name in (AS_IT_IS, "width")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps([job.as_json() for job in jobs])))
    assert ablation.speed_worker([str(tmp_path / "speed.json")]) == 0
    assert turns == [256, 512] * 3, "the first compiles"
    measured = json.loads((tmp_path / "speed.json").read_text())
    assert measured["configs"] == [job.config.as_dict() for job in jobs]
    for seconds in measured["seconds"]:
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
    text = ablation.table(
        {
            "environment": environment,
            "dataset": {"name": "binarized-mnist"},
            "steps": 10,
            "seeds": [0, 1],
            "images": 500,
            "samples": 100,
            "run_commits": ["a" * 40],
            "rows": rows,
        }
    )
    assert "Judged at commit aaaaaaaaaaaa." in text
    first, decay, bug = text.splitlines()[2:5]
    assert "| -101.00 |  |  | 1,000 (1) | 1.00 | 1.50 |" in first
    assert "| -101.00 | +0.00 (-1.00 … +1.00) |  | 500 (1) | 0.50 |" in decay
    assert "| -120.50 | -19.50 (-20.00 … -19.00) | -80.00 |" in bug
