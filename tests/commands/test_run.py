"""The grid of `run`: what it refuses, which jobs it arrives at, what it says of them; and a real sweep."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import checks, environment, estimate, flags, floor, record_names, record_schema, records, runs
from benchmarks.harness.grid import Grid, grid_of
from benchmarks.harness.jobs import Job
from benchmarks.harness.presets import PRESETS, flat
from common import files
from common.config import SECTIONS, Config
from common.errors import UserError

SETTINGS = [name for names in SECTIONS.values() for name in names if name != "image_shape"] + ["dtype", "precision", "device"]


def grid(*arguments: str) -> Grid:
    return grid_of(flags.asked_of(list(arguments)))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Backend → the exit code of its runs, which `run` would start; one of 0 leaves a record."""
    codes: dict[str, int] = {}

    def work(job: Job, **_: Any) -> int:
        if codes.get(job.backend, 0) == 0:
            records.write(job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}, Path(job.results))
        return codes.get(job.backend, 0)

    monkeypatch.setattr(runs, "in_process", work)
    return codes


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--backend theano", "theano"),
        ("--backend pytorch theano", "theano"),
        ("--variational laplace", "laplace"),
        ("--data binarized-cats", "binarized-cats"),
        ("--data absent.h5", "absent.h5"),
        ("--data binarized-mnist --data-dir absent", "absent"),
        ("--learning-rates 1", "--learning-rates"),
        ("--pixels 3", "--pixels"),
        ("--preset fast", "fast"),
        ("--preset fast --help", "fast"),
        ("--preset", "--preset"),
        ("--steps many", "many"),
        ("--steps", "--steps"),
        ("--steps 0", "--steps"),
        ("--samples 0", "--samples"),
        ("--n_samples=0", "--samples"),
        ("--batch-size 1198", "1197"),
        ("--images 301", "300"),
        ("--seed -1", "--seed"),
        ("--learning-rate nan", "--learning-rate is nan"),
        ("--learning-rate inf", "a finite number, 0 or more"),
        ("--adam-epsilon 0", "above 0"),
        ("--rmsprop-epsilon inf", "--rmsprop-epsilon"),
        ("--ema-decay 1", "--ema-decay"),
        ("--dtype float16", "float16"),
        ("--device tpu", "tpu"),
        ("--seed", "--seed has no value"),
        ("--backend --steps 10", "--backend has no value"),
        ("--backend jax jax", "--backend names one twice"),
        ("--seed 1 0 1", "--seed names one twice"),
        ("--learning-rate 1e-3 0.001", "--learning-rate names one twice"),
        ("--preset quick quick", "--preset names one twice"),
        ("--preset quick fast", "There is no preset 'fast'"),
        ("--steps 100 0", "--steps is 0"),
        ("--data-bias maybe", "maybe"),
        ("--compile-from 10 20 --steps 5", "Two of the runs would be the same, quick+steps5_"),
        ("--config absent.toml", "Cannot read the settings file absent.toml"),
        ("stray", "stray"),
    ],
)
def test_run_refuses(refused: Callable[..., str], tmp_path: Path, arguments: str, words: str) -> None:
    assert words in refused("run", *arguments.split(), f"--results={tmp_path / 'results'}")


# --- the jobs ---


def test_every_setting_is_a_flag_with_its_help_and_the_presets_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    for name, config in PRESETS.items():
        with pytest.raises(SystemExit) as end:
            main(["run", "--preset", name, "--help-all"])
        assert end.value.code == 0
        text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
        fields = [
            (field, getattr(owner, field.name))
            for owner in (*(getattr(config, section) for section in SECTIONS), config)
            for field in dataclasses.fields(owner)
            if "help" in field.metadata
        ]
        assert {field.name for field, _ in fields} == set(SETTINGS)
        for field, value in fields:
            assert f"--{field.name.replace('_', '-')}" in text
            if field.name not in ("variational", "seed"):  # their help says more
                shown = str(value).lower() if isinstance(value, bool) else value
                assert f"{field.metadata['help']} (default: {shown})" in text


def test_every_flag_is_under_one_heading_and_rare_ones_come_last() -> None:
    grouped = [name for names in flags.GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped)
    assert {*SETTINGS} <= {*grouped}
    assert {*flags.MAIN} <= {*grouped}
    assert list(flags.GROUPS) == ["what", "length", "model", "optimizer", "evaluation", "where", "output", "rare"]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("spelling", ["--preset {}", "--preset={}", "--preset quick --preset {}"])
def test_without_other_flags_the_config_is_the_presets(jobs: list[Job], tmp_path: Path, name: str, spelling: str) -> None:
    assert main(["run", *spelling.format(name).split(), "--results", str(tmp_path)]) == 2
    assert jobs[0].config == PRESETS[name].replace(image_shape=(8, 8))
    assert (jobs[0].preset, jobs[0].data, jobs[0].resume) == (name, "binarized-digits", False)


@pytest.mark.parametrize("setting", [name for name in SETTINGS if name not in ("variational", "seed", "network")])
def test_a_flag_changes_its_setting_and_no_other(jobs: list[Job], tmp_path: Path, setting: str) -> None:
    owners = [getattr(Config(), section) for section in SECTIONS] + [Config()]
    default = next(getattr(owner, setting) for owner in owners if hasattr(owner, setting))
    choices = {"optimizer": "rmsprop", "schedule": "constant", "initial_weights": "glorot", "noise": "shared"}
    choices |= {"prior": "flow", "decayed": "weights", "devices": 2}
    choices |= {"selection": "best-validation", "dtype": "float64", "precision": "bfloat16", "device": "cuda"}
    flag = f"--{setting.replace('_', '-')}"
    if isinstance(default, bool):
        value: object = not default
        arguments = [flag if value else f"--no{flag[1:]}"]
    else:
        value = choices.get(setting, 0.5 if isinstance(default, float) else 3)
        arguments = [flag, str(value)]
    # Choices with which every setting is read.
    first = {"optimizer": "rmsprop" if setting.startswith("rmsprop") else "adam", "variational": "flow"}
    first |= {"network": "resnet", "prior": "flow"}
    choices_made = [text for name, value in first.items() if name != setting for text in (f"--{name}", value)]
    assert main(["run", "--preset", "standard", "--results", str(tmp_path), *choices_made, *arguments]) == 2
    assert jobs[0].config == Config().replace(image_shape=(8, 8), **first | {setting: value})


def test_each_seed_family_and_backend_is_a_run_with_a_record_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Job] = []
    monkeypatch.setattr(runs, "in_process", lambda job, **_: started.append(job) or 1)
    assert main(["run", "--seed", "3", "5", "--backend", "jax", "pytorch", "--results", str(tmp_path)]) == 1
    asked = {(job.config.training.seed, job.config.model.variational, job.backend) for job in started}
    assert asked == {
        (seed, family, name) for seed in (3, 5) for family in ("mean-field", "flow") for name in ("jax", "pytorch")
    }
    assert len(records.read_all(tmp_path)) == len(started) == 8
    for job in started:
        assert Job.from_json(json.dumps(json.loads(job.as_json()))) == job
        assert job.record.exists()


def test_every_setting_takes_several_values_and_the_grid_is_their_product(tmp_path: Path) -> None:
    found = grid(
        *("--backend", "jax", "pytorch", "--variational", "flow", "--seed", "0", "1", "2", "--results", str(tmp_path)),
        *("--learning-rate", "3e-4", "1e-3", "--data-bias", "true", "false", "--noise", "shared", "device"),
    )
    assert found.size == "48 runs: 2 learning rates × 2 values of data bias × 2 noises × 3 seeds × 2 backends"
    assert len({job.record for job in found.jobs}) == len({job.checkpoint for job in found.jobs}) == 48
    varied = {
        (job.backend, *(flat(job.config)[name] for name in ("learning_rate", "data_bias", "noise", "seed")))
        for job in found.jobs
    }
    assert len(varied) == 48
    assert {rate for _, rate, *_ in varied} == {3e-4, 1e-3}


def test_what_is_not_given_has_each_presets_value(tmp_path: Path) -> None:
    found = grid("--preset", "quick", "standard", "--backend", "jax", "--samples", "7", "--results", str(tmp_path))
    assert [job.config for job in found.jobs] == [
        PRESETS[name].replace(variational=family, samples=7, image_shape=(8, 8))
        for name in ("quick", "standard")
        for family in ("mean-field", "flow")
    ]
    assert found.size == "4 runs: 2 presets × 2 families"


def test_what_is_kept_beside_a_run_is_asked_of_each(tmp_path: Path) -> None:
    one = ("--backend", "jax", "--variational", "flow", "--results", str(tmp_path))
    (plain,) = grid(*one).jobs
    assert (plain.keep_checkpoints, plain.pictures, plain.threads, plain.resume) == (False, False, None, False)
    for job in grid(*one, "--seed", "0", "1", "--keep-checkpoints", "--tensorboard", "--threads", "2", "--resume").jobs:
        assert (job.keep_checkpoints, job.pictures, job.threads, job.resume) == (True, True, 2, True)


@pytest.mark.parametrize(
    ("spelling", "values"),
    [
        ("--data-bias", [True]),
        ("--no-data-bias", [False]),
        ("--no_data_bias", [False]),
        ("--data-bias=false", [False]),
        ("--data_bias true false", [True, False]),
        ("--data-bias --no-data-bias", [False]),
    ],
)
def test_a_switch_is_spelled_as_a_flag_or_with_its_values(tmp_path: Path, spelling: str, values: list[bool]) -> None:
    found = grid(*spelling.split(), "--backend", "jax", "--variational", "flow", "--results", str(tmp_path))
    assert [job.config.training.data_bias for job in found.jobs] == values


def test_a_setting_that_a_model_does_not_read_makes_no_second_run_of_it(
    tmp_path: Path, jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--backend", "jax", "--flow-depth", "1", "3", "--results", str(tmp_path))
    found = grid(*arguments)
    assert [(job.config.model.variational, job.config.model.flow_depth) for job in found.jobs] == [
        ("mean-field", 2),
        ("flow", 1),
        ("flow", 3),
    ]
    assert found.size == "3 runs: 2 flow depths × 2 families, each run once"
    main(["run", *arguments])
    assert "--flow-depth changes nothing with mean-field: such runs keep 2.\n" in capsys.readouterr().err

    both = grid("--backend", "jax", "--variational", "flow", "--optimizer", "adam", "rmsprop", "--rmsprop-decay", "0.8", "0.9")
    assert [(job.config.optimizer.optimizer, job.config.optimizer.rmsprop_decay) for job in both.jobs] == [
        ("adam", 0.9),
        ("rmsprop", 0.8),
        ("rmsprop", 0.9),
    ]


def test_of_runs_that_differ_in_their_test_the_first_alone_trains(tmp_path: Path) -> None:
    found = grid("--backend", "jax", "--samples", "25", "50", "--chunk", "10", "20", "--results", str(tmp_path))
    trained = [(job.config.training.chunk, job.config.model.variational) for job in found.jobs if not job.resume]
    assert sorted(trained) == [(10, "flow"), (10, "mean-field"), (20, "flow"), (20, "mean-field")], "another chunk is timed"
    assert {job.config.evaluation.samples for job in found.jobs if job.resume} == {50}


# --- before anything runs ---


def test_a_dry_run_says_the_runs_and_their_states_and_writes_nothing(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--variational", "flow", "--results", str(tmp_path)]
    assert main([*arguments, "--backend", "jax"]) == 0
    grid(*arguments[1:], "--backend", "pytorch").jobs[0].checkpoint.touch()
    monkeypatch.setattr(checks, "refuse_overwriting", lambda *_, **__: None)
    monkeypatch.setattr(estimate.checkpoints, "load", lambda _: SimpleNamespace(state={"step": 500}))
    monkeypatch.setattr(runs, "in_process", lambda job, **_: pytest.fail("it runs"))
    before = sorted(tmp_path.iterdir())
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("3 runs: 3 backends; about ")
    rows = [line.split() for line in printed.out.splitlines() if line.endswith("_cpu_float32_seed0")]
    assert [(backend, state) for backend, state, *_ in rows] == [
        ("pytorch", "resumable"),
        ("jax", "done"),
        ("tensorflow", "new"),
    ]
    assert "Add --resume" in printed.out
    assert main([*arguments, "--dry-run", "--json"]) == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["resumable", "done", "new"]
    assert sorted(tmp_path.iterdir()) == before


def test_a_sweep_says_its_size_first_and_a_run_does_not(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "crowded", lambda *_: False)  # which is said, too
    assert main(["run", "--backend", "jax", "--seed", "1", "2", "--results", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().err.startswith("4 runs: 2 seeds × 2 families; about ")
    assert main(["run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""


def test_the_time_of_a_run_is_scaled_from_a_record_of_its_backend_family_and_preset(tmp_path: Path) -> None:
    (job,) = grid("--backend", "jax", "--variational", "flow", "--results", str(tmp_path)).jobs
    record = job.blank(dataset=None)
    record["timing"] |= {"examples_per_s": 1280.0, "evaluation_s": 7.0, "import_s": 1.0, "setup_s": 2.0, "compile_s": 3.0}
    record["test"] |= {"importance_samples": 1000, "images": 300}

    def seconds(job: Job, *, steps_left: int = 2000) -> float | None:
        return estimate.seconds(job, of=[record], test_images=300, steps_left=steps_left)

    def changed(**settings: Any) -> Job:
        return dataclasses.replace(job, config=job.config.replace(**settings))

    assert seconds(job) == pytest.approx(6 + 200 + 7), "128 images a step: a tenth of a second"
    assert seconds(job, steps_left=500) == pytest.approx(6 + 50 + 7)
    assert seconds(changed(images=30)) == pytest.approx(6 + 200 + 0.7)
    assert seconds(changed(batch_size=256)) == pytest.approx(6 + 400 + 7)
    larger = changed(hidden_size=1024)
    factor = floor.flop(larger.config) / floor.flop(job.config)
    assert 30 < factor < 64, "all layers but the pixels' grow by 8² = 64"
    (before, grown) = (
        sum(m * k * n for m, k, n in floor.forward(model, batch=1, samples=1000).values())
        for model in (job.config.model, larger.config.model)
    )
    assert seconds(larger) == pytest.approx(6 + 200 * factor + 7 * grown / before)
    short = job.blank(dataset=None) | {"timing": record["timing"] | {"evaluation_s": 1.0}}
    short["test"] |= {"importance_samples": 10, "images": 300}
    mixed = estimate.seconds(job, of=[short, record], test_images=300, steps_left=2000)
    assert mixed == pytest.approx(6 + 200 + 7), "a short test's fixed time isn't multiplied"
    for stranger in (dataclasses.replace(job, preset="standard"), dataclasses.replace(job, backend="pytorch")):
        assert seconds(stranger) is None
    assert seconds(changed(variational="mean-field")) is None
    assert seconds(changed(device="cuda")) is None


def test_a_time_that_nothing_is_known_of_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.json").write_text("mine")
    backends = ["--variational", "flow", "--results", str(tmp_path)]
    assert main(["run", "--dry-run", "--preset", "ancestor-jax", "--backend", "pytorch", "tensorflow", *backends]) == 0
    assert "2 runs: 2 backends; time unknown, no earlier run to judge by." in capsys.readouterr().out
    assert main(["run", "--dry-run", "--preset", "ancestor-jax", "--backend", "jax", "--seed", "0", "1", *backends[2:]]) == 0
    assert re.search(r"about .* by earlier runs' times, and 2 of unknown time\.", capsys.readouterr().out)


def test_a_record_of_a_network_that_this_checkout_lacks_is_no_obstacle(tmp_path: Path) -> None:
    record = json.loads(next(records.RECORDS.glob("quick_*_jax_flow_*.json")).read_text())
    record["config"]["model"]["network"] = "deep"
    (tmp_path / "deep.json").write_text(json.dumps(record))
    assert main(["run", "--dry-run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5400, "1 h 30 min")],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert estimate.words(seconds) == words


# --- the same run again ---


def test_the_same_run_again_is_refused_and_with_resume_skipped(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--variational", "flow", "--results", str(tmp_path)]
    assert main([*arguments, "--backend", "jax"]) == 0
    name = "quick_binarized-digits_jax_flow_cpu_float32_seed0.json"
    before = (tmp_path / name).read_bytes()
    started: list[str] = []
    work = runs.in_process
    monkeypatch.setattr(runs, "in_process", lambda job, **_: started.append(job.backend) or work(job))
    capsys.readouterr()
    assert main([*arguments, "--backend", "pytorch", "jax"]) == 2
    printed = capsys.readouterr()
    assert printed.err == (
        f"{tmp_path / name} is there already: add --resume to keep it and run the rest (with make: ARGS=--resume), "
        "or --results FOLDER to run it anew, in another folder.\n"
    )
    assert (printed.out, started) == ("", [])
    assert main([*arguments, "--backend", "pytorch", "jax", "--resume"]) == 0
    assert started == ["pytorch"]
    assert (tmp_path / name).read_bytes() == before
    assert main([*arguments, "--backend", "jax", "--seed", "1"]) == 0, "another run"


def test_a_run_that_was_stopped_is_not_begun_anew_over_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = grid("--backend", "jax", "--variational", "flow", "--results", str(tmp_path)).jobs
    job.checkpoint.touch()
    with pytest.raises(UserError, match=r"seed0.h5 has this model's training: add --resume to go on from it \(with"):
        checks.refuse_again(job)
    checks.refuse_again(dataclasses.replace(job, resume=True))


def test_a_failed_run_is_run_again(tmp_path: Path, ended: dict[str, int]) -> None:
    arguments = ["run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path)]
    ended["jax"] = -9
    assert main(arguments) == 1
    ended["jax"] = 0
    assert main(arguments) == 0
    assert [record["status"] for record in records.read_all(tmp_path)] == ["ok"]


# --- how it ends ---


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((code, "failed") for code in (-9, 1, 2, 3, runs.SILENT)),
        *((code, "not-run") for code in (runs.REFUSED, runs.UNAVAILABLE)),
    ],
)
def test_a_run_that_fails_is_a_row_and_the_sweep_goes_on(
    tmp_path: Path, ended: dict[str, int], capsys: pytest.CaptureFixture[str], code: int, status: str
) -> None:
    ended["pytorch"] = code
    arguments = ["--backend", "pytorch", "jax", "--variational", "flow", "--results", str(tmp_path)]
    assert main(["run", *arguments]) == (1 if status == "failed" else 2)
    printed = capsys.readouterr().out
    assert re.search(rf"pytorch +{status}\b", printed)
    assert re.search(r"jax +ok\b", printed)
    kept = {record["backend"]: record["status"] for record in records.read_all(tmp_path)}
    assert kept == {"jax": "ok"} | ({"pytorch": status} if status == "failed" else {})


@pytest.mark.parametrize("earlier", [False, True])
def test_a_process_that_ends_without_a_record_has_failed(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], earlier: bool
) -> None:
    """An earlier run's record isn't shown as this one's."""
    arguments = ["run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path)]
    if earlier:
        ended["jax"] = -9
        assert main(arguments) == 1
    monkeypatch.setattr(runs, "in_process", lambda job, **_: 0)
    capsys.readouterr()
    assert main(arguments) == 1
    (record,) = records.read_all(tmp_path)
    assert record["reason"] == "jax: its process ended with code 0 and wrote no record."
    assert "wrote no record" in capsys.readouterr().out


def test_a_failed_run_has_the_last_lines_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*(f"line {number}" for number in range(50)), "\x1b[31m" + "x" * 2000, "", "  the end\r"]

    def end(job: Job, *, heard: Callable[[dict[str, str]], None]) -> int:
        for line in lines:
            heard({"kind": "said", "text": line})
        return -11

    monkeypatch.setattr(runs, "in_process", end)
    assert main(["run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path)]) == 1
    (record,) = records.read_all(tmp_path)
    assert record["reason"] == "jax: its process ended with code -11: the end"
    assert len(record["tail"]) == record_schema.TAIL_LINES
    assert record["tail"][0] == "line 32"
    assert record["tail"][-2] == "?[31m" + "x" * (record_schema.TAIL_CHARACTERS - 5)
    assert record["tail"][-1] == "  the end"
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 0
    assert "line 32\nline 33" in (tmp_path / "page.html").read_text()


def test_a_record_holds_however_its_process_ended_afterwards(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder was full at the end, or a framework crashed when it was taken down."""

    def work(job: Job, **_: object) -> int:
        records.write(job.blank(dataset=job.dataset()) | {"status": "ok", "reason": None}, tmp_path)
        return 139

    monkeypatch.setattr(runs, "in_process", work)
    assert main(["run", "--backend", "jax", "--variational", "flow", "--results", str(tmp_path)]) == 0
    (record,) = records.read_all(tmp_path)
    assert record["status"] == "ok"


def test_the_end_says_where_the_files_are_and_what_to_type(
    tmp_path: Path, ended: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my results"
    assert main(["run", "--backend", "jax", "--results", str(folder)]) == 0
    *_, where, report, show = capsys.readouterr().out.splitlines()
    assert where == f"Records and checkpoints are in {folder}."
    assert report.startswith(f"python -m benchmarks report '{folder}' ")
    assert show.startswith(f"python -m benchmarks show '{folder}' ")


def test_a_stopped_sweep_shows_its_finished_runs(
    tmp_path: Path, ended: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = runs.in_process

    def stop(job: Job, **_: Any) -> int:
        if job.backend == "jax":
            raise KeyboardInterrupt
        return work(job)

    monkeypatch.setattr(runs, "in_process", stop)
    assert main(["run", "--variational", "flow", "--results", str(tmp_path)]) == 130
    printed = capsys.readouterr()
    assert "pytorch" in printed.out
    assert "jax" not in printed.out
    assert printed.err.endswith("Stopped; --resume goes on from here.\n")


def test_quiet_prints_nothing_and_json_the_records_alone(
    tmp_path: Path, ended: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    ended["pytorch"] = -9
    arguments = ["run", "--backend", "jax", "pytorch", "--flow-depth", "1", "2"]
    assert main([*arguments, "--quiet", "--results", str(tmp_path / "quiet")]) == 1
    assert capsys.readouterr() == ("", "")
    assert main([*arguments, "--json", "--results", str(tmp_path / "json")]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert sorted(printed, key=record_names.name_of) == sorted(records.read_all(tmp_path / "json"), key=record_names.name_of)
    assert {record["status"] for record in printed} == {"ok", "failed"}


# --- settings files ---


def test_a_settings_file_holds_any_flag_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        "# a comment\n"
        f'preset = "standard"\nbackend = ["jax"]\nvariational = "flow"\nlearning-rate = [3e-4, 1]\nlatent_size = 4\n'
        f'data-bias = [true, false]\nresume = true\nresults = "{tmp_path}"\nnoise = "shared"\n'
    )
    found = grid("--config", str(file)).jobs
    assert [(job.config.optimizer.learning_rate, job.config.training.data_bias) for job in found] == [
        (3e-4, True),
        (3e-4, False),
        (1, True),
        (1, False),
    ]
    same = {"latent_size": 4, "noise": "shared", "variational": "flow", "image_shape": (8, 8)}
    assert found[2].config == PRESETS["standard"].replace(learning_rate=1.0, **same)
    assert (found[2].resume, found[2].results, found[2].backend) == (True, str(tmp_path), "jax")
    over = grid("--config", str(file), "--learning-rate", "0.5", "--no-data-bias", "--no-resume", "--preset", "quick").jobs
    assert len(over) == 1
    assert over[0].config == PRESETS["quick"].replace(learning_rate=0.5, data_bias=False, **same)
    assert not over[0].resume


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning-rates = 1", "has 'learning-rates', which isn't a flag it can hold; see run --help-all. Did you mean learn"),
        ("config = 'other.toml'", "has 'config', which isn't a flag it can hold"),
        ("dry-run = true", "has 'dry-run'"),
        ("steps = 'many'", "'steps' in the settings file {} is \"many\"; it must be a whole number."),
        ("steps = 1.5", "is 1.5; it must be a whole number"),
        ("steps = [10, true]", "is true; it must be a whole number"),
        ("steps = []", "'steps' in the settings file {} has no value"),
        ("learning-rate = '0.1'", "it must be a number"),
        ("optimizer = 'sgd'", "it must be one of adam, rmsprop"),
        ("data-bias = 1", "it must be true or false"),
        ("resume = [true]", "'resume' in the settings file {} is a list; it must be true or false."),
        ("seed = 2026-01-01", "'seed' in the settings file {} is \"2026-01-01\""),
        ("[model]\nlatent-size = 3", "has 'model'"),
        ("steps =", "The settings file {} is not TOML"),
    ],
)
def test_a_settings_file_that_is_wrong_is_a_sentence_with_its_name_and_key(
    refused: Callable[..., str], tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    said = refused("run", "--config", str(file), "--results", str(tmp_path / "results"))
    assert words.format(file) in said
    assert str(file) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--preset quick standard --seed 3 4",
        "--learning-rate 3e-4 1e-8 --latent-size 16 64 --no-data-bias --resume",
        '--backend jax --optimizer adam rmsprop --rmsprop-epsilon 1e-20 --rmsprop-centered true false --results a"b\\c',
    ],
)
def test_a_saved_settings_file_asks_for_the_same_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments.split(), "--save-config", "sweep.toml", "--dry-run"]) == 0
    assert grid("--config", "sweep.toml").jobs == grid(*arguments.split()).jobs
    keys = [line.split(" = ")[0] for line in Path("sweep.toml").read_text().splitlines()[1:]]
    given = {part[2:].removeprefix("no-") for part in arguments.split() if part.startswith("--")}
    assert sorted(keys) == sorted(given)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]


def test_a_settings_file_is_saved_whole_or_not_at_all(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    assert "Cannot write" in refused("run", "--save-config", str(tmp_path / "folder"), "--results", str(tmp_path / "results"))
    refused("run", "--steps", "0", "--save-config", str(tmp_path / "sweep.toml"), "--results", str(tmp_path / "results"))
    assert not (tmp_path / "sweep.toml").exists()


# --- a real sweep ---


def test_a_real_sweep(tmp_path: Path) -> None:
    """As a user types it: two models, each tested twice and trained once."""
    (tmp_path / "sweep.toml").write_text(
        'backend = "jax"\nvariational = "mean-field"\nlatent-size = [2, 3]\nhidden-size = 8\nsteps = 20\nchunk = 10\n'
        "log-interval = 10\nvalidation-interval = 10\nimages = 20\nsamples = [25, 50]\n"
    )
    command = [sys.executable, "-m", "benchmarks", "run", "--config", str(tmp_path / "sweep.toml"), "--json"]
    command += ["--results", str(tmp_path / "results")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 runs: 2 latent sizes × 2 values of samples; about " in done.stderr
    found = json.loads(done.stdout)
    assert [(record["config"]["model"]["latent_size"], record["test"]["importance_samples"]) for record in found] == [
        (2, 25),
        (2, 50),
        (3, 25),
        (3, 50),
    ]
    assert found[0]["curve"] == found[1]["curve"]
    assert found[0]["timing"]["steady_s"] == found[1]["timing"]["steady_s"], "the second is tested alone"
    assert len(list((tmp_path / "results").glob("*.h5"))) == 2
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == found
    assert "; all done." in again.stderr


def test_a_warm_up_longer_than_the_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = ["run", "--dry-run", "--backend", "jax", "--results", str(tmp_path)]
    assert main([*dry, "--steps", "100", "--warm-up", "100"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*dry, "--steps", "100", "--warm-up", "400"]) == 0
    assert "The KL weight only reaches 0.25, since --warm-up is 400 and --steps 100" in capsys.readouterr().err


def test_before_training_a_file_is_written_as_checkpoints_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that doesn't rename, say, or a full disk, is found before hours of training."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", refuse)
    assert main(["run", "--backend", "jax", "--results", str(tmp_path)]) == 2
    said = f"The folder {tmp_path} can't be written (No space left on device); give another as --results."
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert list(tmp_path.iterdir()) == []
