"""What every command shares: --version, and a reader that closes its end of the pipe early."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.harness import environment, records
from benchmarks.harness.environment import ROOT
from common.version import VERSION


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "head", lambda: ("0123456789abcdef", True))
    monkeypatch.setattr(environment, "versions", lambda: {"python": platform.python_version(), "jax": "1.2", "keras": "3.4"})
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"vaebench {VERSION}, commit 0123456789ab with uncommitted changes",
        f"Python {platform.python_version()}",
        "jax 1.2",
        "keras 3.4",
    ]
    monkeypatch.setattr(environment, "head", lambda: (None, None))
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"vaebench {VERSION}, commit unknown"


def test_the_version_imports_no_framework() -> None:
    code = (
        "import sys; from benchmarks.__main__ import version; version(); print({'torch', 'jax', 'tensorflow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "arguments", ["", "--version", "run --help", "study --help", "run --dry-run", "list --runs benchmarks/records"]
)
def test_a_reader_may_close_stdout_early(arguments: str) -> None:
    """As `head` does. The reader is gone from the start: what it would have read before doesn't matter."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "benchmarks", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode in (1, 141)  # 1 is rich's


@pytest.mark.parametrize("arguments", ["nonsense", "run --nonsense"])
def test_a_reader_may_close_stderr_early(arguments: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "benchmarks", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True, check=False)
    os.close(writer)
    assert done.stdout == ""
    assert done.returncode == 141


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_stream(tmp_path: Path, closed: str) -> None:
    shape = "--steps 2 --batch-size 8 --hidden-size 4 --latent-size 2 --samples 2 --images 2"
    run = f"'{sys.executable}' -m benchmarks run --backend pytorch --variational mean-field {shape} --results '{tmp_path}'"
    done = subprocess.run(["sh", "-c", f"{run} {closed}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in records.read_all(tmp_path)] == ["ok"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("arguments", ["--help", "run --help-all", "results benchmarks/records", "run --data é.h5"])
def test_any_encoding_of_the_output_will_do(arguments: str, encoding: str) -> None:
    command = [sys.executable, "-m", "benchmarks", *arguments.split()]
    variables = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, check=False)
    assert done.returncode == (2 if "é" in arguments else 0), done.stderr
    assert "Traceback" not in done.stderr.decode(encoding)
    assert len((done.stdout or done.stderr).decode(encoding)) > 60


def test_stdout_may_be_closed() -> None:
    command = f"'{sys.executable}' -m benchmarks run --dry-run --backend jax >&-"
    done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_head_gets_its_line() -> None:
    command = f"'{sys.executable}' -m benchmarks run --help-all | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("usage: python -m benchmarks run [-h] [OPTIONS]\n", "")
