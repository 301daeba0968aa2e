"""Each command of README.md is run here, made small; a command that this file doesn't know fails. Flags on all pages exist."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.__main__ import COMMANDS, main
from benchmarks.harness.environment import ROOT
from common import data
from common.data import SPLITS

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Command → what is added to a line of README to make it small; None: a test elsewhere runs it.
SMALL: dict[str, list[str] | None] = {
    "run": ["--dry-run"],
    "evaluate": ["--samples", "25", "--images", "10"],
    "export": [],
    "show": [],
    "report": [],
    "results": [],
    "diff": [],
    "list": [],
    "parity": None,
    "compare": None,
    "regress": None,
    "reproduce": None,
    "study": None,
    "tables": None,
}
MAKE = re.compile(r"\bmake((?: [A-Za-z_]+=(?:\"[^\"]*\"|[^ `]+))*) ([a-z][a-z-]*)")


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each fenced block."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(language, body.splitlines()) for language, body in found]


def typed(lines: list[str]) -> bool:
    """Whether a reader types the lines of a block: it isn't a table or a listing of folders."""
    return any(re.match(r"(python3? |make |pip |git |\. )", line) for line in lines)


LINES = [line for language, lines in blocks(README) if language in ("", "sh") and typed(lines) for line in lines if line]
PYTHON = ["\n".join(lines) for language, lines in blocks(README) if language == "python"]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


TYPED = [line for line in LINES if words(line)[:3] == ["python", "-m", "benchmarks"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: mine.h5, a grey one, and two runs in results/ that share a checkpoint."""
    here = tmp_path_factory.mktemp("reader")
    draws = np.random.default_rng(0)
    with h5py.File(here / "mine.h5", "w") as binary, h5py.File(here / "grey.h5", "w") as grey:
        for split in SPLITS:
            grey[split] = draws.integers(0, 256, (200, 64), dtype=np.uint8)
            binary[split] = (grey[split][()] > 127).astype(np.uint8)
    # The second run is another test of the first one's checkpoint, from which --from can go on.
    small = "--steps 20 --validation-interval 20 --schedule constant --latent-size 2 --hidden-size 8 --samples 25 50"
    command = f"{sys.executable} -m benchmarks run --backend jax --variational mean-field --data mine.h5 {small}"
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command.split(), cwd=here, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return here


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`folder` as the current one, and a small stand-in for binarized MNIST."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    draws = np.random.default_rng(0)
    images = {split: draws.integers(0, 2, (200, 784), dtype=np.uint8) for split in SPLITS}
    monkeypatch.setattr(data, "mnist", lambda _: images)
    monkeypatch.setitem(data.PINNED, "binarized-mnist", data.content_sha256(images))
    return folder


def filled(line: str, *, folder: Path) -> list[str]:
    """The words after `python -m benchmarks`, with real files for the placeholders, made small."""
    (checkpoint,) = (folder / "results").glob("*.h5")
    first, second = sorted((folder / "results").glob("*.json"))
    command, *rest = words(line)[3:]
    files = {"CHECKPOINT": str(checkpoint), "A": str(first), "B": str(second)}
    files |= dict.fromkeys(("FOLDER", "FOLDER…", "RUN", "RUN…"), "results")
    more = [*(SMALL[command] or ()), *(["--steps", "40"] if "--from" in rest else [])]
    return [command, *(files.get(word, word) for word in rest), *more]


@pytest.mark.parametrize("line", TYPED)
def test_a_command_of_the_readme_works(line: str, reader: Path) -> None:
    command = words(line)[3]
    assert command in SMALL, f"README has a command that this test doesn't run: {line}"
    if SMALL[command] is None:
        return
    code: object = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(filled(line, folder=reader))
        except SystemExit as error:
            code = error.code
    assert not code, said.getvalue()


def test_the_readme_has_commands_and_each_line_to_type_is_known() -> None:
    assert len(TYPED) >= 5
    for line in LINES:
        first, *rest = words(line) or ["#"]
        known = first == "#" or line in TYPED or line == ". .venv/bin/activate" or (first, rest) == ("cd", ["vaebench"])
        known |= first == "make" or words(line)[:2] in (["pip", "install"], ["git", "clone"])
        assert known, f"README has a line that this test doesn't know: {line}"


@pytest.mark.parametrize("code", PYTHON)
def test_a_program_of_the_readme_works(code: str, reader: Path) -> None:
    small = re.sub(r"\bsteps=[\d_]+", "steps=20", code)
    done = subprocess.run([sys.executable, "-c", small], check=False, cwd=reader, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- all pages ---


def test_every_target_of_make_on_a_page_exists() -> None:
    targets = {*re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE), "study-"}
    # reproduce-quick, reproduce-standard and others stand on one line
    targets |= {name for line in re.findall(r"^([a-z][a-z -]*):", MAKEFILE, re.MULTILINE) for name in line.split()}
    named = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        code = [*re.findall(r"`([^`\n]+)`", text), *(line for _, lines in blocks(text) for line in lines)]
        named |= {(page.name, target) for line in code for _, target in MAKE.findall(line) if line.lstrip().startswith("make")}
    assert ("README.md", "bench") in named
    unknown = {(page, target) for page, target in named if target not in targets and not target.startswith("study-")}
    assert unknown == set()


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words after `python -m benchmarks` of each command of the page, in its prose and its blocks."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    for code in [*inline, *(line for _, lines in blocks(text) for line in lines)]:
        if match := re.match(r"(?:\S*python|\$ python) -m benchmarks (.+)", code.strip()):
            yield words(match[1])


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Command, or "study NAME" → its whole help."""
    found = {}
    from benchmarks.studies import skeleton

    for command in (*COMMANDS, *(f"study {name}" for name in skeleton.names())):
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
            main([*command.split(), "--help-all" if command == "run" else "--help"])
        found[command] = printed.getvalue()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_on_a_page_exists(page: Path, helps: dict[str, str]) -> None:
    for command, *rest in commands_of(page):
        if command in ("COMMAND", "COMMAND…") or command.startswith("-"):
            continue
        assert command in COMMANDS, f"{page.name}: {command}"
        name = f"study {rest[0]}" if command == "study" and rest and f"study {rest[0]}" in helps else command
        for word in rest:
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in ("--help", "--help-all"):
                positive = flag.replace("--no-", "--", 1)
                assert re.search(rf"{flag}\b|{positive}\b", helps[name]), f"{page.name}: {flag} of {command}"
