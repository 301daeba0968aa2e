"""Bad files made by hand, as arguments of a command: each is refused with one sentence, at once and in little memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.__main__ import main
from benchmarks.torture import bounded, files
from benchmarks.torture.tried import Tell, Tried, choices
from common import data
from common.image_files import SPLITS

TITLE = "bad files made by hand"
AT_LEAST = 363  # all of them
SECONDS, GROWN = 1.0, 200 * 10**6  # of the processor; bytes
PATIENCE = 20.0  # seconds, beside other programs
LONGEST = 1_000  # characters of a sentence

DEEP = 100_000
Make = Callable[[Path], None]  # writes the file


def cases() -> dict[str, tuple[str, Make]]:
    """Name → (file's name, who writes it). The ending says which command reads the file: see `arguments`."""
    found: dict[str, tuple[str, Make]] = {}
    for reader, name in (
        ("checkpoint", "run.h5"),
        ("HDF5 data", "data.h5"),
        (".npz data", "data.npz"),
        (".npy data", "data.npy"),
        ("record", "record.json"),
        ("settings", "settings.toml"),
    ):
        for what, make in PLACES.items():
            if name == "settings.toml" and what == "empty":  # an empty settings file gives no flag
                continue
            found[f"{reader}: {what}"] = (name, make)
    for reader, name, makers in (
        ("checkpoint", "run.h5", _each(_checkpoint, CHECKPOINTS)),
        ("checkpoint", "away.h5", _each(_checkpoint, ELSEWHERE)),
        ("HDF5 data", "data.h5", _each(_hdf5, HDF5_DATA)),
        ("record", "record.json", _each(_record, RECORDS) | _each(_written, RECORD_TEXTS)),
        ("settings", "settings.toml", _each(_written, SETTINGS)),
        ("per-image file", "pair.json", _each(_pair, PER_IMAGE)),
    ):
        found |= {f"{reader}: {what}": (name, make) for what, make in makers.items()}
    for what, make in NUMPY_DATA.items():
        ending = what.partition(" ")[0]
        found[f"{ending} data: {what}"] = (f"data{ending}", make)
    return found


def _each(maker: Callable[[Any], Make], them: Mapping[str, Any]) -> dict[str, Make]:
    """What each is → who writes its file."""
    return {what: maker(each) for what, each in them.items()}


def arguments(path: Path) -> list[str]:
    """The command that reads the file."""
    if path.name == "run.h5":
        return ["evaluate", str(path), "--data", str(path.with_name("images.h5"))]
    if path.name == "away.h5":
        return ["evaluate", str(path)]
    if path.name == "pair.json":
        return ["diff", str(path), str(path)]
    if path.suffix == ".json":
        return ["results", str(path)]
    if path.suffix == ".toml":
        return ["run", "--config", str(path), "--dry-run", "--results", str(path.parent)]
    return ["run", "--data", str(path), "--backend", "jax", "--batch-size", "4", "--dry-run", "--results", str(path.parent)]


# --- for every reader ---


def _device(name: str) -> Make:
    return lambda path: path.symlink_to(f"/dev/{name}")


def _written(content: str | bytes) -> Make:
    def make(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


PLACES: dict[str, Make] = {
    "missing": lambda path: None,
    "empty": _written(b""),
    "one byte": _written(b"\x89"),
    "noise": _written(np.random.default_rng(0).bytes(5_000)),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(path.with_name("nowhere")),
    "/dev/zero": _device("zero"),
    "/dev/null": _device("null"),
    "/dev/full": _device("full"),
    "/dev/random": _device("random"),
}


# --- checkpoints, without a seal: these changes would break it ---

Edit = Callable[[h5py.File], None]


def _checkpoint(edit: Edit) -> Make:
    def make(path: Path) -> None:
        sealed = path.with_name("sealed.h5")
        _hdf5(lambda file: None)(path.with_name("images.h5"))
        files.save_checkpoint(sealed, sha256=data.content_sha256(images()))
        with h5py.File(sealed) as whole, h5py.File(path, "w") as copy:
            copy.attrs.update(whole.attrs)
            for name in whole:
                whole.copy(name, copy)
            edit(copy)

    return make


def _config(section: str | None, **changes: Any) -> Edit:
    """The config with some settings changed; None removes one."""

    def edit(file: h5py.File) -> None:
        config = json.loads(file.attrs["config"])
        own = config if section is None else config[section]
        own |= changes
        for name in [name for name, value in changes.items() if value is None]:
            del own[name]
        file.attrs["config"] = json.dumps(config)

    return edit


def _attribute(name: str, value: Any, place: str = "/") -> Edit:
    def edit(file: h5py.File) -> None:
        file[place].attrs[name] = value

    return edit


WEIGHT = "state/parameters/encoder.first.weight"


def _array(value: Any, place: str = WEIGHT, **options: Any) -> Edit:
    """Another array in the place; None leaves it empty."""

    def edit(file: h5py.File) -> None:
        del file[place]
        if value is not None or options:
            file.create_dataset(place, data=value, **options)

    return edit


def _link(value: Any, place: str) -> Edit:
    def edit(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file[place] = value

    return edit


def _loop(place: str) -> Edit:
    """A group that is in itself."""

    def edit(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file[place] = file["/"]

    return edit


CHECKPOINTS: dict[str, Edit] = {
    "schema of another version": _attribute("schema", 2),
    "schema as text": _attribute("schema", "one"),
    "schema as a list": _attribute("schema", [1, 1]),
    "config as a number": _attribute("config", 7),
    "config as a list": _attribute("config", "[1, 2]"),
    "config as null": _attribute("config", "null"),
    "config without an end": _attribute("config", '{"model": '),
    "config nested 10⁵ deep": _attribute("config", np.bytes_(b"[" * 60_000)),
    "config in another encoding": _attribute("config", np.bytes_(b"\xff\xfe{}")),
    "config as texts": _attribute("config", ["{}", "{}"]),
    "earlier as text": _attribute("earlier", "jax"),
    "earlier as numbers": _attribute("earlier", "[1, 2]"),
    "earlier with infinity": _attribute("earlier", '[["jax", Infinity]]'),
    "earlier nested deep": _attribute("earlier", "[" * 60_000),
    "best step as text": _attribute("step", "ten", "best"),
    "best step as NaN": _attribute("step", np.nan, "best"),
    "best ELBO as text": _attribute("valid_elbo", "good", "best"),
    "best ELBO as a list": _attribute("valid_elbo", [1.0, 2.0], "best"),
    **{
        f"--{name} as {value!r}": _config(section, **{name: value})
        for section, name, value in (
            ("model", "latent_size", 0),
            ("model", "latent_size", -3),
            ("model", "latent_size", 1.5),
            ("model", "latent_size", 10**9),
            ("model", "hidden_size", "4"),
            ("model", "hidden_size", 10**12),
            ("model", "pixels", -20),
            ("model", "pixels", "many"),
            ("model", "pixels", 1e300),
            ("model", "image_shape", [4]),
            ("model", "image_shape", "45"),
            ("model", "image_shape", [0, 0]),
            ("model", "image_shape", [-4, -5]),
            ("model", "image_shape", {"rows": 4}),
            ("model", "image_shape", [10**6, 10**6]),
            ("model", "variational", "normal"),
            ("model", "network", "unet"),
            ("model", "prior", ["flow"]),
            ("model", "dropout", 1.0),
            ("optimizer", "learning_rate", float("nan")),
            ("optimizer", "learning_rate", float("inf")),
            ("optimizer", "clip", -1),
            ("optimizer", "optimizer", "sgd"),
            ("optimizer", "adam_epsilon", 0),
            ("training", "seed", True),
            ("training", "seed", -1),
            ("training", "steps", 5),
            ("training", "steps", None),
            ("training", "batch_size", "128"),
            ("training", "selection", "best"),
            ("training", "momentum", 0.9),
            ("evaluation", "samples", 0),
            ("evaluation", "images", -1),
            ("evaluation", "sample_block", 2.5),
            (None, "dtype", "float16"),
            (None, "precision", "fp8"),
            (None, "device", "tpu"),
            (None, "training", []),
            (None, "model", None),
        )
    },
    "a weight of whole numbers": _array(np.zeros((20, 4), np.int32)),
    "a weight of half precision": _array(np.zeros((20, 4), np.float16)),
    "a weight of complex numbers": _array(np.zeros((20, 4), np.complex64)),
    "a weight of texts": _array(np.full((20, 4), b"0.5")),
    "a weight of another shape": _array(np.zeros((4, 20), np.float32)),
    "a weight of one axis": _array(np.zeros(80, np.float32)),
    "a weight without numbers": _array(np.zeros((0, 4), np.float32)),
    "a weight of 8 PB": _array(None, shape=(10**9, 10**6), dtype="f8", chunks=(1000, 1000)),
    "a weight of 6 GB, never written": _array(None, shape=(1_500_000, 1000), dtype="f4", chunks=(1000, 1000)),
    "a weight that is missing": _array(None),
    "a weight of lists": _array(None, shape=(20, 4), dtype=h5py.vlen_dtype(np.float32)),
    "a weight in another file": _link(h5py.ExternalLink("elsewhere.h5", "/weight"), WEIGHT),
    "a weight by a link to nowhere": _link(h5py.SoftLink("/nowhere"), WEIGHT),
    "a weight by a link to itself": _link(h5py.SoftLink(f"/{WEIGHT}"), WEIGHT),
    "a weight that is a group": _loop(WEIGHT),
    "one array more": _link(np.zeros(3), "state/parameters/more"),
    "a group in itself": _loop("state/more"),
    "state in itself": _loop("state"),
    "state in another file": _link(h5py.ExternalLink("elsewhere.h5", "/"), "state"),
    "step as a float": _array(5.5, "state/step"),
    "step past the end": _array(np.int64(21), "state/step"),
    "step below 0": _array(np.int64(-1), "state/step"),
    "step as a list": _array(np.array([5, 5]), "state/step"),
    "step as text": _array("five", "state/step"),
    "history as an array": _link(np.zeros(3), "history"),
    "history of texts": _array(np.array([b"one", b"two"]), "history/elbo"),
    "history of tables": _array(np.zeros((2, 2)), "history/elbo"),
    "history of one number": _array(3.0, "history/elbo"),
    "history of columns of other lengths": _array(np.zeros(99), "history/elbo"),
    "history of 8 PB": _array(None, "history/elbo", shape=(10**15,), dtype="f8", chunks=(1000,)),
    "history of 6 GB, never written": _array(None, "history/elbo", shape=(750_000_000,), dtype="f8", chunks=(1000,)),
    "no history": _array(None, "history"),
    "no best": _array(None, "best"),
    "a way to binarize that there isn't": _attribute("binarize", "round"),
    "a backend that there isn't": _attribute("backend", "theano"),
    "a backend with control characters": _attribute("backend", "\x1b[31mjax\n"),
    "a backend as a number": _attribute("backend", 3),
}
ELSEWHERE: dict[str, Edit] = {  # a checkpoint whose data set can't be found
    "a data set that there isn't": _attribute("dataset", "binarized-letters"),
    "a data set with control characters": _attribute("dataset", "\x1b]0;title\x07.h5"),
    "a data set in a device": _attribute("dataset", "/dev/zero/x.h5"),
    "a data set by a name of 60,000 characters": _attribute("dataset", "x" * 60_000 + ".h5"),
}


# --- data files ---


def images() -> dict[str, np.ndarray]:
    return files.drawn(pixels=20, images=(16, 8, 8))


def _hdf5(edit: Edit) -> Make:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for split, array in images().items():
                file[split] = array
            edit(file)

    return make


def _train(value: Any, **options: Any) -> Edit:
    return _array(value, "train", **options)


def _virtual(file: h5py.File) -> None:
    del file["train"]
    layout = h5py.VirtualLayout((16, 20), np.uint8)
    layout[:] = h5py.VirtualSource("missing.h5", "train", shape=(16, 20))
    file.create_virtual_dataset("train", layout)


def _enum(file: h5py.File) -> None:
    del file["train"]
    file.create_dataset("train", shape=(16, 20), dtype=h5py.enum_dtype({"black": 0, "white": 7}), data=np.full((16, 20), 7))


def _named_type(file: h5py.File) -> None:
    del file["train"]
    file["train"] = np.dtype("f4")


def _nulls(file: h5py.File) -> None:
    del file["train"]
    file["train"] = h5py.Empty("f4")


def _half_written(file: h5py.File) -> None:
    del file["train"]
    file.create_dataset("train", shape=(16, 20), dtype=np.uint8, chunks=(4, 20))[:8] = 1


def _grey(value: float) -> Edit:
    array = np.zeros((16, 20))
    array[3, 4] = value
    return _train(array)


HDF5_DATA: dict[str, Edit] = {
    "no train": _train(None),
    "train in another file": _link(h5py.ExternalLink("elsewhere.h5", "/train"), "train"),
    "train in a device": _link(h5py.ExternalLink("/dev/zero", "/train"), "train"),
    "train by a link to nowhere": _link(h5py.SoftLink("/nowhere"), "train"),
    "train by a link to itself": _link(h5py.SoftLink("/train"), "train"),
    "train a group": _loop("train"),
    "train a type": _named_type,
    "train null": _nulls,
    "train virtual, without its source": _virtual,
    "train in raw storage": _train(None, shape=(16, 20), dtype="u1", external=[("raw.bin", 0, 320)]),
    "train in raw storage of a device": _train(None, shape=(16, 20), dtype="u1", external=[("/dev/zero", 0, 320)]),
    "train of 1 PB": _train(None, shape=(10**12, 1000), dtype="u1", chunks=(1000, 1000)),
    "train of 7 GB, never written": _train(None, shape=(7_000_000, 1000), dtype="u1", chunks=(1000, 1000)),
    "train never written": _train(None, shape=(16, 20), dtype="u1"),
    "train written by half": _half_written,
    "train of names": _enum,
    "train of texts": _train(np.full((16, 20), b"1")),
    "train of lists": _train(None, shape=(16, 20), dtype=h5py.vlen_dtype(np.uint8)),
    "train of objects": _train(None, shape=(16, 20), dtype=h5py.string_dtype()),
    "train of complex numbers": _train(np.zeros((16, 20), complex)),
    "train of pairs": _train(np.zeros((16, 20), [("a", "u1"), ("b", "u1")])),
    "train of references": _train(None, shape=(16, 20), dtype=h5py.ref_dtype),
    "train of a number": _train(1),
    "train of one axis": _train(np.zeros(320, np.uint8)),
    "train of four axes": _train(np.zeros((4, 4, 4, 5), np.uint8)),
    "train without images": _train(np.zeros((0, 20), np.uint8)),
    "train without pixels": _train(np.zeros((16, 0), np.uint8)),
    "train of other pixels": _train(np.zeros((16, 21), np.uint8)),
    "train with NaN": _grey(np.nan),
    "train with infinity": _grey(np.inf),
    "train with 2": _grey(2),
    "train with -1": _grey(-1),
    "train with 0.5": _grey(0.5),
    "image_shape of one size": _attribute("image_shape", [20]),
    "image_shape of three": _attribute("image_shape", [4, 5, 1]),
    "image_shape below 0": _attribute("image_shape", [-4, -5]),
    "image_shape of other pixels": _attribute("image_shape", [4, 4]),
    "image_shape of floats": _attribute("image_shape", [4.0, 5.0]),
    "image_shape of a text": _attribute("image_shape", "4 x 5"),
    "image_shape beyond 64 bits": _attribute("image_shape", np.array([2**63, 2], np.uint64)),
    "image_shape null": _attribute("image_shape", h5py.Empty("i4")),
    "fewer images than a batch": _train(np.zeros((3, 20), np.uint8)),
}


def _npz(**changes: Any) -> Make:
    """The arrays with some of them changed; None removes one."""
    arrays = {name: array for name, array in (images() | changes).items() if array is not None}
    return lambda path: np.savez(path, allow_pickle=True, **arrays)


def _npy_bytes(header: str, *, version: tuple[int, int] = (1, 0), body: bytes = b"\0" * 320) -> bytes:
    size = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + header.encode() + body


def _npy(header: str, **options: Any) -> Make:
    return _written(_npy_bytes(header, **options))


def _zip(members: dict[str, bytes], *, method: int | None = None) -> Make:
    """A zip file of these members; `method`: the number of the compression that it claims."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        if method is not None:
            changed = bytearray(path.read_bytes())
            for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
                start = changed.find(mark)
                while start >= 0:
                    changed[start + place] = method
                    start = changed.find(mark, start + 1)
            path.write_bytes(changed)

    return make


def _saved(value: Any, **options: Any) -> Make:
    return lambda path: np.save(path, value, **options)


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': (16, 20), }\n"
HUGE = HEADER.replace("(16, 20)", "(10000000000, 20)")
NUMPY_DATA: dict[str, Make] = {
    ".npz of no arrays": _zip({}),
    ".npz without test": _npz(test=None),
    ".npz of objects": _npz(train=np.full((16, 20), {}, object)),
    ".npz of texts": _npz(train=np.full((16, 20), "1")),
    ".npz of dates": _npz(train=np.zeros((16, 20), "M8[s]")),
    ".npz of one axis": _npz(train=np.zeros(320, np.uint8)),
    ".npz with NaN": _npz(train=np.full((16, 20), np.nan)),
    ".npz with image_shape of texts": _npz(image_shape=np.array(["4", "5"])),
    ".npz with image_shape of objects": _npz(image_shape=np.array([{}, {}], object)),
    ".npz with an array of 200 GB": _zip({"train.npy": _npy_bytes(HUGE), "valid.npy": b"", "test.npy": b""}),
    ".npz that is text": _zip({f"{split}.npy": b"hello" for split in SPLITS}),
    ".npz without .npy": _zip(dict.fromkeys(SPLITS, b"hello")),
    ".npz of an unknown compression": _zip({f"{split}.npy": _npy_bytes(HEADER) for split in SPLITS}, method=99),
    ".npz that claims bzip2": _zip({f"{split}.npy": _npy_bytes(HEADER) for split in SPLITS}, method=12),
    ".npz that claims LZMA": _zip({f"{split}.npy": _npy_bytes(HEADER) for split in SPLITS}, method=14),
    ".npz that is a pickle": _written(b"\x80\x04K\x01."),
    ".npz with members above its folder": _zip({"../train.npy": _npy_bytes(HEADER)}),
    ".npy of objects": _saved(np.full((16, 20), {}, object), allow_pickle=True),
    ".npy of a number": _saved(np.array(1)),
    ".npy of nine images": _saved(np.zeros((9, 20), np.uint8)),
    ".npy of texts": _saved(np.full((16, 20), "1")),
    ".npy of records": _saved(np.zeros((16, 20), [("a", "u1")])),
    ".npy with 0.5": _saved(np.full((16, 20), 0.5)),
    ".npy of 200 GB": _npy(HUGE),
    ".npy below 0": _npy(HEADER.replace("(16, 20)", "(-16, -20)")),
    ".npy of a shape in floats": _npy(HEADER.replace("(16, 20)", "(16.0, 20.0)")),
    ".npy of a shape beyond 64 bits": _npy(HEADER.replace("(16, 20)", f"({2**64}, 20)")),
    ".npy without a shape": _npy("{'descr': '|u1', 'fortran_order': False}\n"),
    ".npy of a type that there isn't": _npy(HEADER.replace("|u1", "|q9")),
    ".npy of a type in a list": _npy(HEADER.replace("'|u1'", "[[[]]]")),
    ".npy with code in its header": _npy("__import__('os').system('true')\n"),
    ".npy with an open bracket": _npy("{'descr': ('|u1', \n"),
    ".npy with a header nested deep": _npy("(" * 5_000 + "\n"),
    ".npy with a header of 60,000 characters": _npy(HEADER + " " * 60_000),
    ".npy with a header in another encoding": _written(_npy_bytes("{'é': 1}\n")),
    ".npy of version 9": _npy(HEADER, version=(9, 0)),
    ".npy with a header of 4 GB": _written(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + HEADER.encode()),
    ".npy that is too short": _npy(HEADER, body=b"\0" * 319),
}


# --- records ---


def _record(change: Callable[[dict[str, Any]], Any]) -> Make:
    def make(path: Path) -> None:
        record = files.record(sha256="ab" * 32)
        path.write_text(json.dumps(change(record) or record), encoding="utf-8")

    return make


def _value(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Another value in the place; the function `drop` removes it."""

    def change(record: dict[str, Any]) -> None:
        *sections, key = place.split(".")
        own = record
        for section in sections:
            own = own[section]
        if value is drop:
            del own[key]
        else:
            own[key] = value

    return change


def drop() -> None:
    """Marks a key to remove."""


RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        f"{place} as {str(value)[:30]!r}": _value(place, value)
        for place, value in (
            ("schema", 2),
            ("schema", "1"),
            ("schema", None),
            ("status", "fine"),
            ("status", ["ok"]),
            ("status", "failed"),
            ("backend", "theano"),
            ("backend", {}),
            ("variational", 3),
            ("preset", None),
            ("seed", 1.5),
            ("seed", "0"),
            ("device", []),
            ("precision", 32),
            ("parameters", "many"),
            ("peak_memory_bytes", [1]),
            ("trained", {}),
            ("trained", [1]),
            ("trained", [{"backend": "jax"}]),
            ("changed", []),
            ("config", None),
            ("config", {}),
            ("config", [1]),
            ("config.model", 7),
            ("config.model.pixels", "many"),
            ("config.model.pixels", -4),
            ("config.model.image_shape", [4]),
            ("config.model.latent_size", "2"),
            ("config.model.latent_size", 0),
            ("config.training.steps", None),
            ("config.training.selection", "best"),
            ("config.training.momentum", 0.9),
            ("config.optimizer.learning_rate", "fast"),
            ("config.dtype", "float16"),
            ("dataset", "digits"),
            ("dataset.name", 7),
            ("dataset.sha256", 7),
            ("dataset.binarize", 7),
            ("environment", []),
            ("environment.versions", 3),
            ("environment.commit", 3),
            ("environment.machine", "a PC"),
            ("environment.threads", 2),
            ("curve", []),
            ("curve.elbo", "high"),
            ("curve.elbo", [None, "x"]),
            ("curve.elbo", [-1.0]),
            ("curve.step", {}),
            ("timing", 3),
            ("timing.floor_s", "fast"),
            ("timing.warning", 3),
            ("test", None),
            ("test.elbo", "-90"),
            ("test.elbo", True),
            ("test.by_samples", 7),
            ("test.by_samples", {"samples": [1], "log_px": [], "log_px_se": []}),
            ("test.per_image", "x.npz"),
            ("test.per_image", {"file": "../x.npz", "sha256": ""}),
            ("test.per_image", {"file": "x\0.npz", "sha256": ""}),
        )
    },
    **{
        f"no {place}": _value(place, drop)
        for place in ("schema", "config", "dataset.name", "test", "curve.elbo", "timing.floor_s")
    },
    "a list": lambda record: [record],
    "a text": lambda record: "record",
}
RECORD_TEXTS: dict[str, str | bytes] = {
    "NaN": '{"schema": NaN}',
    "infinity": '{"schema": -Infinity}',
    "an open bracket": '{"schema": 1',
    "nested 10⁵ deep": "[" * DEEP,
    "objects nested 10⁵ deep": '{"a":' * DEEP,
    "a number of 10,000 digits": '{"schema": ' + "1" * 10_000 + "}",
    "another encoding": '{"schema": "é"}'.encode("latin-1"),
    "UTF-16": '{"schema": 1}'.encode("utf-16"),
    "two values": "{} {}",
    "control characters": b'{"\x1b[2J": \x07}',
}
SETTINGS: dict[str, str | bytes] = {
    "no TOML": "preset: quick\n",
    "nested 10⁵ deep": "steps = " + "[" * DEEP,
    "another encoding": 'preset = "é"\n'.encode("latin-1"),
    "an unknown flag": "momentum = 0.9\n",
    "an unknown flag with control characters": '"\\u001b[31mred" = 1\n',
    "a section": "[training]\nsteps = 5\n",
    "one flag twice": "steps = 5\nsteps = 6\n",
    "steps as text": 'steps = "5"\n',
    "steps as a float": "steps = 5.0\n",
    "steps as a date": "steps = 2026-01-01\n",
    "steps of 5,000 digits": f"steps = {'9' * 5_000}\n",
    "steps of 0": "steps = 0\n",
    "steps of no value": "steps = []\n",
    "steps in a list of lists": "steps = [[5]]\n",
    "a rate of NaN": "learning-rate = nan\n",
    "a rate of infinity": "learning-rate = inf\n",
    "a switch as a number": "data-bias = 1\n",
    "a choice that there isn't": 'variational = "normal"\n',
    "two results folders": 'results = ["a", "b"]\n',
    "a settings file": 'config = "other.toml"\n',
    "a seed below 0": "seed = -1\n",
    "one seed twice": "seed = [1, 1]\n",
    "patience of 0": "patience = 0\n",
    "a preset with control characters": 'preset = "\\u001b[31mquick"\n',
    "a latent size of 10¹²": "latent-size = 1000000000000\nbatch-size = 10000000000\n",
}


# --- per-image files, of two records ---


def _pair(content: bytes | None) -> Make:
    """A record that names this file of its results by image, with the file's own SHA-256; None: the file is missing."""

    def make(path: Path) -> None:
        record = files.record(sha256="ab" * 32)
        file = path.with_suffix(".npz")
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        record["test"]["per_image"] = {"file": file.name, "sha256": files.hashed(content or b"")}
        path.write_text(json.dumps(record), encoding="utf-8")

    return make


def _arrays(**changes: Any) -> bytes:
    found: dict[str, Any] = {"image": np.arange(8, dtype=np.int32), "elbo": np.zeros(8, "f4"), "log_px": np.zeros(8, "f4")}
    memory = io.BytesIO()
    np.savez(memory, allow_pickle=True, **{name: array for name, array in (found | changes).items() if array is not None})
    return memory.getvalue()


PER_IMAGE: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "noise": b"hello" * 100,
    "one array": _npy_bytes(HEADER),
    "without elbo": _arrays(elbo=None),
    "of objects": _arrays(elbo=np.full(8, {}, object)),
    "of texts": _arrays(elbo=np.full(8, "x")),
    "of other lengths": _arrays(elbo=np.zeros(7, "f4")),
    "of two axes": _arrays(elbo=np.zeros((8, 2), "f4")),
    "of a number": _arrays(image=np.array(3, np.int32)),
    "with NaN": _arrays(elbo=np.full(8, np.nan, "f4")),
    "with one image twice": _arrays(image=np.zeros(8, np.int32)),
}


# --- the rounds ---


def command(question: list[str]) -> list[Any]:
    """[exit code, stderr, stdout] of a command, in this process."""
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        try:
            code: Any = main(question)
        except SystemExit as error:  # tyro's, of bad arguments
            code = error.code
    return [code, said.getvalue(), shown.getvalue()]


def rounds(count: int, *, seed: int, folder: Path, tell: Tell, work: Callable[[list[str]], list[Any]] = command) -> Tried:
    """`work` runs a command: `command`, or in a test a careless one."""
    tried = Tried()
    every = cases()
    order = [name for turn in range(-(-count // len(every))) for name in choices(seed, turn).permutation([*every])][:count]
    with bounded.asked(work, patience=PATIENCE, folder=folder) as process:
        for reader in whole(folder / "whole"):  # each reader's imports aren't the file's time
            process.ask(reader)
        for number, name in enumerate(order):
            file, make = every[name]
            place = folder / f"{number}"
            place.mkdir()
            make(place / file)
            outcome, fault = judged(process.ask(arguments(place / file)))
            tried.add(outcome, faults=[f"{name}: {fault}"] if fault else None)
            tell(1)
    return tried


def whole(folder: Path) -> Iterator[list[str]]:
    """The commands of files without a fault."""
    folder.mkdir()
    found = files.made(folder)
    for kind, name in (("record", "record.json"), ("record", "pair.json"), ("HDF5 data", "data.h5"), (".npz data", "data.npz")):
        if not (folder / name).exists():
            (folder / name).write_bytes(found[kind].read_bytes())
        yield arguments(folder / name)
    (folder / "settings.toml").write_text("steps = 5\n", encoding="utf-8")
    yield arguments(folder / "settings.toml")
    yield ["evaluate", str(folder / "missing.h5")]


def judged(answer: bounded.Answer) -> tuple[str, str | None]:
    """(outcome, fault or None) of a command that was given a bad file."""
    if answer.fault or answer.refusal:
        return "a crash, a hang or a traceback", answer.fault or f"the error left `main`: {answer.refusal}"
    code, said, shown = answer.value
    lines = said.strip().splitlines()
    if code == 0 and "per-image results" in shown:
        return "left out of a comparison, which says so", None
    if code != 2:
        return "another exit code than 2", f"exit code {code}: {' '.join(lines)[:200]}"
    if len(lines) != 1 or not lines[0].isprintable() or len(lines[0]) > LONGEST:
        return "no sentence", f"{len(lines)} lines, {len(said)} characters: {said[:200]!r}"
    if answer.seconds > SECONDS or answer.grown > GROWN or "allocate" in said:
        return "too much time or memory", f"{answer.seconds:.1f} s, {answer.grown / 1e6:.0f} MB: {said.strip()[:200]}"
    return "refused with a sentence, exit code 2", None
