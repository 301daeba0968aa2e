"""Runs tests on each supported Python, with the pinned, the oldest and the newest packages that pyproject.toml allows.

`make test-matrix` starts it with the Python of .venv-audit, which has uv. A row says why its environment can't be made.
"""

import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

UV = Path(sys.executable).parent / "uv"
FOLDER = Path(".venv-matrix")
# One test file of NumPy alone and one that calls every backend: minutes a row.
QUICK = ("tests/common", "tests/parity/test_backends.py")

EXTRAS = [argument for extra in ("pytorch", "jax", "tensorflow", "extras", "dev") for argument in ("--extra", extra)]
PACKAGES = {
    "pinned": ["--require-hashes", "--only-binary", ":all:", "-r", "environments/cpu-locked.txt"],
    "oldest": ["--resolution", "lowest-direct", "-r", "pyproject.toml", *EXTRAS],
    "newest": ["--resolution", "highest", "-r", "pyproject.toml", *EXTRAS],
}
ROWS = (("3.11", "oldest"), ("3.11", "pinned"), ("3.12", "pinned"), ("3.13", "pinned"), ("3.13", "newest"))

VERSIONS = """
import platform
from importlib.metadata import packages_distributions, version
owners = packages_distributions()  # TensorFlow's is tensorflow or tensorflow-cpu
print(platform.python_version(), *(version(owners[name][0]) for name in ("torch", "jax", "tensorflow", "numpy")))
"""


def install(python: str, packages: str, folder: Path) -> str:
    """An empty text, or why the environment couldn't be made."""
    for command in (
        ["venv", "--clear", "--seed", "--no-python-downloads", "--python", python, str(folder)],
        ["pip", "install", "--python", str(folder), *PACKAGES[packages]],
    ):
        done = subprocess.run([UV, "--quiet", *command], check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            return " ".join(done.stderr.split())
    return ""


def tested(python: Path, arguments: list[str]) -> tuple[bool, str]:
    """Whether every test passed, and pytest's last line."""
    command = [python, "-m", "pytest", "-n", "0", "-q", "--benchmark-disable", *arguments]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode == 0, last


def main(arguments: list[str]) -> int:
    """0 if every environment that could be made passed; 1 if a test failed or no environment could be made."""
    table = Table("Python", "packages", "PyTorch", "JAX", "TensorFlow", "NumPy", "tests", box=box.SIMPLE)
    outcomes, reasons = [], []
    for version, packages in ROWS:
        print(f"Python {version}, {packages} packages", flush=True)
        folder = FOLDER / f"{version}-{packages}"
        if reason := install(version, packages, folder):
            table.add_row(version, packages, "", "", "", "", "not installed")
            reasons.append(f"Python {version}, {packages} packages: {reason}")
            continue
        python = folder / "bin/python"
        passed, last = tested(python, arguments or [*QUICK])
        versions = subprocess.run([python, "-c", VERSIONS], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        table.add_row(versions[0], packages, *versions[1:], last if passed else f"FAILED: {last}")
        outcomes.append(passed)
    Console(markup=False, highlight=False).print(table)
    print(*reasons, sep="\n", end="\n" * bool(reasons))
    return 0 if outcomes and all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
