"""Data sets of binary images: fetch, verify, cache, split; and the order of minibatches."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from common import cache, image_files
from common.binarize import binary
from common.errors import UserError, unknown
from common.files import DAMAGED_HDF5, read_sealed, write_hdf5
from common.image_files import SPLITS as SPLITS
from common.image_files import Splits
from common.noise import DATA_ORDER, SUBSET, generator

# `content_sha256` of the data sets that have a name.
PINNED = {
    "binarized-mnist": "72866132faff0190ec996992204f484ae2302fd7aae01e068590676a8580170b",
    "binarized-digits": "8ecb75d7207acc8632fa6c8f64259e11763f75dddbeb7ac9fea1f872c43b48bc",
}

# Nats per image that no model of the data set reaches: the best published is at -78.3 (docs/resnet.md).
HIGHEST_LOG_PX = {"binarized-mnist": -77.0}

MNIST_ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
MNIST_CACHE = "binarized-mnist.h5"
MNIST_PIXELS = 784
MNIST_IMAGES = {"train": 50_000, "valid": 10_000, "test": 10_000}
# Of the three text files as published, decompressed.
MNIST_SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}

DIGITS_IMAGES = {"train": 1197, "valid": 300, "test": 300}
DIGITS_SEED = 0
SUBSET_SEED = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of binary images, uint8 [images, pixels] of 0 and 1; `sha256` is their `content_sha256`."""

    name: str
    sha256: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    image_shape: tuple[int, int]
    binarize: str | None = None  # how the file's grey images became binary; None for binary images

    @property
    def pixels(self) -> int:
        return int(self.train.shape[1])

    @property
    def highest_log_px(self) -> float | None:
        """Nats per image that no model of these images reaches; None where that isn't known."""
        return next((highest for name, highest in HIGHEST_LOG_PX.items() if self.sha256 == PINNED[name]), None)


def load(name: str, *, data_dir: Path | None, binarize: str | None) -> Dataset:
    """The data set `binarized-mnist`, `binarized-digits`, or that of a file: HDF5, .npz or .npy, judged by its content.

    binarized-mnist: Larochelle's files, sampled once by Salakhutdinov and Murray (2008), 28×28, 50,000/10,000/10,000 images;
    from the cache, or the folder `data_dir` (None: the environment's VAEBENCH_DATA_DIR), or the published address.
    binarized-digits: see `digits`. A file: see `image_files.read`, and `binarize.binary` for what `binarize` does; a file with
    the images of a data set that has a name is this data set.

    Raises `UserError` for another name, for files that are missing, damaged or not what was published, for grey images without
    `binarize`, and for binary images with it.
    """
    if is_file(name):
        return _of_file(Path(name).absolute(), binarize=binarize)
    if name == image_files.IN_MEMORY:
        raise UserError("The images were arrays in memory; write train, valid and test with numpy.savez, and give that file.")
    if name not in PINNED:
        raise unknown("data set", name, PINNED, more=", or give an HDF5, .npz or .npy file")
    if binarize:
        raise UserError(f"The images of {name} are binary already; --binarize is for grey images.")
    if name == "binarized-mnist":
        return _pinned(name, mnist(data_dir), image_shape=(28, 28))
    return _pinned(name, digits(), image_shape=(8, 8))


def is_file(name: str) -> bool:
    """Whether the name is a file's rather than a data set's: the file is there, or the name has a folder or a usual ending."""
    path = Path(name)
    if name in PINNED:
        return False
    named = path.suffix.lower() in image_files.ENDINGS or path.name != name
    return named or os.path.isfile(path) or image_files.is_folder(path)


def whole_name(name: str) -> str:
    """A data set's name, or a file's absolute path: records and checkpoints are read from other folders than the run's."""
    return str(Path(name).absolute()) if is_file(name) else name


def name_of(place: str, sha256: str | None) -> str:
    """The name of a data set, `whole_name` of its place; or the name that images of this SHA-256 have by themselves."""
    return next((name for name, pinned in PINNED.items() if pinned == sha256), whole_name(place))


def _of_file(path: Path, *, binarize: str | None) -> Dataset:
    images, image_shape = image_files.read(path)
    splits = binary(images, method=binarize, path=path)
    sha256 = content_sha256(splits)
    if sha256 == PINNED["binarized-mnist"]:
        _keep_mnist(splits)  # a checkpoint's data set is found again by its name
    return Dataset(name=name_of(str(path), sha256), sha256=sha256, **splits, image_shape=image_shape, binarize=binarize)


def of_arrays(images: np.ndarray | Mapping[str, Any], *, binarize: str | None) -> Dataset:
    """The data set of arrays in memory, see `image_files.of_arrays`. Raises `UserError` as `load` does."""
    arrays, image_shape = image_files.of_arrays(images)
    splits = binary(arrays, method=binarize, path=Path(image_files.IN_MEMORY))
    sha256 = content_sha256(splits)
    return Dataset(name=image_files.IN_MEMORY, sha256=sha256, **splits, image_shape=image_shape, binarize=binarize)


def content_sha256(splits: Splits) -> str:
    """What identifies a data set, wherever it came from: a SHA-256 in hexadecimal over train, valid and test, in this order.

    Each is the line "SPLIT IMAGES PIXELS\\n" in ASCII and then its images' bits, eight a byte, first pixel highest, every image
    padded with zeros to whole bytes.
    """
    digest = hashlib.sha256()
    for split in SPLITS:
        images, pixels = splits[split].shape
        digest.update(f"{split} {images} {pixels}\n".encode())
        digest.update(np.packbits(splits[split], axis=1).tobytes())
    return digest.hexdigest()


def _pinned(name: str, splits: Splits, *, image_shape: tuple[int, int]) -> Dataset:
    """Raises `UserError` where the content isn't the pinned one."""
    sha256 = content_sha256(splits)
    if sha256 != PINNED[name]:
        raise UserError(
            f"The content of {name} has SHA-256 {sha256}, not {PINNED[name]}: its source (scikit-learn's digits, or NumPy) has "
            "changed; install the versions pinned in environments/."
        )
    return Dataset(name=name, sha256=sha256, **splits, image_shape=image_shape, binarize=None)


# --- binarized-mnist ---


def mnist(data_dir: Path | None) -> Splits:
    """Binarized MNIST from the cache, else from a folder, else from the published address; then it is in the cache.

    A folder that was asked for must have the three files, or their HDF5 copy, even when the cache makes reading them needless.

    Raises `UserError` where no source has the published content.
    """
    folder = data_dir or (Path(os.environ["VAEBENCH_DATA_DIR"]) if os.environ.get("VAEBENCH_DATA_DIR") else None)
    copy = _mnist_copy(folder) if folder else None
    sources = {split: _mnist_file(folder, split) for split in SPLITS} if folder and not copy else None
    if cached := mnist_cache():
        splits = _read_mnist_cache(cached)
        if splits is not None:
            return splits
        print(f"The cache {cached} is damaged; making it again.", file=sys.stderr)
    if copy:
        splits = _of_mnist_copy(copy)
    else:
        splits = {split: read_amat(sources[split], split=split) for split in SPLITS} if sources else _download_mnist()
    _keep_mnist(splits)
    return splits


def _keep_mnist(splits: Splits) -> None:
    """Put the images into the cache, unless it has them."""
    place = cache.folder()
    if place is None:
        print(f"Going on without a cache, since this user has no home; set {cache.PLACE} to a folder.", file=sys.stderr)
        return
    if (cached := mnist_cache()) and _read_mnist_cache(cached) is not None:
        return
    try:
        write_hdf5(place / MNIST_CACHE, lambda file: _fill_mnist_cache(file, splits))
    except UserError as error:
        print(f"Going on without a cache: {error}", file=sys.stderr)


def mnist_cache() -> Path | None:
    """The cache's file; None where there is none."""
    place = cache.folder()
    return place / MNIST_CACHE if place and os.path.isfile(place / MNIST_CACHE) else None


def _mnist_copy(folder: Path) -> Path | None:
    """The HDF5 file with the three splits that other tools keep in a folder."""
    return next((path for ending in ("hdf5", "h5") if os.path.isfile(path := folder / f"binarized_mnist.{ending}")), None)


def _of_mnist_copy(path: Path) -> Splits:
    """Raises `UserError` where it isn't such a file, or has other images."""
    images, _ = image_files.read(path)
    splits = binary(images, method=None, path=path)
    if content_sha256(splits) != PINNED["binarized-mnist"]:
        raise UserError(f"{path} has other images than the published ones; put the three .amat files of {MNIST_ADDRESS} there.")
    return splits


def _mnist_file(folder: Path, split: str) -> Path:
    """The split's .amat or .amat.gz. Raises `UserError` where the folder has neither."""
    plain = folder / f"binarized_mnist_{split}.amat"
    compressed = folder / f"binarized_mnist_{split}.amat.gz"
    for path in (plain, compressed):
        if os.path.isfile(path):  # false, where Path.is_file raises, in a folder that may not be entered
            return path
    raise UserError(
        f"{folder} has no {plain.name} (nor {compressed.name}); put {MNIST_ADDRESS}/{plain.name} there, "
        "or leave out --data-dir and VAEBENCH_DATA_DIR to have it fetched."
    )


def _download_mnist() -> Splits:
    """Raises `UserError` where the address can't be reached or has other files than were published."""
    import pooch

    splits = {}
    # The text is 16 times the size of the cache, so it isn't kept.
    with tempfile.TemporaryDirectory() as folder:
        for split in SPLITS:
            address = f"{MNIST_ADDRESS}/binarized_mnist_{split}.amat"
            try:
                path = pooch.retrieve(address, known_hash=f"sha256:{MNIST_SHA256[split]}", fname=f"{split}.amat", path=folder)
            except OSError as error:  # the network's exceptions are among them, without a strerror
                reason = error.strerror or type(error).__name__
                raise UserError(
                    f"Cannot download {address} ({reason}); give a folder that has the three files as --data-dir."
                ) from error
            except ValueError as error:  # pooch's wrong hash
                raise UserError(
                    f"{address} no longer has the published file, by its SHA-256; give a folder with the three as --data-dir."
                ) from error
            splits[split] = read_amat(Path(path), split=split)
    return splits


def read_amat(path: Path, *, split: str) -> np.ndarray:
    """A split's published text file, plain or gzipped → uint8 [images, pixels]; its SHA-256 is verified before it is parsed.

    Raises `UserError` where the file can't be read, is a damaged gzip file, or isn't the published one.
    """
    again = f"fetch {MNIST_ADDRESS}/binarized_mnist_{split}.amat again"
    # One byte more than there should be shows that a file is too long, without reading all of it.
    limit = MNIST_IMAGES[split] * MNIST_PIXELS * 2 + 1
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(limit)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path} is a truncated or damaged gzip file ({error}); {again}.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}); {again}, or make the file readable.") from error
    sha256 = hashlib.sha256(text).hexdigest()
    if sha256 != MNIST_SHA256[split]:
        raise UserError(f"The text of {path} has SHA-256 {sha256}, not the published {MNIST_SHA256[split]}; {again}.")
    return parse_amat(text, path=path, pixels=MNIST_PIXELS)


def parse_amat(text: bytes, *, path: Path, pixels: int) -> np.ndarray:
    """Lines of single 0s and 1s with single spaces between them → uint8 [images, pixels].

    Raises `UserError` that names `path` for any other text.
    """
    if len(text) == 0 or len(text) % (2 * pixels):
        raise UserError(f"{path} is not made of whole lines of {pixels} single-character pixels; fetch it again.")
    pairs = np.frombuffer(text, np.uint8).reshape(-1, pixels, 2)  # a pixel and what follows it
    if (pairs[:, :-1, 1] != ord(" ")).any() or (pairs[:, -1, 1] != ord("\n")).any():
        raise UserError(f"{path} is not made of lines of {pixels} pixels with single spaces between them; fetch it again.")
    images: np.ndarray = pairs[:, :, 0] - np.uint8(ord("0"))  # what is below "0" wraps around to far above 1
    bad_lines = np.flatnonzero((images > 1).any(axis=1))
    if len(bad_lines):
        raise UserError(f"{path} has a pixel that is neither 0 nor 1 in line {bad_lines[0] + 1}; fetch it again.")
    return images


def _read_mnist_cache(path: Path) -> Splits | None:
    """The cached splits, or None where the file is damaged."""
    packed_pixels = MNIST_PIXELS // 8
    splits = {}
    try:
        content = read_sealed(path)
        with h5py.File(path if content is None else io.BytesIO(content), "r", locking=False) as file:
            for split in SPLITS:
                # A damaged header must not make us read gigabytes, so the shape is looked at first.
                if file[split].shape != (MNIST_IMAGES[split], packed_pixels) or file[split].dtype != np.uint8:
                    return None
                splits[split] = np.unpackbits(file[split][...], axis=1)
    except DAMAGED_HDF5:  # AttributeError: a group has no shape
        return None
    return splits if content_sha256(splits) == PINNED["binarized-mnist"] else None


def _fill_mnist_cache(file: h5py.File, splits: Splits) -> None:
    for split in SPLITS:
        file[split] = np.packbits(splits[split], axis=1)


# --- binarized-digits ---


def digits() -> Splits:
    """The 1797 8×8 digits inside scikit-learn, grey g from 0 to 16, split 1197/300/300 and binarized, both once and for all.

    NumPy's PCG64 seeded with DIGITS_SEED gives first u [images], then v [images, pixels], uniform on [0, 1). Images are taken
    in the order of rising u; a pixel is 1 where v < g/16. Only uniform draws are used: NumPy may change its shuffles.
    """
    grey = grey_digits()
    draws = np.random.Generator(np.random.PCG64(DIGITS_SEED))
    order = np.argsort(draws.random(len(grey)), kind="stable")
    images = (draws.random(grey.shape) < grey / 16).astype(np.uint8)[order]
    ends = np.cumsum([DIGITS_IMAGES[split] for split in SPLITS])
    return dict(zip(SPLITS, np.split(images, ends[:-1]), strict=True))


def grey_digits() -> np.ndarray:
    """`sklearn.datasets.load_digits().data`, [images, pixels], from its file: importing scikit-learn takes 0.8 s of each start.

    Raises `UserError` where scikit-learn isn't installed, or has no such file.
    """
    package = find_spec("sklearn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz" if package and package.origin else None
    if file is None or not file.is_file():
        raise UserError(
            "binarized-digits lie inside scikit-learn, and it isn't here: install the versions pinned in environments/."
        )
    return np.loadtxt(file, delimiter=",")[:, :-1]


# --- what is drawn from a data set ---


def minibatches(*, images: int, batch_size: int, first_step: int, steps: int, seed: int) -> np.ndarray:
    """The images of minibatches first_step …, int32 [steps, batch].

    Minibatch t is positions t·batch … (t + 1)·batch − 1 of the epochs' permutations laid end to end, so that its size never
    changes and no image is lost. It is a function of (seed, t): how steps are grouped into calls changes nothing.

    Raises `UserError` for a batch larger than the data set.
    """
    if batch_size > images:
        raise UserError(f"A batch of {batch_size} exceeds the {images} training images; set --batch-size to at most that.")
    epochs, places = np.divmod(np.arange(first_step * batch_size, (first_step + steps) * batch_size), images)
    order = np.empty(steps * batch_size, np.int32)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        order[inside] = _permutation(images, seed, int(epoch))[places[inside]]
    return order.reshape(steps, batch_size)


@functools.lru_cache(maxsize=4)  # consecutive calls share an epoch
def _permutation(images: int, seed: int, epoch: int) -> np.ndarray:
    permutation = generator(seed, DATA_ORDER, epoch).permutation(images).astype(np.int32)
    permutation.setflags(write=False)
    return permutation


def subset(*, images: int, of: int) -> np.ndarray:
    """The positions of a random subset, rising, int32 [images], chosen without replacement from 0 … of − 1; 0 means all.

    No seed is part of it: the runs of several seeds are scored on the same images. A larger subset contains a smaller one.
    Raises `UserError` for more images than there are.
    """
    if images > of:
        raise UserError(f"A subset of {images} images was asked for, but there are only {of}; set --images to at most that.")
    chosen = generator(SUBSET_SEED, SUBSET).permutation(of)[: images or of]
    return np.sort(chosen).astype(np.int32)


def pixel_log_odds(train: np.ndarray) -> np.ndarray:
    """log(p/(1 − p)) of each pixel's frequency p = (ones + 1)/(n + 2), float64 [pixels], from n images [n, pixels]."""
    ones = train.sum(axis=0, dtype=np.int64)
    log_odds: np.ndarray = np.log(ones + 1) - np.log(len(train) - ones + 1)
    return log_odds
