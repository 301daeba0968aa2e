"""`results` says every number of its records, to a terminal and to files that pandas reads in one line."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import environment, per_image, presets, records
from common.config import Config
from tests.outputs.test_sweeps import run

LATER = {"by_samples": {"samples": [1, 10], "log_px": [-96.0, -90.0], "log_px_se": [0.5, 0.25]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run with a number of samples, an older one, and one that failed."""
    finished = run(learning_rate=3e-4, seed=1)
    finished["test"] |= LATER
    finished["environment"] |= {"versions": {"jax": "0.10.2"}, "threads": {"cores": 2, "variables": {"OMP_NUM_THREADS": "1"}}}
    older = run(-80, backend="pytorch")
    del older["test"]["by_samples"], older["timing"]["warning"]
    failed = run(seed=2) | {"status": "failed", "reason": 'Ended,\nit "says".'}
    failed["test"] = dict.fromkeys(failed["test"])
    for record in (finished, older, failed):
        records.write(record, tmp_path / "results")
    return tmp_path / "results"


def rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main(["results", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_every_setting_and_number_of_a_record_is_in_its_row(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(folder, capsys)
    assert len({tuple(row) for row in found}) == 1, "the same columns in every row"
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", column) for column in found[0])
    for row, (path, record) in zip(found, records.found(folder).items(), strict=True):
        settings = presets.flat(Config.from_dict(record["config"]))
        assert row["image_shape"] == "x".join(map(str, settings.pop("image_shape")))
        assert {name: row[name] for name in settings} == settings
        for section in ("timing", "test"):
            numbers = {name: value for name, value in record[section].items() if name not in ("by_samples", "per_image")}
            assert {name: row[f"{section}_{name}"] for name in numbers} == numbers
        assert (row["file"], row["factors"], row["status"]) == (str(path), record["precision"], record["status"])
        assert row["dataset_sha256"] == "ab"
    by_seed = {row["seed"]: row for row in found}
    assert (by_seed[1]["test_log_px_at_1"], by_seed[1]["test_log_px_se_at_10"]) == (-96.0, 0.25)
    assert by_seed[1]["environment_versions_jax"] == "0.10.2"
    assert by_seed[1]["environment_threads_variables_omp_num_threads"] == "1"
    assert by_seed[1]["changed"] == "learning-rate 0.0003"
    assert by_seed[0]["test_log_px_at_1"] is None
    assert by_seed[2]["reason"] == 'Ended,\nit "says".'


def same(cell: Any, value: Any) -> bool:
    """CSV knows no types: an absent text is no number, and a text "1" is the number."""
    if pandas.isna(cell):
        return value in (None, "")
    return bool(cell == (float(value) if isinstance(value, str) and not isinstance(cell, str) else value))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pandas_reads_it_in_one_line(folder: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = rows(folder, capsys)
    path = folder / f"runs.{ending}"
    assert main(["results", str(folder), "--output", str(path)]) == 0
    table = pandas.read_csv(path) if ending == "csv" else pandas.read_parquet(path)
    assert list(table.columns) == list(expected[0])
    for (_, row), wanted in zip(table.iterrows(), expected, strict=True):
        for column, value in wanted.items():
            assert same(row[column], value), column
    means = table.query("status == 'ok'").groupby("learning_rate")["test_log_px"].mean()
    assert means.to_dict() == {3e-4: -90.0, 1e-3: -80.0}


def test_the_pages_lines_of_python_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (environment.ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    table, images = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert main(["results", str(folder), "--output", str(folder / "runs.csv")]) == 0
    monkeypatch.chdir(folder)
    exec(table, {})
    record = run()
    arrays = {name: np.arange(20)[::-1] for name in per_image.ARRAYS}
    written = per_image.write(arrays, record, folder=folder / "results")["file"]
    exec(images.replace("NAME.npz", written), {})
    assert main(["results", str(folder), "--output", str(folder / "runs.json")]) == 0
    assert pandas.read_json("runs.json")["seed"].tolist() == pandas.read_csv("runs.csv")["seed"].tolist()


def test_formats_go_to_stdout_as_they_are(folder: Path) -> None:
    def printed(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "benchmarks", "results", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    assert pandas.read_parquet(io.BytesIO(printed("--parquet"))).shape[0] == 3
    assert printed("--csv").count(b"\n") == 5, "a line a run, and one within a reason"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_a_folder_whose_name_is_not_utf_8_is_a_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder.rename(folder.with_name(os.fsdecode(b"caf\xe9")))
    assert main(["results", str(folder), "--csv"]) == 2
    assert "isn't UTF-8" in capsys.readouterr().err


def test_by_default_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "quick, digits, mean-field"
    assert re.search(r"^jax +0.0003 +1 +ok", printed, re.MULTILINE)
    assert 'seed 2: failed: Ended, it "says".' in printed


def test_folders_and_single_records_are_rows_of_one_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = records.write(run(-70), folder.parent / "other")
    assert main(["results", str(folder), str(path), str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("results", str(folder), str(path.parent))) for line in lines) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "There is no record or folder absent"),
        (["results/model.h5"], "results/model.h5 is no record"),
        (["."], "The folder . has no record"),
        (["results", "--output", "runs.txt"], "end the name in one of these"),
        (["results", "--output", "runs"], "end the name in one of these"),
    ],
)
def test_what_cannot_be_shown_is_said(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder / "model.h5").write_bytes(b"")
    assert main(["results", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_pyarrow_parquet_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["results", str(folder), "--parquet", "--output", str(folder / "runs.parquet")]) == 2
    assert "environments/extras.txt" in capsys.readouterr().err
    assert not (folder / "runs.parquet").exists()
