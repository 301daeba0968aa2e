"""The README's tables say what the committed records say."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.harness import records
from benchmarks.harness.presets import PRESETS
from benchmarks.outputs import tables
from common.errors import UserError

EMPTY = "# Title\n" + "".join(f"\n<!-- table: {name} -->\nold\n<!-- end table -->\ntext\n" for name in tables.TABLES)


def record(preset: str = "standard", backend: str = "jax", variational: Any = "flow", **test: Any) -> records.Record:
    """A finished run's record, on the data set of the preset's table."""
    config = PRESETS[preset].replace(variational=variational)
    dataset = "binarized-digits" if preset == "quick" else "binarized-mnist"
    made = records.blank(config, backend=backend, dataset_name=dataset, dataset_sha256="ab" * 32, preset=preset)
    made |= {"status": "ok", "reason": None, "peak_memory_bytes": 777 * 2**20}
    made["timing"] |= {"compile_s": 2.54, "steady_s": 615.0}
    made["timing"] |= {"examples_per_s": 7654.3, "examples_per_s_iqr": 321.2, "floor_ratio": 1.342}
    made["test"] |= {"elbo": -94.416, "log_px": -88.964, "log_px_se": 0.243, "images": 10_000}
    made["test"] |= {"importance_samples": 1000} | test
    return made


def not_run() -> records.Record:
    return record(backend="tensorflow") | {"status": "not-run", "reason": "No module\nnamed [tensorflow]."}


def printed(found: list[records.Record], *, terminal: bool = False, width: int = 80) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    tables.terminal(found, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_readme_agrees_with_the_committed_records() -> None:
    tables.check()


def test_what_is_written_checks_and_is_written_the_same_again(tmp_path: Path) -> None:
    readme, folder = tmp_path / "README.md", tmp_path / "records"
    readme.write_text(EMPTY)
    for preset in ("quick", "standard", "ancestor-jax"):
        records.write(record(preset), folder)
    tables.write(records_dir=folder, readme=readme)
    tables.check(records_dir=folder, readme=readme)
    text = readme.read_text()
    assert text.startswith("# Title\n\n<!-- table:")
    assert text.count("\ntext\n") == len(tables.TABLES)
    assert "old\n" not in text
    tables.write(records_dir=folder, readme=readme)
    assert readme.read_text() == text


def test_an_edited_table_and_a_changed_record_fail_the_check(tmp_path: Path) -> None:
    readme, folder = tmp_path / "README.md", tmp_path / "records"
    readme.write_text(EMPTY)
    records.write(record(), folder)
    tables.write(records_dir=folder, readme=readme)
    text = readme.read_text()
    readme.write_text(text.replace("-88.96", "-87.96"))
    with pytest.raises(UserError, match="make tables"):
        tables.check(records_dir=folder, readme=readme)
    readme.write_text(text)
    records.write(record(log_px=-88.9), folder)
    with pytest.raises(UserError, match="make tables"):
        tables.check(records_dir=folder, readme=readme)


@pytest.mark.parametrize(
    "text",
    [
        "no block",
        EMPTY.replace("table: quick", "table: quack"),
        EMPTY.replace("<!-- end table -->", "", 1),
        EMPTY + "<!-- table: quick -->\n<!-- end table -->\n",
    ],
)
def test_a_readme_without_one_block_a_table_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="blocks"):
        tables.filled(text, [])


def test_a_table_without_a_record_says_so() -> None:
    for name in tables.TABLES:
        assert tables.markdown(name, []) == "No record yet.\n"


def test_a_row_is_its_records_numbers() -> None:
    row = tables.cells(record())
    assert row["ELBO"] == "-94.42"
    assert row["log p(x) ± s.e."] == "-88.96 ± 0.24"
    assert (row["K"], row["images"], row["steps"]) == ("1,000", "10,000", "30,000")
    assert row["examples/s (IQR)"] == "7,654 (321)"
    assert (row["step / floor"], row["compile (s)"], row["train (min)"]) == ("1.34", "2.5", "10.2")
    assert row["peak (MiB)"] == "777"
    for shown in (tables.markdown("standard", [record()]), printed([record()])):
        for column in ("ELBO", "log p(x) ± s.e.", "examples/s (IQR)", "step / floor"):
            assert row[column] in shown


def test_every_number_of_a_row_follows_its_record() -> None:
    """A figure that came from elsewhere would survive a record without numbers."""
    empty = record()
    for section in ("timing", "test"):
        empty[section] = dict.fromkeys(empty[section])
    row = tables.cells(empty)
    for column in tables.RESULTS:
        assert row[column] == (tables.ABSENT if column != "steps" else "30,000")


def test_a_run_of_other_settings_is_no_published_row_and_the_terminal_says_what_differs() -> None:
    other = record()
    other["changed"] = {"steps": 3000}
    assert tables.rows("standard", [record(), other]) == [record()]
    assert "standard, binarized-mnist; changed: steps 3000" in printed([record(), other])
    assert "changed" not in printed([record()])


def test_a_table_takes_its_own_presets_on_its_own_data() -> None:
    other = record()
    other["dataset"]["name"] = "binarized-digits"
    found = [record("quick"), record("standard"), other, record("ancestor-jax", "jax"), record("ancestor-jax", "pytorch")]
    assert tables.rows("quick", found) == found[:1]
    assert tables.rows("standard", found) == found[1:2]
    assert tables.rows("ancestor", found) == found[3:4]
    with pytest.raises(UserError, match="choose from"):
        tables.rows("fast", found)


def test_families_are_together_and_the_order_of_records_is_nothing() -> None:
    found = [record(backend=b, variational=f) for f in ("flow", "mean-field") for b in ("tensorflow", "jax", "pytorch")]
    ordered = [(r["variational"], r["backend"]) for r in tables.in_order(found)]
    assert ordered == [(f, b) for f in ("mean-field", "flow") for b in ("pytorch", "jax", "tensorflow")]
    assert tables.markdown("standard", found) == tables.markdown("standard", found[::-1])


def test_seeds_are_shown_where_there_are_several() -> None:
    assert "| seed |" not in tables.markdown("standard", [record()])
    assert "| seed |" in tables.markdown("standard", [record(), record() | {"seed": 1}])


def test_the_ancestor_table_says_what_the_old_readme_reports() -> None:
    found = [record(preset, backend) for preset, backend in tables.ANCESTORS.items()]
    table = tables.markdown("ancestor", found)
    pytorch, jax, tensorflow = (line for line in table.splitlines() if line.startswith("| flow"))
    assert "-101.64 / -95.33 (150,000 steps, K 128)" in pytorch
    assert "-106.80 / -97.62 (30,000 steps, K 1,000)" in jax
    assert tensorflow.endswith("| - |")
    assert "the flow is this suite's" in table


def test_the_readme_names_where_each_row_was_measured() -> None:
    here, there, elsewhere = record(backend="pytorch"), record(), record(backend="tensorflow")
    for made, cpu, commit in ((here, "EPYC", "a"), (there, "EPYC", "b"), (elsewhere, "Xeon", "b")):
        made["environment"] = {"machine": {"cpu": cpu, "memory_bytes": 2**33}, "threads": {"cores": 2}, "commit": commit * 40}
        made["environment"] |= {"versions": {"numpy": "2.4.6"}, "dirty": commit == "b"}
    machine = "EPYC; 2 cores; 8.0 GiB; cpu, float32; numpy 2.4.6."
    table = tables.markdown("standard", [here, there])
    commits = "Commit aaaaaaaaaaaa (pytorch flow); bbbbbbbbbbbb with uncommitted changes (jax flow)."
    assert f"- Every row: {machine} {commits}" in table
    assert f"- Every row: {machine} Commit aaaaaaaaaaaa." in tables.markdown("standard", [here])
    table = tables.markdown("standard", [here, there, elsewhere])
    assert f"- pytorch flow, jax flow: {machine} {commits}" in table
    assert "- tensorflow flow: Xeon; 2 cores;" in table
    assert "On a GPU: not measured." in table


def test_the_rows_that_spread_widely_are_named() -> None:
    calm, wide = record(backend="pytorch"), record()
    wide["timing"] |= {"examples_per_s": 1000.0, "examples_per_s_iqr": 250.0}
    assert "more than 10% of their median: jax flow 25%." in tables.markdown("standard", [calm, wide])
    assert "more than 10%" not in tables.markdown("standard", [calm])


def test_how_far_apart_the_cores_were_is_said_where_it_is_known() -> None:
    before, without = record(backend="pytorch"), record()
    before["environment"] |= {"round_trip_ns": 270.0, "round_trip_after_ns": 512.0}
    without["environment"] |= {"round_trip_ns": None}
    assert "- At both ends of training, a byte's round trip between two cores 270 to 512 ns." in tables.markdown(
        "standard", [before, without]
    )
    assert "round trip" not in tables.markdown("standard", [without])


def test_a_row_that_was_not_run_has_its_reason() -> None:
    expected = "tensorflow flow, seed 0: not-run: No module named [tensorflow]."
    assert expected in tables.markdown("standard", [record(), not_run()])
    assert expected in printed([record(), not_run()]).splitlines()
    assert expected in " ".join(printed([record(), not_run()], terminal=True).split())


def test_a_pipe_gets_one_plain_line_a_row() -> None:
    found = [record(backend=b, variational=f) for f in ("mean-field", "flow") for b in ("pytorch", "jax", "tensorflow")]
    lines = printed(found, width=20).splitlines()
    assert len(lines) == 1 + 1 + 6
    assert not any("─" in line for line in lines)


@pytest.mark.parametrize("width", [20, 60, 78, 79, 93, 100, 130])
def test_a_terminal_of_any_width_gets_every_number_whole(width: int) -> None:
    found = [record(backend=b, variational=f) for f in ("mean-field", "flow") for b in ("pytorch", "jax", "tensorflow")]
    text = printed(found, terminal=True, width=width)
    assert "…" not in text
    assert ("─" in text) == (width >= 79)
    assert (text.count("mean-field"), text.count("tensorflow")) == (3, 2)
    for part in ("-94.42", "-88.96", "± 0.24", "7,654", "(321)", "1.34", "10.2", "2.5", "777"):
        assert text.count(part) == 6
