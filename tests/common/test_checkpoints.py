"""docs/checkpoint.md names every field of a checkpoint, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from common import checkpoints, data, parameters, training
from common.checkpoints import Checkpoint
from common.config import Config
from common.errors import UserError
from common.parameters import shapes
from common.protocol import BACKENDS, load

PAGE = (Path(__file__).parents[2] / "docs/checkpoint.md").read_text(encoding="utf-8")
CONFIG = Config().replace(
    variational="flow",
    image_shape=(8, 8),
    latent_size=3,
    hidden_size=7,
    steps=4,
    validation_interval=2,
    optimizer="rmsprop",
    rmsprop_centered=True,
    ema_decay=0.5,
    dtype="float64",
    chunk=1,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that has every field."""
    digits = data.load("binarized-digits", data_dir=None, binarize=None)
    initial = parameters.initial_parameters(CONFIG.model, training=CONFIG.training, pixel_log_odds=np.zeros(64))
    state = parameters.fresh_state(initial, optimizer=CONFIG.optimizer, training=CONFIG.training, dtype=CONFIG.dtype)
    checkpoint = Checkpoint(CONFIG, "pytorch", "quick", digits.name, digits.sha256, state, earlier=[("jax", 0)])
    checkpoint.history["floor_seconds"] = [1.0]
    path = tmp_path_factory.mktemp("run") / "run.h5"
    training.train(
        load("pytorch").create(CONFIG, state),
        checkpoint,
        dataset=digits,
        save=lambda checkpoint: checkpoints.save(checkpoint, path),
    )
    return path


def unsealed(file: Path, path: Path) -> Path:
    """A copy of the file as earlier versions wrote it: without a seal, which a change by hand would break."""
    with h5py.File(file) as whole, h5py.File(path, "w") as copy:
        copy.attrs.update(whole.attrs)
        for name in whole:
            whole.copy(name, copy)
    return path


def table(title: str) -> list[list[str]]:
    """The cells of the table under a title of the page."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip("`") for cell in row] for row in rows]


def test_the_page_has_the_attributes_of_a_file(file: Path) -> None:
    kinds = {"integer": np.integer, "text": str, "text, JSON": str, "float": np.floating}
    with h5py.File(file) as opened:
        groups = ["/", *(f"/{name}" for name, item in _items(opened) if isinstance(item, h5py.Group))]
        found = {(name, group) for group in groups for name in opened[group].attrs}
        documented = {(name, group.strip("`")): kind for name, group, kind, _ in table("Attributes")}
        assert documented.keys() == found
        for (name, group), kind in documented.items():
            assert isinstance(opened[group].attrs[name], kinds[kind]), name


def test_the_page_has_the_arrays_of_a_file(file: Path) -> None:
    names = sorted(shapes(CONFIG.model), key=len, reverse=True)
    documented = {name: (kind, shape) for name, kind, shape, _ in table("Arrays")}
    found = set()
    with h5py.File(file) as opened:
        for path, item in _items(opened):
            if isinstance(item, h5py.Group):
                continue
            own = next((name for name in names if path.endswith(f"/{name}")), None)
            field = path.removesuffix(own) + "NAME" if own else path
            found.add(field)
            assert field in documented, f"docs/checkpoint.md lacks {field}"
            kind, shape = documented[field]
            assert item.dtype == {"float": CONFIG.dtype}.get(kind, kind), field
            assert item.shape == shapes(CONFIG.model)[own] if own else item.ndim == (shape != "[]"), field
    assert documented.keys() == found


def _items(file: h5py.File) -> list[tuple[str, h5py.Group | h5py.Dataset]]:
    items: list[tuple[str, h5py.Group | h5py.Dataset]] = []
    file.visititems(lambda name, item: items.append((name, item)))
    return items


@pytest.mark.parametrize("network", ["mlp", "resnet"])
@pytest.mark.parametrize(("family", "prior"), [("mean-field", "standard"), ("flow", "standard"), ("mean-field", "flow")])
def test_the_page_has_the_parameters_of_a_model(family: str, prior: str, network: str) -> None:
    model = CONFIG.replace(variational=family, prior=prior, network=network, channels=5, blocks=2).model
    sizes = {"pixels": model.pixels, "hidden": model.hidden_size, "latent": model.latent_size}
    sizes |= {"2·latent": 2 * model.latent_size, "ENCODED": (3 if family == "flow" else 2) * model.latent_size}
    sizes |= {"C": 5, "2·C": 10, "4·C": 20, "FLAT": 2 * 2 * 10, "3": 3, "4": 4}
    depths = {"flow": model.flow_depth * (family == "flow"), "prior": model.prior_depth * (prior == "flow")}
    rows = table("Parameters")
    if network == "resnet":
        rows = [row for row in rows if "coder" not in row[0]] + table("Parameters of the residual network")
    documented = {}
    for name, shape in rows:
        blocks = range(depths.get(name.partition(".")[0], model.blocks))
        for each in [name.replace(".I.", f".{i}.") for i in blocks] if ".I." in name else [name]:
            documented[each] = tuple(sizes[size] for size in re.findall(r"[^\[\], ]+", shape))
    assert documented == shapes(model)


def test_what_is_saved_is_loaded(file: Path, tmp_path: Path) -> None:
    checkpoint = checkpoints.load(file)
    assert checkpoint.earlier == [("jax", 0)]
    checkpoints.save(checkpoint, tmp_path / "again.h5")
    again = checkpoints.load(tmp_path / "again.h5")
    for name in ("config", "backend", "preset", "dataset", "sha256", "best_step", "best_valid_elbo", "history", "earlier"):
        assert getattr(again, name) == getattr(checkpoint, name)
    for ours, theirs in ((again.state, checkpoint.state), (again.best, checkpoint.best)):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("steps", "parts"),
    [(5, [("a", 5)]), (10, [("a", 10)]), (15, [("a", 10), ("b", 15)]), (30, [("a", 10), ("b", 20), ("jax", 30)])],
)
def test_who_trained_the_first_steps(steps: int, parts: list[tuple[str, int]]) -> None:
    checkpoint = Checkpoint(CONFIG, "jax", "quick", "digits", "", {}, earlier=[("a", 10), ("b", 20)])
    assert [(part["backend"], part["last_step"]) for part in checkpoint.trained(steps)] == parts


def test_a_file_from_before_earlier_is_loaded_and_a_damaged_one_is_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    unsealed(file, path)
    with h5py.File(path, "r+") as opened:
        del opened.attrs["earlier"]
    assert checkpoints.load(path).earlier == []
    with h5py.File(path, "r+") as opened:
        opened.attrs["earlier"] = "jax"
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoints.load(path)


@pytest.mark.parametrize("missing", ["step", "ema", "optimizer", "optimizer/first_moment", "parameters/decoder.out.bias"])
def test_a_file_that_lacks_something_of_its_run_is_refused(file: Path, tmp_path: Path, missing: str) -> None:
    path = tmp_path / "part.h5"
    unsealed(file, path)
    with h5py.File(path, "r+") as opened:
        del opened[f"state/{missing}"]
    with pytest.raises(UserError, match="holds other arrays than its config's model and optimizer have"):
        checkpoints.load(path)


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"ema_decay": 0.0}, {"optimizer": "adam", "hidden_size": 8}])
def test_a_file_of_other_settings_than_it_says_is_refused(file: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "other.h5"
    unsealed(file, path)
    with h5py.File(path, "r+") as opened:
        opened.attrs["config"] = json.dumps(CONFIG.replace(**changes).as_dict())
    with pytest.raises(UserError, match="holds other arrays"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("training", {"selection": "cest-validation"}, "--selection is cest-validation; it must be one of last"),
        ("training", {"batch_size": None}, "its settings lack batch_size"),
        ("training", {"seed": 1.5}, "--seed is 1.5; it must be a whole number"),
        ("training", {"steps": "many"}, "--steps is many; it must be a whole number"),
        ("training", {"momentum": 0.9, "averaging": 3}, "no setting averaging, momentum; use the code that wrote it"),
        ("training", {"steps": 3}, "its run is at step 4 of 3"),
        ("optimizer", {"learning_rate": -1.0}, "--learning-rate is -1.0; it must be a finite number, 0 or more"),
        ("model", {"flow_depth": 10**9}, "--flow-depth is 1000000000; it must be at least 1 and at most 1000"),
        ("", {"precision": "fp8"}, "--precision is fp8; it must be one of full"),
        ("", {"optimizer": [1]}, "its 'optimizer' is no section of settings"),
        ("", {"extra": 1}, "no setting extra"),
    ],
)
def test_settings_are_judged_as_at_the_command_line(
    file: Path, tmp_path: Path, section: str, changes: dict[str, object], words: str
) -> None:
    path = unsealed(file, tmp_path / "edited.h5")
    with h5py.File(path, "r+") as opened:
        config = json.loads(opened.attrs["config"])
        own = config[section] if section else config
        own |= changes
        for name in [name for name, value in changes.items() if value is None]:
            del own[name]
        opened.attrs["config"] = json.dumps(config)
    with pytest.raises(UserError, match=rf"edited\.h5 can't be read: .*{words}"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("history/elbo", np.array([b"one"]), "history's elbo isn't a list of numbers"),
        ("history/elbo", np.zeros(99), "history's step, objective, elbo differ in length"),
        ("state/parameters/decoder.out.bias", None, "was not written whole"),
    ],
)
def test_arrays_are_judged_before_they_are_used(file: Path, tmp_path: Path, name: str, value: Any, words: str) -> None:
    path = unsealed(file, tmp_path / "edited.h5")
    with h5py.File(path, "r+") as opened:
        del opened[name]
        if value is None:  # no chunk is written: HDF5 would make room for 6 GB of zeros
            opened.create_dataset(name, shape=(1_500_000, 1000), dtype="f4", chunks=(1000, 1000))
        else:
            opened[name] = value
    with pytest.raises(UserError, match=words):
        checkpoints.load(path)


def test_a_clock_that_lacks_a_column_as_in_old_files_is_left_out(file: Path, tmp_path: Path) -> None:
    path = unsealed(file, tmp_path / "old.h5")
    with h5py.File(path, "r+") as opened:
        del opened["history/chunk_first"]
    assert not {"chunk_first", "chunk_steps", "chunk_seconds"} & checkpoints.load(path).history.keys()
    assert "elbo" in checkpoints.load(path).history


def test_every_flipped_bit_is_found(file: Path, tmp_path: Path) -> None:
    content, path, draws = file.read_bytes(), tmp_path / "flipped.h5", np.random.default_rng(0)
    for place in [*range(0, 600, 7), *draws.integers(0, len(content), 150)]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(draws.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"is damaged \(its bytes aren't those that were written.*\)|another program's"):
            checkpoints.load(path)


def test_a_damaged_name_or_kind_is_a_sentence(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.h5"
    path.write_bytes(unsealed(file, path).read_bytes().replace(b"second_moment", b"\xffecond_moment"))
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoints.load(path)
    unsealed(file, path)
    with h5py.File(path, "r+") as opened:
        del opened["history"]
        opened["history"] = np.zeros(3)
    with pytest.raises(UserError, match="not a checkpoint"):
        checkpoints.load(path)


def test_a_file_that_may_not_be_read_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(UserError, match=r"Cannot read .*run\.h5 \(Permission denied\); make the file readable"):
        checkpoints.load(file)


@pytest.mark.parametrize(
    "name", ["run.weights.h5", "run.safetensors", "run.msgpack", "run.json", "run.npz", "data.h5", "some.h5"]
)
def test_a_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with h5py.File(path, "w") as opened:
        for split in data.SPLITS if name == "data.h5" else ("layers",):
            opened[split] = np.zeros((2, 4))
    kinds = {"run.json": "a record", "run.npz": "a file of arrays", "data.h5": "a data set", "some.h5": "another program's"}
    with pytest.raises(UserError, match=f"{name} is {kinds.get(name, 'an exported file of weights')}.* not a checkpoint; give"):
        checkpoints.load(path)


def test_every_exported_file_is_known_by_its_ending() -> None:
    assert {load(backend).EXPORT_SUFFIX for backend in BACKENDS} < checkpoints.OTHER_KINDS.keys()
