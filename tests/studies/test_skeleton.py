"""What every study does, on the least study there is: points, resumption, report, figure, and refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.commands import tables
from benchmarks.harness import cli, environment, reports
from benchmarks.studies import skeleton
from common.errors import UserError
from common.protocol import BACKENDS
from tests.studies import tiny


@pytest.fixture
def asked() -> list[int]:
    """The numbers that were measured."""
    return []


@pytest.fixture
def study(asked: list[int]) -> Any:
    """The study, its points measured in this process."""

    def run(point: skeleton.Point) -> skeleton.Result:
        asked.extend(point["number"])
        return tiny.measure(point)

    return types.SimpleNamespace(**vars(tiny), run=run)


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--results", str(folder), *(() if "--backend" in more else ("--backend", "jax")), *more]


def test_each_point_has_a_process_and_the_report_a_table_and_a_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert skeleton.main(tiny, arguments(tmp_path, "--number", "3", "2")) == 0
    report = reports.read("tiny", tmp_path)
    assert report is not None
    assert [(row["number"], row["square"], row["resume"]) for row in report["rows"]] == [(3, 9, False), (2, 4, False)]
    assert len({os.getpid(), *(row["process"] for row in report["rows"])}) == 3
    out, err = capsys.readouterr()
    assert out.splitlines() == ["number  square", "     3       9", "     2       4", "", "That is all."]
    assert "1 of 2: 3_jax" in err
    assert (tmp_path / "tiny.png").read_text() == "2 numbers"


def test_a_process_that_fails_is_named_and_what_was_measured_before_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="process of -1_jax ended with code 2"):
        skeleton.main(tiny, arguments(tmp_path, "--number", "2", "-1", "3"))
    assert [path.name for path in tmp_path.rglob("*.*")] == ["2_jax.json"]


def test_relative_data_is_found_by_the_points_process(tmp_path: Path, study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(kw_only=True)
    class Arguments(tiny.Arguments, skeleton.DataArguments):
        """With a data set."""

    seen = []

    def plan(asked: Any) -> dict[str, skeleton.Point]:
        seen.append((asked.data, asked.data_dir))
        return tiny.plan(asked)

    study.Arguments, study.plan = Arguments, plan
    monkeypatch.chdir(tmp_path)
    assert skeleton.main(study, arguments(tmp_path / "results", "--data", "mine.npz", "--data-dir", "digits")) == 0
    assert seen == [(str(tmp_path / "mine.npz"), tmp_path / "digits")]


def test_a_stopped_study_goes_on_with_its_points(
    tmp_path: Path, study: Any, asked: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert skeleton.main(study, arguments(tmp_path, "--limit", "0")) == 1
    assert "--resume goes on" in capsys.readouterr().err
    assert asked == []
    assert list(tmp_path.iterdir()) == []

    def measured(*more: str) -> list[int]:
        asked.clear()
        assert skeleton.main(study, arguments(tmp_path, *more)) == 0
        return list(asked)

    assert measured() == [1, 2, 3]
    assert measured() == [1, 2, 3], "not asked to resume"
    assert measured("--resume") == []
    path = tmp_path / "points" / "2_jax.json"
    path.unlink()
    assert measured("--resume") == [2]

    kept = json.loads(path.read_text())
    for key, other in (("number", [7]), ("commit", "another"), ("versions", {}), ("machine", {"cpu": "another"})):
        path.write_text(json.dumps(kept | {"of": kept["of"] | {key: other}}))
        capsys.readouterr()
        assert measured("--resume") == [2], key
        assert f"{path} is of another {key}: measured anew." in capsys.readouterr().err
    report = reports.read("tiny", tmp_path)
    assert report is not None
    assert [(row["square"], row["resume"]) for row in report["rows"]] == [(1, False), (4, True), (9, False)]

    for damaged in ("{", "[]", "{}"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"2_jax.json can't be read"):
            skeleton.main(study, arguments(tmp_path, "--resume"))


def test_a_study_may_keep_the_points_of_other_commits(tmp_path: Path, study: Any, asked: list[int]) -> None:
    study.ACROSS = ("commit",)
    assert skeleton.main(study, arguments(tmp_path)) == 0
    path = tmp_path / "points" / "2_jax.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"of": kept["of"] | {"commit": "another"}}))
    (tmp_path / "points" / "3_jax.json").unlink()
    asked.clear()
    assert skeleton.main(study, arguments(tmp_path, "--resume")) == 0
    assert asked == [3]
    report = reports.read("tiny", tmp_path)
    assert report is not None
    now = reports.commit(report["environment"])
    assert [row["commit"] for row in report["rows"]] == [now, "another", now]
    path.write_text(json.dumps(kept | {"of": kept["of"] | {"commit": "another", "versions": {}}}))
    assert skeleton.main(study, arguments(tmp_path, "--resume")) == 0
    assert asked == [3, 2]


def test_a_point_that_has_a_reason_for_no_result_is_measured_anew(tmp_path: Path, study: Any, asked: list[int]) -> None:
    assert skeleton.main(study, arguments(tmp_path)) == 0
    path = tmp_path / "points" / "2_jax.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"result": kept["result"] | {"reason": "no luck"}}))
    asked.clear()
    assert skeleton.main(study, arguments(tmp_path, "--resume")) == 0
    assert asked == [2]


def test_where_a_figure_lacks_points_the_report_is_written_without_it(
    tmp_path: Path, study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(report: Any, path: Path) -> None:
        raise UserError("The report lacks the number 7.")

    study.draw = draw
    assert skeleton.main(study, arguments(tmp_path)) == 0
    assert "No figure: The report lacks the number 7." in capsys.readouterr().err
    assert reports.read("tiny", tmp_path)


def test_the_environment_is_the_one_before_measuring(
    tmp_path: Path, study: Any, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a commit is made, and load comes, while it measures."""
    monkeypatch.setattr(environment, "head", lambda: (f"commit after {len(asked)}", False))
    monkeypatch.setattr(environment, "load", lambda: float(len(asked)))
    assert skeleton.main(study, arguments(tmp_path)) == 0
    report = reports.read("tiny", tmp_path)
    assert report is not None
    assert report["environment"]["commit"] == "commit after 0"
    assert (report["environment"]["load"], report["environment"]["load_after"]) == (0, 3)
    assert report["environment"]["commit_after"] == "commit after 3"


def test_a_gpus_points_report_and_figure_replace_no_cpus(tmp_path: Path, study: Any) -> None:
    assert skeleton.main(study, arguments(tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert skeleton.main(study, arguments(tmp_path, "--device", "cuda", "--number", "5")) == 0
    assert {path: path.read_bytes() for path in before} == before
    new = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} - {str(p.relative_to(tmp_path)) for p in before}
    assert new == {"tiny-cuda.json", "tiny-cuda.png", "points-cuda/5_jax.json"}


def test_a_missing_framework_leaves_the_others_measured(
    tmp_path: Path, study: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def described(name: str) -> tuple[dict[str, Any] | None, str]:
        return (None, "JAX can't be imported.") if name == "jax" else ({"devices": ["cpu"]}, "")

    monkeypatch.setattr(cli, "described", described)
    assert skeleton.main(study, ["--results", str(tmp_path), "--number", "2"]) == 0
    assert {path.stem for path in (tmp_path / "points").iterdir()} == {f"2_{name}" for name in BACKENDS if name != "jax"}
    assert "jax is left out: JAX can't be imported." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--backend", "nothing"), "no backend 'nothing'"),
        (("--number",), "--number is empty"),
        (("--limit", "nan"), "--limit is nan"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_point(
    tmp_path: Path, study: Any, asked: list[int], wrong: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        skeleton.main(study, arguments(tmp_path, *wrong))
    assert (asked, list(tmp_path.iterdir())) == ([], [])


def test_a_bound_that_is_no_number_is_refused_before_any_point(
    tmp_path: Path, study: Any, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(skeleton.cores.WITHIN, "near")
    with pytest.raises(UserError, match=skeleton.cores.WITHIN):
        skeleton.main(study, arguments(tmp_path))
    assert (asked, list(tmp_path.iterdir())) == ([], [])


def test_a_figure_is_drawn_again(
    tmp_path: Path, study: Any, asked: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default the committed report's, into docs/figures; else that of the results folder."""
    monkeypatch.setattr(reports, "REPORTS", tmp_path / "committed")
    monkeypatch.setattr(skeleton, "FIGURES", tmp_path)
    with pytest.raises(UserError, match="no report 'tiny'"):
        skeleton.main(study, ["--draw"])
    assert skeleton.main(study, arguments(tmp_path / "committed")) == 0
    asked.clear()
    (tmp_path / "committed" / "tiny.png").unlink()
    assert skeleton.main(study, ["--draw"]) == 0
    assert (tmp_path / "tiny.png").read_text() == "3 numbers"
    assert skeleton.main(study, arguments(tmp_path / "committed", "--draw")) == 0
    assert (tmp_path / "committed" / "tiny.png").exists()
    assert asked == []
    del study.draw
    with pytest.raises(UserError, match="tiny has no figure"):
        skeleton.main(study, ["--draw"])


def test_studies_are_found_by_their_files_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in skeleton.names():
        assert any(line.split()[:1] == [name] for line in lines), name
    assert main(["study", "nothing"]) == main(["study"]) == 2
    assert all("growth" in line for line in capsys.readouterr().err.splitlines())
    assert skeleton.blocks().keys() <= tables.BLOCKS.keys()
