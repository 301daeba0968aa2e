"""The page of a folder's runs, in a real browser: charts, table, filters, themes, download, and names that stay text."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from benchmarks.commands import report
from benchmarks.harness import command_line, looks, record_names, record_schema, records
from benchmarks.harness.presets import QUICK
from benchmarks.harness.record_schema import Record
from benchmarks.outputs import figures
from common.config import FAMILIES
from common.files import write_bytes
from common.protocol import BACKENDS

SCRIPT = "<script>alert(1)</script>"  # a data set's name; the page says what stands behind the last "/", as all tables do
IMAGE = "<img src=x onerror=alert(1)>"
BOLD = "<b>bold</b> &amp;"  # Plotly reads such marks in its labels
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGEST = 6_000_000  # bytes
Views = Callable[..., Page]


def record(backend: str, family: Any, *, dataset: str = "binarized-digits", seed: int = 0, **settings: Any) -> Record:
    config = QUICK.replace(variational=family, seed=seed, **settings)
    made = record_schema.blank(config, backend=backend, dataset_name=dataset, dataset_sha256=dataset, preset="quick")
    place = BACKENDS.index(backend) + 3 * FAMILIES.index(family) + 0.1 * seed
    made |= {"status": "ok", "reason": None}
    made["environment"] |= {"versions": {"numpy": "2.4.6"}, "machine": {"cpu": "EPYC"}, "threads": {"cores": 2}}
    made["curve"] = {"step": [250, 500, 1000], "objective": [-1.0] * 3, "elbo": [-90.0, -40.0, -30.0 + place]}
    made["curve"] |= {"valid_step": [500, 1000], "valid_elbo": [-41.0, -31.0 + place]}
    made["timing"] |= {"examples_per_s": 1000 * (1 + place), "examples_per_s_iqr": 20.0, "floor_s": 0.05, "floor_ratio": 1.5}
    made["timing"] |= {"steady_s": 60.0, "compile_s": 1.0}
    made["test"] |= {"elbo": -30 + place, "elbo_se": 0.1, "log_px": -29 + place, "log_px_se": 0.1, "images": 300}
    made["test"] |= {"importance_samples": 1000}
    made["test"]["by_samples"] = {"samples": [1, 10], "log_px": [-30 + place, -29 + place], "log_px_se": [0.1, 0.1]}
    return made


def look(path: Path, **_: Any) -> looks.Look:
    """A look without a model."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    backend = next(name for name in BACKENDS if f"_{name}_" in path.name)
    return looks.Look(
        **dict.fromkeys(("variational", "preset", "dataset"), ""),
        backend=backend,
        step=2000,
        elbo=None,
        image_shape=(8, 8),
        originals=images[:10],
        reconstructions=images[10:],
        samples=images,
        kl=np.array([0.5, 0.1, 1.5]),
        active=2,
    )


def sweep() -> list[Record]:
    """Two seeds of six models, a failed run, and runs on a GPU and on two data sets with malicious names."""
    found = [record(backend, family, seed=seed) for family in FAMILIES for backend in BACKENDS for seed in (0, 1)]
    failed = record("jax", "flow", latent_size=3) | {"status": "failed", "reason": f"It fell\nover: {IMAGE}"}
    failed |= {"test": dict.fromkeys(failed["test"]), "timing": dict.fromkeys(failed["timing"])}
    failed["curve"] = {key: [] for key in failed["curve"]}
    others = [record("jax", "flow", dataset=name) for name in (SCRIPT, IMAGE)]
    return [*found, failed, *others, record("pytorch", "flow", device="cuda")]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for made in sweep():
        records.write(made, folder)
        if made["status"] == "ok":
            write_bytes(folder / record_names.checkpoint_name_of(made), b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "of", look)
        assert report.main([str(folder), "--output", str(folder / "page.html")]) == 0
    return folder / "page.html"


def installed() -> str:
    """The path of a Chromium. VAEBENCH_BROWSER names one that must be there; else the test is skipped where there is none."""
    named = os.environ.get("VAEBENCH_BROWSER")
    found = [path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))]
    if not found and named:
        pytest.fail(f"VAEBENCH_BROWSER is {named}, and there is no such program")
    if not found:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    return found[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = installed()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def view(browser: Browser, page_file: Path) -> Iterator[Views]:
    """Opens the page, and fails at the end where it logged an error, asked the network for anything or showed a dialog."""
    faults: list[str] = []
    contexts = []

    def opened(*, width: int = 1440, scheme: Any = "light", file: Path = page_file) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        local = ("file:", "data:", "blob:")
        page.on(
            "request", lambda request: faults.append(f"request: {request.url}") if not request.url.startswith(local) else None
        )
        page.goto(file.as_uri())
        charts(page).last.locator("svg.main-svg").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def charts(page: Page) -> Locator:
    return page.locator("figure[data-chart]:visible")


def plotted(page: Page, kind: str) -> Locator:
    """The chart of a kind, of the digits on the CPU."""
    return page.locator(f"figure[data-chart={kind}][data-dataset='binarized-digits']:not([data-device=cuda])")


def traces(page: Page, kind: str) -> list[dict[str, Any]]:
    plot = plotted(page, kind).locator(".plot")
    found: list[dict[str, Any]] = plot.evaluate("plot => plot.data.map(({ name, x, y, line }) => ({ name, x, y, line }))")
    return found


def rows(page: Page, column: str) -> list[str]:
    """The visible cells of a column of the runs' table, from the top."""
    names = [name.strip() for name in page.locator("#table thead th").all_inner_texts()]
    cells = page.locator(f"#table tbody:visible tr:first-child td:nth-child({names.index(column) + 1})")
    return [cell.strip() for cell in cells.all_inner_texts()]


def choose(page: Page, name: str, value: str) -> None:
    page.locator(f"#filters select[data-name='{name}']").select_option(label=value)


def test_every_chart_has_marks_in_its_backends_colours_and_the_page_is_small(view: Views, page_file: Path) -> None:
    page = view()
    assert {figure.get_attribute("data-chart") for figure in charts(page).all()} == {
        *("training", "validation", "throughput", "samples", "kl")
    }
    for figure in charts(page).all():
        assert figure.locator(".scatterlayer .trace path").count() > 0, figure.inner_text()
    for kind in ("training", "validation", "samples", "kl"):
        assert all(trace["line"]["color"] == figures.OF_BACKEND[trace["name"].split()[0]] for trace in traces(page, kind))
    assert page.locator(".card img").count() == 3 * 15
    assert page_file.stat().st_size < LARGEST


@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1440, "light")])
def test_nothing_overflows(view: Views, width: int, scheme: str) -> None:
    page = view(width=width, scheme=scheme)
    for button in page.locator(".more:visible").all()[:2]:
        button.click()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in charts(page).all():
        box = figure.locator("svg.main-svg").first.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_rows_sort_by_click_and_by_key(view: Views) -> None:
    page = view()
    page.get_by_role("button", name="every run").click()
    head = page.locator("#table th", has_text="ELBO")

    def numbers() -> list[float]:
        return [float(text) for text in rows(page, "ELBO") if re.fullmatch(r"-\d+\.\d+", text)]

    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(numbers(), reverse=True)
    assert rows(page, "status")[-1] == "failed", "a row without the number stands last in both orders"
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers() == sorted(numbers())
    assert len(numbers()) == 15
    assert rows(page, "status")[-1] == "failed"
    page.locator("#table th", has_text="backend").get_by_role("button").click()
    assert rows(page, "backend") == sorted(rows(page, "backend"))


def test_seeds_are_one_row_until_every_run_is_asked_for(view: Views) -> None:
    page = view()
    assert rows(page, "seed").count("2 seeds") == 6
    assert len(rows(page, "seed")) == 10
    page.get_by_role("button", name="every run").click()
    assert len(rows(page, "seed")) == 16
    assert "2 seeds" not in rows(page, "seed")


def test_filters_apply_to_table_charts_and_pictures(view: Views) -> None:
    page = view()
    named = [select.get_attribute("data-name") for select in page.locator("#filters select").all()]
    assert named == ["family", "backend", "data set", "latent-size", "device"], "precision and preset have one value"
    choose(page, "family", "flow")
    choose(page, "device", "cpu")
    assert set(rows(page, "family")) == {"flow"}
    assert all("flow" in trace["name"] for trace in traces(page, "training"))
    assert not any("mean-field" in text for text in page.locator(".card:visible").all_inner_texts())
    assert page.locator("#filters output").inner_text() == "9 of 16 runs"
    choose(page, "latent-size", "3")
    assert rows(page, "status") == ["failed"]
    assert "fell over" in page.locator("#table tbody:visible .reason").inner_text()
    assert "None of the runs" in plotted(page, "training").inner_text()
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#filters output").inner_text() == "16 runs"
    assert {trace["name"].split(",")[0] for trace in traces(page, "training")} >= {"jax flow", "jax mean-field"}


def test_curves_are_by_step_or_by_second(view: Views) -> None:
    page = view()
    (by_step, *_) = traces(page, "training")
    page.get_by_role("button", name="by second").click()
    (by_second, *_) = traces(page, "training")
    assert by_step["x"] == [250, 500, 1000]
    assert by_second["x"] == pytest.approx([step * 128 / 1000 for step in by_step["x"]])
    assert "seconds of steady training" in "".join(plotted(page, "training").locator(".xtitle").all_text_contents())


def test_the_theme_is_the_systems_until_it_is_chosen(view: Views) -> None:
    def colours(page: Page) -> tuple[str, str]:
        script = "[getComputedStyle(document.body).backgroundColor, document.querySelector('figure .xtick text').style.fill]"
        paper, ink = page.evaluate(script)
        return paper, ink

    light, dark = view(scheme="light"), view(scheme="dark")
    assert all(a != b for a, b in zip(colours(light), colours(dark), strict=True))
    before, other = colours(light), colours(dark)
    light.locator("#theme").click()
    assert colours(light) == other
    light.locator("#theme").click()
    assert colours(light) == before


def downloaded(page: Page) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.locator("#csv").click()
    assert download.value.suggested_filename == "runs.csv"
    with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_the_runs_that_are_shown(view: Views) -> None:
    page = view()
    found = downloaded(page)
    assert len(found) == 16
    wanted = {made["dataset"]["name"]: command_line.of(made) for made in sweep()[-3:-1]}
    assert {row["dataset_name"]: row["command"] for row in found if row["dataset_name"] in wanted} == wanted
    assert {float(row["test_elbo"]) for row in found if row["test_elbo"]} == {made["test"]["elbo"] for made in sweep()} - {None}
    choose(page, "backend", "tensorflow")
    assert {row["backend"] for row in downloaded(page)} == {"tensorflow"}


def test_a_malicious_name_stays_text(view: Views) -> None:
    page = view()
    assert IMAGE in rows(page, "data set")
    options = page.locator("#filters select[data-name='data set'] option").all_inner_texts()
    assert {IMAGE, record_names.data_name({"name": SCRIPT})} <= set(options)
    assert page.locator("img:not([src^='data:image/png'])").count() == 0
    assert page.locator("script").count() == 4, "the numbers, Plotly packed and unpacked, the page's own"
    assert page.locator("#table .reason").inner_text() == f"It fell over: {IMAGE}"
    page.locator("#table tbody:visible", has_text="script>").locator(".more").click()
    assert SCRIPT in page.locator("#table .detail:visible").inner_text()


def test_a_name_in_a_chart_stays_text(view: Views, tmp_path: Path) -> None:
    for backend in BACKENDS:
        made = record(backend, "flow") | {"preset": BOLD}
        records.write(made, tmp_path)
        records.write(made | {"preset": "quick"}, tmp_path)
    report.main([str(tmp_path), "--no-pictures"])
    page = view(file=tmp_path / "report.html")
    labels = page.locator("figure[data-chart=throughput] .ytick").all_text_contents()
    assert f"jax flow{BOLD}" in labels
    plot = page.locator("figure[data-chart=training] .plot")
    plot.evaluate("plot => Plotly.Fx.hover(plot, [{ curveNumber: 0, pointNumber: 1 }])")
    assert BOLD in "".join(plot.locator(".hoverlayer").all_text_contents())


def test_a_short_run_is_a_point_and_a_diverged_run_is_no_empty_chart(view: Views, tmp_path: Path) -> None:
    short, diverged = record("jax", "flow", dataset="short"), record("jax", "flow", dataset="diverged")
    short["curve"] = {"step": [100], "objective": [-9.0], "elbo": [-9.0], "valid_step": [100], "valid_elbo": [-9.0]}
    for key in ("elbo", "valid_elbo"):
        diverged["curve"][key] = [None] * len(diverged["curve"][key])
    for made in (short, diverged):
        records.write(made, tmp_path)
    report.main([str(tmp_path), "--no-pictures"])
    page = view(file=tmp_path / "report.html")
    for kind in ("training", "validation"):
        shown = {name: page.locator(f"figure[data-chart={kind}][data-dataset={name}]") for name in ("short", "diverged")}
        assert shown["short"].locator(".points path").count() == 1
        assert "None of the runs shown here has this." in shown["diverged"].inner_text()


def test_a_doubtful_log_px_and_the_monte_carlo_error_are_said_below_the_table(view: Views, tmp_path: Path) -> None:
    runs = [record("jax", "flow", seed=seed) for seed in (0, 1)]
    runs[1]["test"] |= {"warning": "The effective sample size is 1.1 of 1,000.", "log_px_mc_se": 0.004}
    for made in runs:
        records.write(made, tmp_path)
    assert report.main([str(tmp_path), "--no-pictures"]) == 0
    page = view(file=tmp_path / "report.html")
    expect(page.get_by_text("jax flow, seed 1: The effective sample size is 1.1 of 1,000.")).to_be_visible()
    expect(page.get_by_text("Over other importance samples of the same model and images: ± 0.004.")).to_be_visible()


def test_a_rows_command_is_shown_and_copied(view: Views) -> None:
    page = view()
    page.get_by_role("button", name="every run").click()
    row = page.locator("#table tbody:visible", has_text="pytorch").first
    row.locator(".more").click()
    assert row.locator("code").inner_text() == command_line.of(record("pytorch", "mean-field", seed=0))
    row.locator(".copy").click()
    expect(row.locator(".copy")).to_have_text("Copied")


def test_two_hundred_runs_stay_usable(view: Views, tmp_path: Path) -> None:
    rates = np.geomspace(1e-4, 1e-2, 7)
    for rate in rates:
        for seed in range(5):
            for family in FAMILIES:
                for backend in BACKENDS:
                    records.write(record(backend, family, seed=seed, learning_rate=float(rate)), tmp_path)
    report.main([str(tmp_path), "--no-pictures"])
    page = view(file=tmp_path / "report.html")
    assert len(rows(page, "seed")) == 42, "a row a model"
    assert len(traces(page, "training")) == 42, "a line a model"
    assert "mean over the seeds" in plotted(page, "training").inner_text()
    assert page.locator("figure[data-chart=throughput] .ytick").count() == 6
    choose(page, "learning-rate", "0.0001")
    choose(page, "family", "flow")
    assert len(traces(page, "training")) == 15, "a line a run"
    assert (tmp_path / "report.html").stat().st_size < LARGEST


def test_the_page_keeps_its_size_where_pictures_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    large = {"originals": noise[:10], "reconstructions": noise[10:], "samples": noise}
    monkeypatch.setattr(looks, "of", lambda path, **_: dataclasses.replace(look(path), **large))
    for seed in range(30):
        made = record("jax", "flow", seed=seed)
        write_bytes(tmp_path / record_names.checkpoint_name_of(made), b"")
        records.write(made, tmp_path)
    report.main([str(tmp_path)])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert re.search(r"Pictures of \d+ more runs are left out", text)
    assert text.count("<img ") >= 3
