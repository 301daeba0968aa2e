"""README.md and docs/ say what the committed records and reports say, and their links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.commands.tables import BLOCKS
from benchmarks.harness import environment, reports
from benchmarks.outputs import documents
from benchmarks.outputs.table import Table
from common.errors import UserError

DOCUMENTS = [*documents.documents(), documents.ROOT / "CONTRIBUTING.md"]


def test_the_documents_agree_with_what_was_measured() -> None:
    documents.check(documents.bodies(BLOCKS))


def test_the_readme_is_short_and_the_index_has_every_page() -> None:
    assert len((documents.ROOT / "README.md").read_text().splitlines()) <= 140
    folder = documents.ROOT / "docs"
    listed = re.findall(r"^\| \[.*?\]\((.*?)\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")


def anchors(document: Path) -> set[str]:
    """A heading's anchor, as GitHub makes it: lower case, without punctuation, a hyphen for each space."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(document: Path) -> None:
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^()\s]+)\)", prose):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# The mechanism, on a small checkout with one report block


def made(root: Path) -> documents.Bodies:
    blocks = {"worst": ("parity", lambda report: [Table(columns=["worst"], rows=[[str(report["worst"])]])])}
    every = documents.bodies(blocks, folder=root / "records", of_reports=root / "reports")
    return {name: body for name, body in every.items() if name == "report: worst"}


def report(root: Path, **content: float) -> None:
    """Write a report 'parity' of the small checkout."""
    (root / "reports").mkdir()
    (root / "reports/parity.json").write_text(json.dumps({"schema": 1, "report": "parity", **content}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# Title\n")
    (tmp_path / "docs/parity.md").write_text("before\n<!-- report: worst -->\nold\n<!-- end report -->\nafter\n")
    return tmp_path


def test_a_block_is_made_from_its_report_and_an_edit_is_found(root: Path) -> None:
    documents.write(made(root), root=root)
    assert "Not measured yet." in (root / "docs/parity.md").read_text()
    report(root, worst=1e-13)
    with pytest.raises(UserError, match=r"parity\.md the block 'report: worst' .* 'Not measured yet.' where '\| worst \|'"):
        documents.check(made(root), root=root)
    for _ in range(2):  # written again, it is the same
        documents.write(made(root), root=root)
        documents.check(made(root), root=root)
        assert (root / "docs/parity.md").read_text() == (
            "before\n<!-- report: worst -->\n| worst |\n| ---: |\n| 1e-13 |\n<!-- end report -->\nafter\n"
        )


def test_a_report_that_lacks_what_its_block_shows_is_named(root: Path) -> None:
    report(root, best=1e-13)
    with pytest.raises(UserError, match=r"parity\.json lacks what its block shows \(KeyError: 'worst'\); measure it again"):
        documents.write(made(root), root=root)


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        ("<!-- report: speed -->\n<!-- end report -->\n", "There is no block 'report: speed'"),
        ("<!-- table: worst -->\n<!-- end table -->\n", "There is no block 'table: worst'"),
        ("<!-- report: worst -->\nNot measured yet.\n<!-- end report -->\n", "but 2 documents have it"),
    ],
)
def test_a_block_that_is_unknown_or_there_twice_is_found(root: Path, readme: str, message: str) -> None:
    documents.write(made(root), root=root)
    (root / "README.md").write_text(readme)
    with pytest.raises(UserError, match=message):
        documents.check(made(root), root=root)


def test_a_missing_block_is_found(root: Path) -> None:
    (root / "docs/parity.md").write_text("")
    with pytest.raises(UserError, match="must have the block 'report: worst', but no documents have it"):
        documents.check(made(root), root=root)


@pytest.mark.parametrize("content", ["{", '{"schema": 2, "report": "parity"}', '{"schema": 1, "report": "other"}', "[]"])
def test_a_malformed_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "parity.json").write_text(content)
    with pytest.raises(UserError, match=r"parity\.json"):
        reports.read("parity", tmp_path)


def test_a_number_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        reports.write("parity", {"worst": float("nan")}, tmp_path, environment=environment.describe())
    assert list(tmp_path.iterdir()) == []
