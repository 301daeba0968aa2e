"""A table of runs says what differs between its rows, and runs that differ in their seed alone are one row."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness import record_names, record_schema, records
from benchmarks.harness.presets import preset
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells, sweeps, terminal
from benchmarks.outputs.page import content
from benchmarks.outputs.table import Table


def run(log_px: float = -90.0, *, backend: str = "jax", name: str = "quick", data: str = "digits", **settings: Any) -> Any:
    """A finished run's record."""
    config = preset(name).replace(**settings)
    record = record_schema.blank(config, backend=backend, dataset_name=data, dataset_sha256="ab", preset=name)
    record |= {"status": "ok", "reason": None, "peak_memory_bytes": 2**28}
    record["timing"] |= {"examples_per_s": 1000.0, "examples_per_s_iqr": 10.0}
    record["test"] |= {"elbo": log_px - 5, "elbo_se": 0.5, "log_px": log_px, "log_px_se": 0.25}
    return record


def table(*found: Record, folders: list[str] | None = None) -> Table:
    first = cells.page(found, folders=folders)[0]
    assert isinstance(first, Table)
    return first


def said(*found: Record) -> str:
    """The lines under the table."""
    return "\n".join(part for part in cells.page(found) if isinstance(part, str))


def named(shown: Table) -> list[str]:
    """The columns that name the rows."""
    return list(shown.columns[: shown.keys])


def test_a_single_run_and_six_models_look_as_the_bench_table_does() -> None:
    assert table(run()).columns == cells.OF_A_RUN[:2] + cells.RESULTS[1:]
    assert table(run()).title == "quick, digits"
    six = table(*(run(backend=name, variational=family) for name in ("pytorch", "jax") for family in ("flow", "mean-field")))
    assert (named(six), six.title, six.gaps) == (["family", "backend"], "quick, digits", [2])
    assert said(run()) == ""


def test_what_differs_is_a_column_and_what_does_not_is_in_the_title() -> None:
    shown = table(*(run(steps=300, learning_rate=rate) for rate in (0.1, 0.01, 1e-3)))
    assert (named(shown), shown.title) == (["learning-rate"], "quick, digits, mean-field, jax; changed: steps 300")
    assert [row[0] for row in shown.rows] == ["0.001", "0.01", "0.1"], "rising, the preset's own value among them"


def test_preset_data_set_and_device_are_columns_where_they_differ() -> None:
    shown = table(run(), run(name="standard"), run(data="/a/mine.h5"), run() | {"device": "cuda"})
    assert named(shown) == ["preset", "data set", "device"]
    assert [row[:3] for row in shown.rows] == [
        ["quick", "digits", "cpu"],
        ["quick", "digits", "cuda"],
        ["standard", "digits", "cpu"],
        ["quick", "mine", "cpu"],
    ]
    assert shown.gaps == [3]
    away = table(run(precision="bfloat16", seed=3))
    assert away.title == "quick, digits, bfloat16; seed 3"


def test_three_rates_and_three_seeds_are_three_rows() -> None:
    rates = {0.1: (-90.0, -91.0, -95.0), 0.01: (-80.0, -80.5, -81.0), 1e-3: (-70.0, -70.0, -70.0)}
    found = [run(x, learning_rate=rate, seed=seed) for rate, of_rate in rates.items() for seed, x in enumerate(of_rate)]
    shown = table(*found)
    assert (named(shown), shown.title) == (["learning-rate"], "quick, digits, mean-field, jax; 3 seeds")
    for row, (rate, of_rate) in zip(shown.rows, sorted(rates.items()), strict=True):
        error = np.std(of_rate, ddof=1) / np.sqrt(3)
        assert row[0] == str(rate)
        assert row[shown.columns.index("ELBO")] == f"{np.mean(of_rate) - 5:.2f}"
        assert row[shown.columns.index("log p(x) ± s.e.")] == f"{np.mean(of_rate):.2f} ± {error:.2f}"
    assert said(*found) == "Several seeds: each number is their mean, ± its standard error over seeds."
    for made in found:
        made["test"]["log_px_mc_se"] = 0.004
    assert "over test images" not in said(*found)
    assert "± 0.004" in said(*found)


def test_rows_of_one_and_of_several_seeds_say_so() -> None:
    found = [run(seed=seed) for seed in (0, 1, 2)] + [run(seed=7, backend="pytorch")]
    shown = table(*found)
    assert [row[:2] for row in shown.rows] == [["pytorch", "7"], ["jax", "3 seeds"]]
    assert "± 0.25" in shown.rows[0][shown.columns.index("log p(x) ± s.e.")], "of one seed, over images"
    assert "in a row of one seed, over test images" in said(*found)


def test_a_failed_seed_is_a_row_with_its_reason_and_no_mean_counts_it() -> None:
    failed = run(seed=2, learning_rate=0.1) | {"status": "failed", "reason": "It diverged."}
    found = [run(seed=0, learning_rate=0.1), run(seed=1, learning_rate=0.1), failed, run()]
    shown = table(*found)
    assert [row[:3] for row in shown.rows] == [["0.001", "0", "ok"], ["0.1", "2 seeds", "ok"], ["0.1", "2", "failed"]]
    assert "jax mean-field, learning-rate 0.1, seed 2: failed: It diverged." in said(*found).splitlines()


def test_a_run_that_spreads_widely_is_named_with_its_settings() -> None:
    wide, wider = run(learning_rate=0.1), run()
    wide["timing"]["examples_per_s_iqr"] = 250.0
    assert "jax mean-field (learning-rate 0.1) 25%." in said(wide, run())
    wider["timing"]["examples_per_s_iqr"] = 310.0
    assert "of the median: every row, 25% to 31%." in said(wide, wider)


def test_the_same_run_in_two_folders_is_two_rows() -> None:
    shown = table(run(), run(-80), folders=["before", "after"])
    assert [row[0] for row in shown.rows] == ["after", "before"]
    assert len(table(run(), run()).rows) == 2, "one seed twice has no error over seeds"


def test_equal_settings_on_other_data_of_the_same_name_are_no_seeds_of_one_run() -> None:
    other = run(seed=1)
    other["dataset"]["sha256"] = "cd"
    shown = table(run(data="mine.h5"), other | {"dataset": other["dataset"] | {"name": "mine.h5"}})
    assert [row[0] for row in shown.rows] == ["mine-ab", "mine-cd"]


def test_seeds_that_ran_uncompiled_say_so() -> None:
    found = [run(seed=seed) for seed in range(2)]
    for made in found:
        made["timing"]["uncompiled"] = "no C++ compiler"
    ((row,),) = [sweeps.over_seeds(sweeps.runs(found, folders=None))]
    assert row.record["timing"]["uncompiled"] == "no C++ compiler"
    assert row.record["timing"].keys() == found[0]["timing"].keys()
    assert content.page(sweeps.runs(found, folders=None), scores={}, looks={}, parity=None, missing=[])["rows"][0][
        "warning"
    ].endswith("uncompiled: no C++ compiler")


def test_an_absent_number_of_a_seed_is_no_mean() -> None:
    other = run(seed=1)
    other["timing"]["floor_ratio"] = 2.0
    shown = table(run(), other)
    assert shown.rows[0][shown.columns.index("step / floor")] == "-"


def test_a_narrow_terminal_repeats_the_names_of_the_rows() -> None:
    found = [run(learning_rate=rate, steps=steps) for rate in (0.1, 0.01) for steps in (10, 20)]
    for width in (60, 80, 120):
        file = io.StringIO()
        terminal.page(cells.page(found), Console(file=file, force_terminal=True, width=width, color_system=None))
        pieces = file.getvalue().count("─\n")
        assert file.getvalue().count("0.01 ") == 2 * pieces
        assert max(map(len, file.getvalue().splitlines())) <= max(width, 70)
        assert file.getvalue().count("± 0.25") == 4
        assert pieces == {60: 2, 80: 1, 120: 1}[width]


def test_rows_whose_names_do_not_fit_have_numbers() -> None:
    found = [run(learning_rate=rate, steps=steps, data="a" * 50) for rate, steps in ((0.1, 10), (0.01, 20))]
    file = io.StringIO()
    terminal.page(cells.page([*found, run()]), Console(file=file, force_terminal=True, width=60, color_system=None))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    headers = [line.split()[0] for line, rule in itertools.pairwise(lines) if rule.startswith("─")]
    assert len(headers) > 2
    assert set(headers) == {"row"}


def test_a_time_that_is_absent_is_not_cached() -> None:
    made = run()
    made["timing"]["programs_compiled"] = 0
    assert cells.of(made, floors={})["compile (s)"] == "-"
    made["timing"]["compile_s"] = 0.5
    assert cells.of(made, floors={})["compile (s)"] == "0.5 (cached)"


def test_committed_records_are_one_table() -> None:
    found = records.read_all(records.RECORDS)
    assert len(table(*found).rows) == len({record_names.name_of(record | {"seed": 0}) for record in found})
