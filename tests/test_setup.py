"""What holds of the checkout itself: pins and ranges, the Makefile's set-up, and the one-way arrows of import."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from common.protocol import BACKENDS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
LOCKED = ROOT / "environments/cpu-locked.txt"
PINNED = sorted({*(ROOT / "environments").glob("*.txt")} - {LOCKED})
OWN = ("audit.txt", "numpyro.txt", "ray.txt", "slurm.txt")  # not in cpu-locked.txt: each for another environment, or for some
PYTHONS = ("3.11", "3.12", "3.13")

# Backend → the packages that only its folder imports: those of its extra in pyproject.toml.
FRAMEWORKS = {name: {Requirement(text).name for text in PROJECT["optional-dependencies"][name]} for name in BACKENDS}


def requirements(path: Path) -> list[Requirement]:
    """Those that a requirements file names itself."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-r ")]


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


# Pins and ranges


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_every_pin_is_exact_and_within_its_supported_range(path):
    ranges = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    supported = {Requirement(text).name: Requirement(text).specifier for texts in ranges for text in texts}
    supported["tensorflow-cpu"] = supported["tensorflow"]  # the same release, built for CPUs alone
    for pin in requirements(path):
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert supported[pin.name].contains(specifier.version), f"{pin} is not within {supported[pin.name]}"


def test_every_supported_package_is_pinned():
    pinned = {pin.name for path in PINNED for pin in requirements(path)}
    for texts in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert {Requirement(text).name for text in texts} <= pinned


def locked() -> dict[str, set[str]]:
    """Package → its versions in cpu-locked.txt, without the +cpu of a build: some have one for each Python. All have hashes."""
    versions: dict[str, set[str]] = {}
    for line in LOCKED.read_text().replace("\\\n", "").splitlines():
        if not line.startswith("#"):
            text, *hashes = line.split("--hash=sha256:")
            assert hashes, f"{text} has no hash"
            assert all(re.fullmatch("[0-9a-f]{64}", each.strip()) for each in hashes), text
            requirement = Requirement(text.strip())
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", text
            versions.setdefault(requirement.name, set()).add(Version(specifier.version).public)
    return versions


def test_every_pin_is_locked_in_its_version():
    versions = locked()
    for path in PINNED:
        for pin in requirements(path):
            (specifier,) = pin.specifier
            name = canonicalize_name(pin.name)
            if path.name not in OWN or name in versions:
                assert versions.get(name) == {specifier.version}, f"{path.name} has {pin}: run `make lock`"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_has_its_files_of_pins(backend):
    assert (ROOT / "environments" / f"{backend}-cuda.txt").exists()
    assert (ROOT / "environments" / f"{backend}-cpu.txt").exists()
    assert f"-r {backend}-cpu.txt" in (ROOT / "environments/cpu.txt").read_text().splitlines()


def test_ci_runs_the_supported_pythons():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert tuple(f"3.{minor}" for minor in range(30) if f"3.{minor}.5" in supported) == PYTHONS
    (matrix,) = re.findall(r"python: (\[.*\])", (ROOT / ".github/workflows/ci.yml").read_text())
    assert tuple(ast.literal_eval(matrix)) == PYTHONS


def test_no_file_names_a_package_index():
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    index = re.compile(rb"pypi[.]|pythonhosted[.]|download[.]pytorch|anaconda[.]org|index-url[ =]+['\"]?http", re.IGNORECASE)
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert ROOT / "Makefile" in files
    assert [str(path) for path in files if index.search(path.read_bytes())] == []


# The Makefile, with a stand-in for Python that logs what it's asked and installs nothing

PYTHON_STAND_IN = """#!/bin/sh
# As python3: -c CHECK, -m venv FOLDER, -m pip install …, -m MODULE …
case "$1 $2" in
"-c "*platform*) echo "$STAND_IN_VERSION" ;;
"-c "*) [ "$STAND_IN_STATUS" = 0 ] && echo "$STAND_IN"; exit "$STAND_IN_STATUS" ;;
"-m venv") mkdir -p "$3/bin" && cp "$STAND_IN" "$3/bin/python"; echo "venv" >> "$STAND_IN_LOG" ;;
"-m "*)
    shift; echo "$*" >> "$STAND_IN_LOG"
    case "$1" in
    pip) exit "$STAND_IN_PIP" ;;
    pip_audit) eval "$STAND_IN_AUDIT" ;;
    esac ;;
esac
"""


class Checkout:
    """A folder with the Makefile and the pins, and a PATH whose python3 is the stand-in."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder / "checkout", folder / "log"
        shutil.copytree(ROOT / "environments", self.folder / "environments")
        shutil.copy(ROOT / "Makefile", self.folder)
        for path in self.folder.rglob("*.txt"):
            os.utime(path, (0, 0))
        (folder / "bin").mkdir()
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            (folder / "bin" / name).write_text(PYTHON_STAND_IN)
            (folder / "bin" / name).chmod(0o755)
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "STAND_IN": str(folder / "bin/python3"),
            "STAND_IN_LOG": str(self.log),
            "STAND_IN_STATUS": "0",
            "STAND_IN_PIP": "0",
            "STAND_IN_AUDIT": "",
            "STAND_IN_VERSION": "3.10.4",
        }

    def make(self, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        """The finished process, and what the stand-ins were asked in it."""
        make = shutil.which("make")
        assert make is not None
        self.log.write_text("")
        done = subprocess.run(
            [make, *arguments],
            check=False,
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )
        return done, self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


PIP = "pip install --disable-pip-version-check"
CPU, COMPILED = "--no-compile -r environments/cpu.txt", "compileall -qq -j 0 -x /tests/ .venv/lib"
DEV = "-r environments/cpu.txt -r environments/dev.txt"
BENCH = "benchmarks run --preset quick"
TESTS = "pytest -n 2 --dist loadfile --benchmark-disable"


def test_bench_and_test_set_up_what_they_need_once_in_either_order(checkout, tmp_path_factory):
    assert checkout.make("bench")[1] == ["venv", f"{PIP} {CPU}", COMPILED, BENCH]
    assert checkout.make("bench")[1] == [BENCH]
    assert checkout.make("test")[1] == [f"{PIP} {DEV}", TESTS]
    assert checkout.make("test", "ARGS=-k setup")[1] == [f"{TESTS} -k setup"]
    other = Checkout(tmp_path_factory.mktemp("other"))
    assert other.make("test")[1] == ["venv", f"{PIP} {CPU}", COMPILED, f"{PIP} {DEV}", TESTS]
    assert other.make("bench")[1] == [BENCH]


def test_an_interrupted_set_up_is_redone_from_scratch(checkout):
    done, asked = checkout.make("bench", STAND_IN_PIP="1")
    assert done.returncode != 0
    assert asked == ["venv", f"{PIP} {CPU}"]
    (checkout.folder / ".venv/half-made").touch()
    done, asked = checkout.make("bench")
    assert done.returncode == 0
    assert asked == ["venv", f"{PIP} {CPU}", COMPILED, BENCH]
    assert not (checkout.folder / ".venv/half-made").exists()


@pytest.mark.parametrize("name", ["base.txt", "cpu.txt", *(f"{backend}-cpu.txt" for backend in BACKENDS)])
def test_changed_pins_are_installed_anew(checkout, name):
    checkout.make("test")
    later = (checkout.folder / ".venv/ready-dev").stat().st_mtime + 10
    os.utime(checkout.folder / "environments" / name, (later, later))
    assert checkout.make("bench")[1] == ["venv", f"{PIP} {CPU}", COMPILED, BENCH]


def test_changed_pins_of_the_tools_leave_bench_alone(checkout):
    checkout.make("test")
    later = (checkout.folder / ".venv/ready-dev").stat().st_mtime + 10
    os.utime(checkout.folder / "environments/dev.txt", (later, later))
    assert checkout.make("bench")[1] == [BENCH]
    assert checkout.make("test")[1] == [f"{PIP} {DEV}", TESTS]


def test_numpyro_has_an_environment_of_its_own(checkout):
    own = [f"{PIP} -r environments/numpyro.txt", "benchmarks study numpyro --python .venv-numpyro/bin/python"]
    assert checkout.make("study-numpyro")[1] == ["venv", f"{PIP} {CPU}", COMPILED, "venv", *own]
    assert checkout.make("study-numpyro")[1] == own[1:]
    checkout.make("clean")
    assert not (checkout.folder / ".venv-numpyro").exists()


def test_the_older_scripts_are_named_by_their_folder(checkout):
    checkout.make("bench")
    assert checkout.make("study-ancestor", "ANCESTOR=some folder")[1] == ["benchmarks study ancestor some folder"]
    assert checkout.make("study-ancestor", "ARGS=--help")[1] == ["benchmarks study ancestor --help"]


def test_a_target_passes_its_arguments_on(checkout):
    checkout.make("setup")
    for target, asked in {
        "study-growth": "study growth",
        "bench-throughput": "study throughput",
        "study-throughput": "study throughput",
        "parity": "parity",
        "reproduce-standard": "reproduce standard",
        "regress": "regress",
        "bench-compare": "compare --base HEAD",
    }.items():
        assert checkout.make(target, "ARGS=--checkpoints a.h5")[1] == [f"benchmarks {asked} --checkpoints a.h5"]
    assert checkout.make("bench-compare", "BASE=HEAD~2")[1] == ["benchmarks compare --base HEAD~2"]
    assert checkout.make("bench-compare", "SAVED=a file")[1] == ["benchmarks compare --saved a file"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((name, f"make study-{name}") for name in ("ablation", "agreement", "bfloat16", "growth", "overhead")),
        ("bench-ancestor", "make study-ancestor"),
        ("bench-numpyro", "make study-numpyro"),
        ("bench-prove", "make test-slow"),
        ("cross-evaluate", 'make parity ARGS="--checkpoints FILE …"'),
        ("roofline", "make study-throughput ARGS=--draw"),
        ("shape-checks", "docs/shapes.md"),
    ],
)
def test_an_old_target_answers_with_the_new_one(checkout, old, new):
    done, asked = checkout.make(old)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f'"make {old}" is now "{new}".'
    assert asked == []
    assert not (checkout.folder / ".venv").exists()


def test_one_more_index_is_passed_on(checkout):
    assert checkout.make("TORCH_INDEX=file:///wheels", "bench")[1][1] == f"{PIP} --extra-index-url file:///wheels {CPU}"


HASHED = "--require-hashes --only-binary :all: -r environments/cpu-locked.txt"


def test_locked_makes_an_environment_of_listed_files_alone(checkout):
    checkout.make("setup")
    assert checkout.make("setup", "LOCKED=1")[1] == ["venv", f"{PIP} --no-compile {HASHED}", COMPILED, f"{PIP} {HASHED}"]
    assert checkout.make("setup", "LOCKED=1")[1] == []
    assert checkout.make("setup")[1] == []
    lock, tools = (checkout.folder / "environments" / name for name in ("cpu-locked.txt", "dev.txt"))
    later = (checkout.folder / ".venv/ready-dev").stat().st_mtime + 10
    os.utime(lock, (later, later))
    assert checkout.make("setup")[1] == []
    assert checkout.make("bench", "LOCKED=1")[1] == ["venv", f"{PIP} --no-compile {HASHED}", COMPILED, BENCH]
    checkout.make("setup", "LOCKED=1")
    os.utime(lock, (0, 0))
    later = (checkout.folder / ".venv/ready-dev").stat().st_mtime + 10
    os.utime(tools, (later, later))
    assert checkout.make("setup")[1] == [f"{PIP} {DEV}"], "other files come into .venv, which isn't a locked one any more"
    assert checkout.make("setup", "LOCKED=1")[1][0] == "venv"


def test_an_interrupted_locked_set_up_leaves_no_locked_environment(checkout):
    assert checkout.make("bench", "LOCKED=1", STAND_IN_PIP="1")[0].returncode != 0
    assert checkout.make("bench")[1][0] == "venv"
    assert checkout.make("bench", "LOCKED=1")[1][0] == "venv"


def test_another_index_needs_hashes_of_its_own(checkout):
    other = ("LOCKED=1", "TORCH_INDEX=file:///wheels")
    done, asked = checkout.make("bench", *other)
    assert done.returncode == 2
    assert "leave TORCH_INDEX out or write the file anew" in done.stderr.splitlines()[0]
    assert asked == []
    assert not (checkout.folder / ".venv").exists()
    lock = checkout.folder / "environments/cpu-locked.txt"
    lock.write_text(lock.read_text().replace("\ntorch==2.13.0 ", "\ntorch==2.13.0+cpu "))
    assert checkout.make("bench", *other)[1][1] == f"{PIP} --extra-index-url file:///wheels --no-compile {HASHED}"
    asked = checkout.make("lock", other[1])[1][-1].split()
    assert asked[:3] == ["uv", "pip", "compile"]
    assert asked[asked.index("--extra-index-url") + 1] == "file:///wheels"


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("echo 'No known vulnerabilities found' >&2", 0, "No known vulnerabilities found"),
        ("echo 'Found 1' >&2; echo '| jinja2 |' > .venv-audit/found; exit 1", 2, r"[|] jinja2 [|]"),
        ("printf 'Traceback\\nTimeout\\n' >&2; exit 1", 2, "Nothing is known of these packages, .* answer [(]Timeout[)]; .*"),
    ],
    ids=["none", "some", "no answer"],
)
def test_an_audit_without_an_answer_is_not_one_without_a_finding(checkout, answer, code, said):
    checkout.make("audit", STAND_IN_AUDIT="echo old > .venv-audit/found")  # the last audit's answer isn't shown again
    done, asked = checkout.make("audit", STAND_IN_AUDIT=answer)
    assert asked[-1].startswith("pip_audit --strict --disable-pip --require-hashes -r environments/cpu-locked.txt")
    assert done.returncode == code
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make: ")]
    assert re.fullmatch(said, line)


def test_the_tools_of_supply_have_an_environment_of_their_own(checkout):
    asked = checkout.make("audit")[1]
    assert asked[0] == "venv"
    assert asked[1].endswith("-r environments/audit.txt")
    assert len(checkout.make("audit")[1]) == 1
    assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        ("3", (), "needs Python 3.11, 3.12 or 3.13, and 'python3' is 3.10.4"),
        ("3", ("PYTHON=python3.12",), "needs Python 3.11, 3.12 or 3.13, and 'python3.12' is 3.10.4"),
        ("3", ("PYTHON=nowhere/python",), "'nowhere/python' is not found"),
        ("1", (), "'python3' lacks the modules venv and ensurepip"),
    ],
)
def test_a_python_that_does_not_fit_is_an_error_in_one_sentence(checkout, status, arguments, message):
    done, asked = checkout.make("bench", *arguments, STAND_IN_STATUS=status)
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") == 2, "the sentence, and make's own line"
    assert asked == []
    assert not (checkout.folder / ".venv").exists()


def test_the_makefiles_check_accepts_this_python():
    (check,) = re.findall(r"^CHECK_PYTHON := (.*\\\n.*)$", MAKEFILE, re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", check.replace("\\\n\t", "")], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).exists()


def test_help_lists_every_target(checkout):
    done, _ = checkout.make()
    listed = re.findall(r"^  make ([a-zA-Z0-9-]+) +\S", done.stdout, re.MULTILINE)
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.MULTILINE))
    studies = {target for target in targets if target.startswith("study-")}
    assert {*listed} == targets - studies - {"help", "always"} | {"study-NAME"}
    assert {"bench", "test", "reproduce-standard"} <= {*listed}
    assert len(listed) <= 24


def test_pre_commit_runs_what_make_lint_runs(checkout):
    checkout.make("setup")
    done, _ = checkout.make("--dry-run", "lint")
    hooks = re.findall(r"^ +entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert [shlex.split(line) for line in done.stdout.splitlines()] == [shlex.split(hook) for hook in hooks]


# The arrows of import

IMPORT_ALL = """
import importlib, sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in frameworks:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

frameworks = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing)
for module in sys.argv[2:]:
    importlib.import_module(module)
print(*sorted(frameworks & set(sys.modules)))
"""


def test_common_and_benchmarks_import_with_no_framework_installed():
    paths = [path.relative_to(ROOT) for path in sources("common", "benchmarks")]
    modules = [".".join((path.parent if path.name == "__init__.py" else path.with_suffix("")).parts) for path in paths]
    modules.append("vaebench")
    assert "common.protocol" in modules
    frameworks = ",".join(sorted(set().union(*FRAMEWORKS.values())))
    command = [sys.executable, "-W", "error", "-c", IMPORT_ALL, frameworks, *modules]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sources("backends", "benchmarks", "common"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    folder, *inner = path.relative_to(ROOT).parts
    own = inner[0] if folder == "backends" else None
    for name in imports(path):
        first, _, rest = name.partition(".")
        for backend, packages in FRAMEWORKS.items():
            assert first not in packages or backend == own, f"{path} imports {name}"
        if first == "backends":
            assert rest.partition(".")[0] == own, f"{path} imports {name}"
        if first == "benchmarks":
            assert folder == "benchmarks", f"{path} imports {name}"


# The rooms of benchmarks/, each of which may import from itself and those after it; the pytest-benchmark suite is like a study.
ROOMS = ("commands", "gates", "studies", "parity", "torture", "outputs", "engines", "harness")
# Who may look a module up by its name: a backend; a command; a process's function; a study; a scenario.
LOOKUPS = (
    "common/protocol.py",
    "benchmarks/__main__.py",
    "benchmarks/harness/processes.py",
    "benchmarks/studies/skeleton.py",
    "benchmarks/studies/reliability.py",
)


@pytest.mark.parametrize("path", sources("benchmarks"), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_downward(path):
    room = path.relative_to(ROOT / "benchmarks").parts[0]
    # __main__ imports a command's room when the command is asked for.
    place = ROOMS.index({"throughput": "studies", "__main__.py": "harness", "__init__.py": "harness"}.get(room, room))
    for name in imports(path):
        first, room, *_ = [*name.split("."), ""]
        if first == "benchmarks" and (path.parent.name, room) != (
            "torture",
            "__main__",
        ):  # scenarios call commands, as people do
            assert room in ROOMS, f"{path} imports {name}"
            assert ROOMS.index(room) >= place, f"{path} imports {name}, a room above its own"


@pytest.mark.parametrize("path", sources("benchmarks", "common"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shared_file_asks_which_backend_it_has(path):
    for node in ast.walk(ast.parse(path.read_text())):
        compared = [*node.comparators, node.left] if isinstance(node, ast.Compare) else []
        compared += [node.value] if isinstance(node, ast.MatchValue) else []
        texts = {part.value for value in compared for part in ast.walk(value) if isinstance(part, ast.Constant)}
        assert not texts & set(BACKENDS), f"{path}, line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Name | ast.Attribute):
            called = node.id if isinstance(node, ast.Name) else node.attr
            lookup = called in ("import_module", "__import__")
            assert not lookup or path.relative_to(ROOT).as_posix() in LOOKUPS, f"{path} looks a module up by name"
