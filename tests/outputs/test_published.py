"""A row of a table is its record's numbers, and a published row comes from a clean commit and its preset's settings."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from benchmarks.harness import record_names, record_schema, records
from benchmarks.harness.presets import PRESETS
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import cells, markdown, older, published, terminal
from benchmarks.outputs.table import ABSENT
from common import data
from common.errors import UserError


def record(preset: str = "standard", backend: str = "jax", variational: Any = "flow", **test: Any) -> Record:
    """A finished run's record, of a clean commit, on the data set of the preset's table."""
    config = PRESETS[preset].replace(variational=variational)
    dataset = "binarized-digits" if preset == "quick" else "binarized-mnist"
    made = record_schema.blank(config, backend=backend, dataset_name=dataset, dataset_sha256="ab" * 32, preset=preset)
    made |= {"status": "ok", "reason": None, "peak_memory_bytes": 777 * 2**20, "changed": {}}
    made["environment"] |= {"commit": "a" * 40, "dirty": False}
    made["timing"] |= {"compile_s": 2.54, "steady_s": 615.0}
    made["timing"] |= {"examples_per_s": 7654.3, "examples_per_s_iqr": 321.2, "floor_ratio": 1.342}
    made["test"] |= {"elbo": -94.416, "log_px": -88.964, "log_px_se": 0.243, "images": 10_000}
    made["test"] |= {"importance_samples": 1000} | test
    return made


def block(name: str, *found: Record) -> str:
    return markdown.page(published.parts(name, found))


def printed(*found: Record, ruled: bool = False, width: int = 80) -> str:
    file = io.StringIO()
    terminal.page(cells.page(found), Console(file=file, force_terminal=ruled, width=width, color_system=None))
    return file.getvalue()


def models(preset: str = "standard") -> list[Record]:
    return [record(preset, backend, family) for preset, family, backend in published.TABLES[preset].rows]


def test_a_row_is_its_records_numbers() -> None:
    row = cells.of(record(), floors={})
    assert (row["ELBO"], row["log p(x) ± s.e."]) == ("-94.42", "-88.96 ± 0.24")
    assert (row["K"], row["images"], row["steps"]) == ("1,000", "10,000", "30,000")
    assert (row["examples/s"], row["examples/s (IQR)"]) == ("7,654", "7,654 (321)")
    assert (row["step / floor"], row["compile (s)"], row["train (min)"]) == ("1.34", "2.5", "10.2")
    assert row["peak (MiB)"] == "777"
    for shown in (block("standard-cpu", record()), printed(record())):
        for column in ("ELBO", "log p(x) ± s.e.", "examples/s (IQR)", "step / floor"):
            assert row[column] in shown


def test_a_step_is_also_held_against_the_fastest_floor_of_the_same_work() -> None:
    slow, fast, other = record(backend="pytorch"), record(), record(variational="mean-field")
    for made, floor_s, ratio in ((slow, 0.010, 1.2), (fast, 0.006, 1.5), (other, 0.001, 1.1)):
        made["timing"] |= {"floor_s": floor_s, "floor_ratio": ratio}
    floors = cells.fastest_floors([slow, fast, other])
    shown = [cells.of(made, floors=floors)[cells.FLOOR] for made in (slow, fast, other)]
    assert shown == ["1.20 (2.00)", "1.50 (1.50)", "1.10"]
    halved = fast | {"config": fast["config"] | {"training": fast["config"]["training"] | {"devices": 2}}}
    assert cells.fastest_floors([slow, halved]) == {}, "on two devices the floor is that of half the batch"
    elsewhere = fast | {"environment": fast["environment"] | {"machine": {"cpu": "another"}}}
    assert cells.fastest_floors([slow, elsewhere]) == {}, "floors of two machines can't be compared"


def test_every_number_of_a_row_follows_its_record() -> None:
    """A figure that came from elsewhere would survive a record without numbers."""
    empty = record()
    for section in ("timing", "test"):
        empty[section] = dict.fromkeys(empty[section])
    row = cells.of(empty, floors={})
    assert {row[column] for column in published.RESULTS if column != "steps"} == {ABSENT}


def test_a_table_takes_its_own_presets_on_its_own_data() -> None:
    other = record()
    other["dataset"]["name"] = "binarized-digits"
    found = [record("quick"), record("standard"), other, record("ancestor-jax", "jax"), record("ancestor-jax", "pytorch")]
    assert published.rows("quick", found) == found[:1]
    assert published.rows("standard", found) == found[1:2]
    assert published.rows("ancestor", found) == found[3:4]
    with pytest.raises(UserError, match="choose from"):
        published.rows("fast", found)


def test_the_readmes_block_has_a_row_for_each_model_and_columns_for_each_backend() -> None:
    speed = {"pytorch": 1, "jax": 2, "tensorflow": 3}
    found = [*models(), *models("resnet")]
    for made in found:
        made["test"]["log_px"] = {"standard": -90, "standard-flow-prior": -88, "resnet-standard-prior": -83}.get(
            made["preset"], -81
        )
        made["timing"]["examples_per_s"] = float(speed[made["backend"]])
    seeds = [record("resnet", "jax", "mean-field", log_px=-70.0) | {"seed": 1}]
    slower = record("standard", "jax") | {"device": "cuda"}
    header, _, *rows = block("standard", *found[::-1], *seeds, slower).splitlines()[:8]
    backends = ("pytorch", "jax", "tensorflow")
    titles = [f"{column}, {backend}" for column in ("log p(x)", "examples/s") for backend in backends]
    assert header == f"| model | {' | '.join(titles)} |"
    assert rows == [
        f"| {model} | {' | '.join([f'{log_px:.2f} ± 0.24'] * 3)} | 1 | 2 | 3 |"
        for model, log_px in (
            *(("mean-field", -90), ("flow", -90), ("mean-field, flow prior", -88)),
            *(("resnet, mean-field", -83), ("resnet, flow", -83), ("resnet, mean-field, flow prior", -81)),
        )
    ]
    assert "| flow | not measured | -88.96 ± 0.24 | not measured | - | 7,654 | - |" in block("standard", record())


def test_the_readmes_block_says_which_machine_each_model_ran_on() -> None:
    found = [record(), record("resnet", variational="mean-field")]
    for made, cpu in zip(found, ("EPYC", "Xeon"), strict=True):
        made["environment"] |= {"machine": {"cpu": cpu}}
    assert "EPYC (flow); Xeon (resnet, mean-field, flow prior)." in block("standard", *found)
    assert "K = 1,000; EPYC." in block("standard", found[0])


def test_the_readmes_block_says_nothing_of_seeds_that_are_no_row() -> None:
    wide = record() | {"seed": 1}
    wide["timing"] |= {"examples_per_s_iqr": 6000.0}
    assert block("standard", record(), wide) == block("standard", record())


def test_the_readmes_block_leaves_out_models_that_no_backend_has_measured() -> None:
    lines = [line for line in block("standard", record()).splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines] == ["| model", "| ---", "| flow"]


def test_a_name_has_the_preset_where_several_have_the_family() -> None:
    found = [record("resnet", variational="mean-field"), record("standard-flow-prior", variational="mean-field")]
    for made in found:
        made["timing"] |= {"examples_per_s": 1000.0, "examples_per_s_iqr": 250.0}
    quiet = record("resnet", backend="pytorch", variational="mean-field")
    assert "median: jax mean-field standard-flow-prior 25%, jax mean-field resnet 25%." in block("resnet-cpu", *found, quiet)


def test_no_committed_record_contradicts_what_its_estimates_are() -> None:
    found = [made for made in records.read_all(records.RECORDS) if made["status"] == "ok"]
    assert len(found) >= 15
    for made in found:
        test, highest = made["test"], data.HIGHEST_LOG_PX.get(made["dataset"]["name"], 0.0)
        assert test["warning"] is None
        assert test["elbo"] <= test["log_px"] <= highest, record_names.name_of(made)
        nested = (test["by_samples"] or {"log_px": []})["log_px"]
        assert nested == sorted(nested), record_names.name_of(made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"environment": {"commit": "a" * 40, "dirty": True, "machine": None}}, published.UNCLEAN),
        ({"environment": {"commit": None, "machine": None}}, published.UNCLEAN),
        ({"changed": {"steps": 3000}}, published.NOT_MEASURED),
    ],
)
def test_an_unclean_or_changed_run_is_no_row_and_its_row_says_so(change: dict[str, Any], words: str) -> None:
    found = [record() | change, record(backend="pytorch")]
    assert published.rows("standard", found) == found[1:]
    rows = block("standard-cpu", *found).splitlines()
    assert sum(f"| {published.NOT_MEASURED} |" in row or f"| {published.UNCLEAN} |" in row for row in rows) == 5
    (row,) = (row for row in rows if row.startswith("| flow | jax |"))
    assert f"| {words} |" in row
    assert "-88.96" not in row


def test_a_record_that_was_changed_by_hand_is_named_and_is_no_published_row() -> None:
    edited = record() | {"edited": True}
    assert published.rows("standard", [edited, record(backend="pytorch")]) == [record(backend="pytorch")]
    assert "jax flow: its record was changed by hand." in printed(edited)


def test_rows_that_nobody_measured_stand_in_the_table() -> None:
    for name in published.BLOCKS.keys() - {published.BENCH, published.HEADLINE}:
        wanted = published.BLOCKS[name]
        assert block(name).count(f"| {published.NOT_MEASURED} |") == len(published.TABLES[wanted.table].rows)


def test_of_several_seeds_the_least_is_the_row_and_a_line_has_their_mean_and_its_error() -> None:
    found = [record(log_px=value) | {"seed": seed} for seed, value in ((2, -88.5), (0, -88.96), (1, -88.7))]
    text = block("standard-cpu", *found)
    assert "| seed |" not in text
    assert "-88.96 ± 0.24" in text
    assert "-88.70 ±" not in text
    line = "log p(x) over seeds, the mean ± its standard error over them: jax flow -88.72 ± 0.13 (3 seeds, -88.96 to -88.50)."
    assert f"- {line}" in text
    assert "over seeds" not in block("standard-cpu", found[1], record(backend="pytorch"))
    assert published.rows("standard", found) == [found[1]]


def test_a_line_has_the_monte_carlo_error_where_the_records_have_it() -> None:
    made = [record(), record(backend="pytorch")]
    assert "importance samples of the same" not in block("standard-cpu", *made)
    for own, error in zip(made, (0.0041, 0.0123), strict=True):
        own["test"] = own["test"] | {"log_px_mc_se": error}
    line = "±: over test images. Over other importance samples of the same model and images: ± 0.004 to 0.012."
    assert line in block("standard-cpu", *made)


def test_the_ancestor_table_says_what_the_old_readme_reports() -> None:
    rows = block("ancestor", *(record(preset, backend) for preset, backend in older.ANCESTORS.items())).splitlines()
    pytorch, jax = (row for row in rows if row.startswith("| flow"))
    assert "-101.64 / -95.33 (150,000 steps, K 128)" in pytorch
    assert "-106.80 / -97.62 (30,000 steps, K 1,000)" in jax
    (tensorflow,) = (row for row in rows if row.startswith("| mean-field | tensorflow"))
    assert tensorflow.endswith("| - |")


def test_a_table_names_where_each_row_was_measured() -> None:
    here, there, elsewhere = record(backend="pytorch"), record(), record(backend="tensorflow")
    for made, cpu, commit in ((here, "EPYC", "a"), (there, "EPYC", "b"), (elsewhere, "Xeon", "b")):
        made["environment"] = {"machine": {"cpu": cpu, "memory_bytes": 2**33}, "threads": {"cores": 2}, "commit": commit * 40}
        made["environment"] |= {"versions": {"numpy": "2.4.6"}}
    machine = "EPYC; 2 cores; 8.0 GiB; cpu, float32; numpy 2.4.6."
    commits = "Commit aaaaaaaaaaaa (pytorch flow); bbbbbbbbbbbb (jax flow)."
    assert f"- Every row: {machine} {commits}" in block("standard-cpu", here, there)
    assert f"- Every row: {machine} Commit aaaaaaaaaaaa." in block("standard-cpu", here)
    table = block("standard-cpu", here, there, elsewhere)
    assert f"- pytorch flow, jax flow: {machine} {commits}" in table
    assert "- tensorflow flow: Xeon; 2 cores;" in table


def test_the_rows_that_spread_widely_are_named() -> None:
    calm, wide = record(backend="pytorch"), record()
    wide["timing"] |= {"examples_per_s": 1000.0, "examples_per_s_iqr": 250.0}
    for name in ("standard", "standard-cpu"):
        assert "above 10% of the median: jax flow 25%." in block(name, calm, wide)
        assert "above 10%" not in block(name, calm)


def test_the_latency_between_cores_is_said_where_it_is_known() -> None:
    before, without = record(backend="pytorch"), record()
    before["environment"] |= {"round_trip_ns": 270.0, "round_trip_after_ns": 512.0}
    without["environment"] |= {"round_trip_ns": None}
    assert "270 to 512 ns." in block("standard-cpu", before, without)
    assert " ns" not in block("standard-cpu", without)


def test_a_row_without_a_result_has_its_reason() -> None:
    failed = record(backend="tensorflow") | {"status": "not-run", "reason": "No module\nnamed [tensorflow]."}
    expected = "tensorflow flow, seed 0: not-run: No module named [tensorflow]."
    assert expected in block("standard-cpu", record(), failed)
    assert expected in printed(record(), failed).splitlines()
    assert expected in " ".join(printed(record(), failed, ruled=True).split())


def test_the_bench_block_is_what_a_terminal_shows() -> None:
    text = block("bench", *models("quick"))
    assert text.startswith("```\nquick, binarized-digits\n")
    assert (text.count("─\n"), text.count("-88.96"), text.count("7,654")) == (1, 6, 6)


def test_a_pipe_gets_one_plain_line_a_row() -> None:
    lines = printed(*models(), width=20).splitlines()
    assert len(lines) == 1 + 1 + 6
    assert not any("─" in line for line in lines)


@pytest.mark.parametrize("width", [20, 60, 71, 79, 93, 100, 130])
def test_a_terminal_of_any_width_gets_every_number_whole(width: int) -> None:
    text = printed(*models(), ruled=True, width=width)
    assert "…" not in text
    pieces = text.count("─\n")
    assert pieces == (7 if width < 60 else 2 if width < 72 else 1)
    named = 1 if width < 60 else pieces  # in 20 columns a row's number stands for its names
    assert (text.count("mean-field"), text.count("tensorflow")) == (3 * named, 2 * named)
    for part in ("-94.42", "-88.96", "± 0.24", "7,654", "(321)", "1.34", "10.2", "2.5", "777"):
        assert text.count(part) == 6
