"""The table of Pythons and packages: a stand-in for uv makes environments whose tests pass, fail, or can't be installed."""

import pytest

from common.protocol import BACKENDS
from tests import matrix
from tests.test_setup import PROJECT, PYTHONS

# As `uv --quiet venv … FOLDER`, whose Python answers as the folder's name says, and `uv --quiet pip install --python FOLDER …`.
UV = """#!/bin/sh
if [ "$2" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin"
    cat > "$folder/bin/python" <<'END'
#!/bin/sh
case "$0 $*" in
*failing*"-m pytest"*) echo "1 failed in 2s"; exit 1 ;;
*"-m pytest"*) echo "3 passed in 2s ($*)" ;;
*) echo 3.12.9 2.13.0 0.10.2 2.21.0 2.4.6 ;;
esac
END
    chmod +x "$folder/bin/python"
else
    case "$*" in *missing*) printf 'No solution\\nwas found\\n' >&2; exit 1 ;; esac
fi
"""


@pytest.fixture
def rows(monkeypatch, tmp_path):
    """Sets the rows, by the names of their packages."""
    (tmp_path / "uv").write_text(UV)
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setattr(matrix, "UV", tmp_path / "uv")
    monkeypatch.setattr(matrix, "FOLDER", tmp_path)
    monkeypatch.setattr(matrix, "PACKAGES", {name: [name] for name in ("passing", "failing", "missing")})
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *names: monkeypatch.setattr(matrix, "ROWS", [("3.12", name) for name in names])


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ("passing", 0, ["3 passed in 2s"]),
        ("passing missing", 0, ["3 passed in 2s", "not installed"]),
        ("failing passing", 1, ["FAILED: 1 failed in 2s", "3 passed in 2s"]),
        ("missing", 1, ["not installed"]),
    ],
)
def test_a_failed_test_or_nothing_tested_is_code_1(rows, capfd, names, code, said):
    rows(*names.split())
    assert matrix.main([]) == code
    out = capfd.readouterr().out
    assert ("Python 3.12, missing packages: No solution was found" in out.splitlines()) == ("missing" in names)
    table = out.partition(" tests ")[2].splitlines()
    lines = [line for line in table if line.split()[:1] in (["3.12"], ["3.12.9"])]
    assert [line.split()[1] for line in lines] == names.split()
    assert all(text in line for text, line in zip(said, lines, strict=True))


def test_the_arguments_choose_other_tests(rows, capfd):
    rows("passing")
    matrix.main(["tests/test_setup.py", "-k", "pin"])
    assert "--benchmark-disable tests/test_setup.py -k pin)" in capfd.readouterr().out


def test_the_rows_have_every_python_and_every_backend():
    assert tuple(python for python, packages in matrix.ROWS if packages == "pinned") == PYTHONS
    assert {packages for _, packages in matrix.ROWS} == {*matrix.PACKAGES}
    extras = set(matrix.EXTRAS) - {"--extra"}
    assert {*BACKENDS} < extras < {*PROJECT["optional-dependencies"]}
    assert all((matrix.FOLDER.parent / path).exists() for path in matrix.QUICK)
