"""The report blocks of README.md and docs/ say what the committed reports say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import environment, reports
from benchmarks.outputs import documents
from common.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(documents, "BLOCKS", {"worst": ("parity", lambda report: f"worst: {report['worst']}")})
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Title\n")
    (tmp_path / "docs/parity.md").write_text("before\n<!-- report: worst -->\nold\n<!-- end report -->\nafter\n")
    return tmp_path


def test_the_documents_agree_with_the_committed_reports() -> None:
    documents.check()


def test_a_block_is_made_from_its_report_and_an_edit_is_found(root: Path) -> None:
    folder = root / "reports"
    documents.write(root=root, folder=folder)
    assert "Not measured yet." in (root / "docs/parity.md").read_text()
    reports.write("parity", {"worst": 1e-13}, folder, environment=environment.describe())
    with pytest.raises(UserError, match="make tables"):
        documents.check(root=root, folder=folder)
    documents.write(root=root, folder=folder)
    documents.check(root=root, folder=folder)
    assert (root / "docs/parity.md").read_text() == (
        "before\n<!-- report: worst -->\nworst: 1e-13\n<!-- end report -->\nafter\n"
    )


def test_a_report_that_lacks_what_its_table_shows_is_named(root: Path) -> None:
    reports.write("parity", {"best": 1e-13}, root / "reports", environment=environment.describe())
    with pytest.raises(UserError, match=r"parity\.json lacks what its table shows \(KeyError: 'worst'\); measure it again"):
        documents.write(root=root, folder=root / "reports")


def test_unknown_and_missing_blocks_are_found(root: Path) -> None:
    (root / "README.md").write_text("<!-- report: speed -->\n<!-- end report -->\n")
    with pytest.raises(UserError, match="speed"):
        documents.check(root=root, folder=root)
    (root / "README.md").write_text("")
    (root / "docs/parity.md").write_text("")
    with pytest.raises(UserError, match="No document has a block for worst"):
        documents.check(root=root, folder=root)


@pytest.mark.parametrize("content", ["{", '{"schema": 2, "report": "parity"}', '{"schema": 1, "report": "other"}', "[]"])
def test_a_malformed_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "parity.json").write_text(content)
    with pytest.raises(UserError, match=r"parity\.json"):
        reports.read("parity", tmp_path)


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        reports.write("parity", {"worst": float("nan")}, tmp_path, environment=environment.describe())
    assert list(tmp_path.iterdir()) == []
