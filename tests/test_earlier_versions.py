"""Records and checkpoints of earlier versions are read: tests/fixtures/COMMIT/ has the results of a run by that commit's code.

At each of these commits a form had changed. The run is the same: quick, jax, mean-field, 20 steps, latent size 2, hidden size
4, K = 5 on 20 images, seed 3. Before eacde9a its test had other 20 images.

    2386d31    the first
    b071506    `trained` and `earlier`: a run of several backends
    5172a08    `precision`; times apart from one another
    eacde9a    `changed`, and names that say it; Fletcher-32 over each array
    45e4c7e    results by image in a file beside the record
    88ea3f9    `binarize`; values of the steps since the last point of the curve
    c1c616e    the last without a seal and a record's checksum
    a951871    with both
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import per_image, records
from benchmarks.outputs import documents
from common import checkpoints

FIXTURES = Path(__file__).parent / "fixtures"
COMMITS = re.findall(r"^    ([0-9a-f]{7}) ", __doc__ or "", re.MULTILINE)


@pytest.fixture(params=COMMITS)
def results(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The results folder of the commit's run."""
    for file in (FIXTURES / request.param).iterdir():
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        (tmp_path / file.name.removesuffix(".gz")).write_bytes(content)
    return tmp_path


def test_every_fixture_is_read() -> None:
    assert sorted(COMMITS) == sorted(folder.name for folder in FIXTURES.iterdir())


def test_evaluate_gives_the_score_of_the_latest_record(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = records.read_all(FIXTURES / COMMITS[-1])
    (checkpoint,) = results.glob("*.h5")
    assert main(["evaluate", str(checkpoint)]) == 0
    found = re.match(r"ELBO (\S+) ± .*, log p\(x\) (\S+) ± .*K = 5, 20 images", capsys.readouterr().out)
    assert found is not None
    assert [float(number) for number in found.groups()] == pytest.approx(
        [record["test"]["elbo"], record["test"]["log_px"]], abs=1e-3
    )


def test_what_is_loaded_is_saved_in_the_present_form(results: Path, tmp_path: Path) -> None:
    (path,) = results.glob("*.h5")
    loaded = checkpoints.load(path)
    assert (loaded.config.training.steps, int(loaded.state["step"]), loaded.backend) == (20, 20, "jax")
    assert (loaded.history["valid_step"], len(loaded.history["elbo"])) == ([10.0, 20.0], 2)
    checkpoints.save(loaded, tmp_path / "again.h5")
    again = checkpoints.load(tmp_path / "again.h5")
    assert (again.config, again.history) == (loaded.config, loaded.history)
    assert all((again.state[name] == value).all() for name, value in loaded.state.items())


def test_results_and_tables_read_the_record(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = records.read_all(results)
    assert "edited" not in record
    assert main(["results", str(results)]) == 0
    assert f"{record['test']['log_px']:.2f}" in capsys.readouterr().out
    assert main(["results", str(results), "--csv"]) == 0
    assert "jax" in capsys.readouterr().out
    made = documents.bodies({}, folder=results)
    assert made


def test_results_by_image_are_read(results: Path) -> None:
    (path,) = results.glob("*.json")
    arrays = per_image.read(path)
    assert (arrays is None) == (not [*results.glob("*.npz")])
    if arrays is not None:
        assert arrays["elbo"].mean() == pytest.approx(records.read(path)["test"]["elbo"], abs=1e-4)


def test_a_run_can_go_on_from_the_checkpoint(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = results.glob("*.h5")
    assert main(["run", "--from", str(path), "--results", str(results / "new"), "--dry-run"]) == 0
    assert "new" in capsys.readouterr().out
