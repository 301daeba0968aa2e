"""Data sets: every source gives the published content or says why not; the order of minibatches."""

import gzip
import hashlib
import os
import pickle
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from common import data
from common.data import SPLITS, content_sha256, load, minibatches, parse_amat, pixel_log_odds, subset
from common.errors import UserError

REAL_DATA = os.environ.get("VAEBENCH_DATA_DIR")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache and no data folder, whatever the user's are."""
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("VAEBENCH_DATA_DIR", raising=False)
    return tmp_path / "cache" / "binarized-mnist.h5"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    import pooch

    def refuse(*_, **__):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(pooch, "retrieve", refuse)


def random_splits(*, pixels, sizes=(20, 6, 5)):
    draws = np.random.default_rng(0)
    return {split: draws.integers(0, 2, (size, pixels), dtype=np.uint8) for split, size in zip(SPLITS, sizes, strict=True)}


def amat(images):
    return "".join(" ".join(map(str, image)) + "\n" for image in images).encode()


def same(dataset, splits):
    return all(np.array_equal(getattr(dataset, split), splits[split]) for split in SPLITS)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small data set published in place of binarized MNIST: (folder with its three .amat files, splits)."""
    splits = random_splits(pixels=784)
    folder = tmp_path / "published"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"binarized_mnist_{split}.amat").write_bytes(amat(splits[split]))
    monkeypatch.setattr(data, "MNIST_IMAGES", {split: len(splits[split]) for split in SPLITS})
    monkeypatch.setattr(data, "MNIST_SHA256", {split: hashlib.sha256(amat(splits[split])).hexdigest() for split in SPLITS})
    monkeypatch.setitem(data.PINNED, "binarized-mnist", content_sha256(splits))
    return folder, splits


# --- binarized-mnist, on a small stand-in ---


def test_a_folder_of_plain_and_gzipped_files(published):
    folder, splits = published
    plain = folder / "binarized_mnist_train.amat"
    (folder / "binarized_mnist_train.amat.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    dataset = load("binarized-mnist", data_dir=folder, binarize=None)
    assert same(dataset, splits)
    assert dataset.train.dtype == np.uint8
    assert dataset.sha256 == content_sha256(splits)
    assert (dataset.name, dataset.pixels, dataset.image_shape) == ("binarized-mnist", 784, (28, 28))


def test_the_environment_names_the_folder_and_the_argument_goes_before_it(published, tmp_path, monkeypatch):
    folder, splits = published
    monkeypatch.setenv("VAEBENCH_DATA_DIR", str(folder))
    assert same(load("binarized-mnist", data_dir=None, binarize=None), splits)
    with pytest.raises(UserError, match="elsewhere has no binarized_mnist_train"):
        load("binarized-mnist", data_dir=tmp_path / "elsewhere", binarize=None)


def test_the_cache_alone_is_enough(published, cache):
    folder, splits = published
    first = load("binarized-mnist", data_dir=folder, binarize=None)
    assert cache.stat().st_size < 31 * 98 + 4096
    second = load("binarized-mnist", data_dir=None, binarize=None)
    assert same(second, splits)
    assert second.sha256 == first.sha256


def test_the_hdf5_copy_of_other_tools_is_the_data_set(published, cache, tmp_path):
    """In --data-dir, or as --data; the cache then has it for a checkpoint, which knows the data set by its name."""
    _, splits = published
    copy = tmp_path / "copy" / "binarized_mnist.hdf5"
    copy.parent.mkdir()
    write_h5(copy, {split: images.astype(np.float32) for split, images in splits.items()})
    for name, data_dir in ((str(copy), None), ("binarized-mnist", copy.parent)):
        cache.unlink(missing_ok=True)
        dataset = load(name, data_dir=data_dir, binarize=None)
        assert same(dataset, splits)
        assert (dataset.name, dataset.image_shape) == ("binarized-mnist", (28, 28))
        assert same(load("binarized-mnist", data_dir=None, binarize=None), splits)
    assert data.name_of(str(copy), dataset.sha256) == "binarized-mnist"
    cache.unlink()
    splits["test"][0, 0] ^= 1
    write_h5(copy, splits)
    with pytest.raises(UserError, match=r"binarized_mnist\.hdf5 has other images than the published ones"):
        load("binarized-mnist", data_dir=copy.parent, binarize=None)
    assert load(str(copy), data_dir=None, binarize=None).name == str(copy)


def test_a_folder_that_lacks_a_file_is_an_error_even_with_a_cache(published, cache):
    folder, _ = published
    load("binarized-mnist", data_dir=folder, binarize=None)
    assert cache.exists()
    (folder / "binarized_mnist_valid.amat").unlink()
    with pytest.raises(UserError, match=r"has no binarized_mnist_valid\.amat .*http://"):
        load("binarized-mnist", data_dir=folder, binarize=None)


def test_download(published, monkeypatch, cache):
    import pooch

    folder, splits = published
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        target = Path(path) / fname
        target.write_bytes((folder / url.rsplit("/", 1)[1]).read_bytes())
        return str(target)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert same(load("binarized-mnist", data_dir=None, binarize=None), splits)
    assert asked == [
        (f"{data.MNIST_ADDRESS}/binarized_mnist_{split}.amat", f"sha256:{data.MNIST_SHA256[split]}") for split in SPLITS
    ]
    load("binarized-mnist", data_dir=None, binarize=None)
    assert len(asked) == 3
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ConnectionError("long story"), r"Cannot download http.*train\.amat \(ConnectionError\).*--data-dir"),
        (ValueError("SHA256 hash of downloaded file does not match"), "no longer has the published file.*--data-dir"),
    ],
)
def test_a_failed_download_is_a_user_error(monkeypatch, failure, message):
    import pooch

    def retrieve(*_, **__):
        raise failure

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(UserError, match=message):
        load("binarized-mnist", data_dir=None, binarize=None)


@pytest.mark.parametrize("length", [0, 5, 200, -10, -1])
def test_a_truncated_gzip_file(published, length):
    folder, _ = published
    plain = folder / "binarized_mnist_test.amat"
    compressed = folder / "binarized_mnist_test.amat.gz"
    compressed.write_bytes(gzip.compress(plain.read_bytes())[:length])
    plain.unlink()
    # An empty file decompresses to nothing, which has another hash.
    with pytest.raises(UserError, match=r"test\.amat\.gz (is a truncated or damaged gzip file|has SHA-256).*again"):
        load("binarized-mnist", data_dir=folder, binarize=None)


def test_damaged_gzip_files(published):
    folder, _ = published
    plain = folder / "binarized_mnist_test.amat"
    good = gzip.compress(plain.read_bytes())
    plain.unlink()
    compressed = folder / "binarized_mnist_test.amat.gz"
    for place in range(0, len(good), 40):
        damaged = bytearray(good)
        damaged[place] ^= 0xFF
        compressed.write_bytes(damaged)
        with pytest.raises(UserError, match=r"test\.amat\.gz"):
            load("binarized-mnist", data_dir=folder, binarize=None)


@pytest.mark.parametrize(
    "change",
    [lambda text: text[:-1], lambda text: text + b"0", lambda text: text.replace(b"1", b"0", 1), lambda text: b""],
    ids=["shorter", "longer", "one pixel", "empty"],
)
def test_a_file_that_is_not_the_published_one_is_refused_before_parsing(published, monkeypatch, change):
    folder, _ = published
    path = folder / "binarized_mnist_valid.amat"
    path.write_bytes(change(path.read_bytes()))
    parsed = []
    monkeypatch.setattr(data, "parse_amat", lambda text, **_: parsed.append(len(text)))
    with pytest.raises(UserError, match=r"valid\.amat has SHA-256 \w{64}, not the published \w{64}; fetch http"):
        data.read_amat(path, split="valid")
    assert parsed == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "whole lines"),
        (b"0 1 0", "whole lines"),
        (b"0 1 0\n0 1\n", "whole lines"),
        (b"0 1 0\n0 1 1 1 0 0\n", "single spaces"),  # the size of three lines, but not their breaks
        (b"0 1 0\n0,1 0\n", "single spaces"),
        (b"0 1 0 0 1 0\n", "single spaces"),
        (b"0 1 0\n0 2 0\n", "neither 0 nor 1 in line 2"),
        (b"0 1 0\n0 / 0\n", "neither 0 nor 1 in line 2"),
        (b"\x00 1 0\n0 1 0\n", "neither 0 nor 1 in line 1"),
    ],
)
def test_text_that_is_not_lines_of_pixels(text, message):
    with pytest.raises(UserError, match=f"some/file.*{message}"):
        parse_amat(text, path=Path("some/file"), pixels=3)


def test_parsing_inverts_writing():
    images = random_splits(pixels=9)["train"]
    assert np.array_equal(parse_amat(amat(images), path=Path("some/file"), pixels=9), images)


def damage_text(path):
    path.write_text("not HDF5")


def damage_length(path):
    os.truncate(path, path.stat().st_size // 2)


def damage_key(path):
    with h5py.File(path, "a") as file:
        del file["valid"]


def damage_group(path):
    with h5py.File(path, "a") as file:
        del file["valid"]
        file.create_group("valid")


def damage_shape(path):
    with h5py.File(path, "a") as file:
        del file["test"]
        file.create_dataset("test", (2**40, 98), np.uint8, chunks=(1, 98))


def damage_bit(path):
    with h5py.File(path, "a") as file:
        file["test"][0, 0] ^= 1


@pytest.mark.parametrize("damage", [damage_text, damage_length, damage_key, damage_group, damage_shape, damage_bit])
def test_a_damaged_cache_is_made_again_or_an_error(published, cache, capsys, damage):
    folder, splits = published
    load("binarized-mnist", data_dir=folder, binarize=None)
    damage(cache)
    with pytest.raises(UserError, match="Cannot download"):
        load("binarized-mnist", data_dir=None, binarize=None)
    assert f"The cache {cache} is damaged" in capsys.readouterr().err
    assert same(load("binarized-mnist", data_dir=folder, binarize=None), splits)
    assert same(load("binarized-mnist", data_dir=None, binarize=None), splits)


def test_a_cache_that_cannot_be_written_is_one_line_and_no_error(published, tmp_path, monkeypatch, capsys):
    folder, splits = published
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAEBENCH_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert same(load("binarized-mnist", data_dir=folder, binarize=None), splits)
    printed = capsys.readouterr().err
    assert printed.startswith("Going on without a cache: Cannot write ")
    assert printed.count("\n") == 1


def test_the_content_hash_is_as_documented():
    splits = {split: np.array([[1, 0, 0, 0, 0, 0, 0, 1, 1]], np.uint8) for split in SPLITS}
    expected = hashlib.sha256(b"".join(f"{split} 1 9\n".encode() + b"\x81\x80" for split in SPLITS)).hexdigest()
    assert content_sha256(splits) == expected


# --- binarized-mnist itself ---


@pytest.mark.skipif(not REAL_DATA, reason="VAEBENCH_DATA_DIR is unset: it names the folder with binarized MNIST")
def test_the_real_data():
    folder = Path(REAL_DATA)
    dataset = load("binarized-mnist", data_dir=folder, binarize=None)
    assert (dataset.train.shape, dataset.valid.shape, dataset.test.shape) == ((50_000, 784), (10_000, 784), (10_000, 784))
    assert dataset.sha256 == data.PINNED["binarized-mnist"]
    for split in SPLITS:
        images = getattr(dataset, split)
        assert set(np.unique(images)) == {0, 1}
        # Back to the published text: the parse is exact, pixel by pixel.
        text = np.full((len(images), 784, 2), ord(" "), np.uint8)
        text[:, :, 0] = images + ord("0")
        text[:, -1, 1] = ord("\n")
        assert hashlib.sha256(text.tobytes()).hexdigest() == data.MNIST_SHA256[split]
    started = time.perf_counter()
    cached = load("binarized-mnist", data_dir=None, binarize=None)
    assert time.perf_counter() - started < 1
    assert same(cached, {split: getattr(dataset, split) for split in SPLITS})


# --- binarized-digits ---


def test_digits():
    dataset = load("binarized-digits", data_dir=None, binarize=None)
    assert (dataset.train.shape, dataset.valid.shape, dataset.test.shape) == ((1197, 64), (300, 64), (300, 64))
    assert dataset.train.dtype == np.uint8
    assert (dataset.pixels, dataset.image_shape) == (64, (8, 8))
    assert same(load("binarized-digits", data_dir=None, binarize=None), {split: getattr(dataset, split) for split in SPLITS})


def test_digits_are_the_grey_ones_each_once():
    from sklearn.datasets import load_digits

    grey = load_digits().data / 16
    dataset = load("binarized-digits", data_dir=None, binarize=None)
    images = np.concatenate([dataset.train, dataset.valid, dataset.test])
    surely_black, surely_white = grey == 0, grey == 1
    assert images.sum(axis=0)[surely_black.all(axis=0)].sum() == 0
    assert abs(images.mean() - grey.mean()) < 4 * np.sqrt((grey * (1 - grey)).sum()) / grey.size
    # Each binarized image fits at least one grey one in its sure pixels, and no grey image is left out.
    fits = ~((images @ surely_black.T.astype(float)) + ((1 - images) @ surely_white.T.astype(float))).astype(bool)
    assert fits.any(axis=0).all()
    assert fits.any(axis=1).all()


def test_other_digits_are_refused(monkeypatch):
    changed = data.grey_digits()
    changed[0, 0] = 16 - changed[0, 0]
    monkeypatch.setattr(data, "grey_digits", lambda: changed)
    with pytest.raises(UserError, match=r"scikit-learn's digits, or NumPy.*has changed; install"):
        load("binarized-digits", data_dir=None, binarize=None)


def test_without_scikit_learn_there_are_no_digits(monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"inside scikit-learn, and it isn't here: install"):
        load("binarized-digits", data_dir=None, binarize=None)


def test_another_name_is_refused():
    with pytest.raises(UserError, match=r"no data set 'mnist'; choose from binarized-mnist, binarized-digits, .*\.npz"):
        load("mnist", data_dir=None, binarize=None)


def test_no_framework_is_imported():
    code = "import sys, common.data; print([m for m in ('torch', 'jax', 'tensorflow', 'keras', 'sklearn') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


# --- HDF5 ---


def write_h5(path, splits, **attributes):
    with h5py.File(path, "w") as file:
        for split, images in splits.items():
            file[split] = images
        file.attrs.update(attributes)
    return str(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.float16, np.float32, np.float64])
def test_hdf5_of_any_number_type(tmp_path, dtype):
    splits = random_splits(pixels=12)
    name = write_h5(tmp_path / "mine.h5", {split: images.astype(dtype) for split, images in splits.items()})
    dataset = load(name, data_dir=None, binarize=None)
    assert same(dataset, splits)
    assert dataset.train.dtype == np.uint8
    assert (dataset.name, dataset.sha256, dataset.pixels) == (name, content_sha256(splits), 12)


@pytest.mark.parametrize(
    ("pixels", "attributes", "shape"),
    [(12, {}, (1, 12)), (16, {}, (4, 4)), (16, {"image_shape": (2, 8)}, (2, 8)), (1, {}, (1, 1))],
)
def test_hdf5_image_shape(tmp_path, pixels, attributes, shape):
    name = write_h5(tmp_path / "mine.h5", random_splits(pixels=pixels), **attributes)
    assert load(name, data_dir=None, binarize=None).image_shape == shape


@pytest.mark.parametrize("shape", [(3, 5), (16,), (1, 4, 4), (-4, -4), (0, 16), (4.0, 4.0), "4x4", (2**32, 2**32)])
def test_hdf5_with_a_wrong_image_shape(tmp_path, shape):
    name = write_h5(tmp_path / "mine.h5", random_splits(pixels=16), image_shape=shape)
    with pytest.raises(UserError, match=r"image_shape of .*mine\.h5 is .*product is 16"):
        load(name, data_dir=None, binarize=None)


def test_hdf5_with_one_image_a_split(tmp_path):
    splits = random_splits(pixels=3, sizes=(1, 1, 1))
    assert same(load(write_h5(tmp_path / "mine.h5", splits), data_dir=None, binarize=None), splits)


@pytest.mark.parametrize(
    ("split", "images", "message"),
    [
        ("valid", None, "no array 'valid'"),
        ("test", np.zeros(4, np.uint8), "'test' of .* has 1 axes"),
        ("test", np.zeros((2, 2, 2, 3), np.uint8), r"'test' of .* has images of several channels, \[2, 2, 2, 3\]"),
        ("test", np.zeros((2, 2, 1, 2, 1), np.uint8), "'test' of .* has 5 axes"),
        ("test", np.zeros((2, 2, 2), np.uint8), r"differ in the shape .*\(train \[4\], valid \[4\], test \[2, 2\]\)"),
        ("test", np.uint8(1), "'test' of .* has 0 axes"),
        ("test", h5py.Empty("f"), "'test' of .* has 0 axes"),
        ("train", np.zeros((0, 4), np.uint8), r"'train' of .* is empty, \[0, 4\]"),
        ("train", np.zeros((4, 0), np.uint8), r"'train' of .* is empty, \[4, 0\]"),
        ("valid", np.zeros((2, 5), np.uint8), r"differ in the shape of an image \(train \[4\], valid \[5\], test \[4\]\)"),
        ("valid", np.full((2, 4), 2), "'valid' of .* other than 0 and 1"),
        ("valid", np.full((2, 4), -1), "'valid' of .* other than 0 and 1"),
        ("valid", np.full((2, 4), 256), "'valid' of .* other than 0 and 1"),
        ("valid", np.full((2, 4), 0.5), "'valid' of .* other than 0 and 1"),
        ("valid", np.full((2, 4), np.nan), "'valid' of .* other than 0 and 1"),
        ("valid", np.full((2, 4), b"1"), "'valid' of .* has type"),
        ("valid", np.full((2, 4), 1j), "'valid' of .* has type complex128"),
    ],
)
def test_hdf5_with_one_wrong_split(tmp_path, split, images, message):
    splits = random_splits(pixels=4)
    if images is None:
        del splits[split]
    else:
        splits[split] = images
    with pytest.raises(UserError, match=message):
        load(write_h5(tmp_path / "mine.h5", splits), data_dir=None, binarize=None)


def test_hdf5_group_in_place_of_a_split(tmp_path):
    splits = random_splits(pixels=4)
    name = write_h5(tmp_path / "mine.h5", {"train": splits["train"], "valid": splits["valid"], "test/a": splits["test"]})
    with pytest.raises(UserError, match="no array 'test'"):
        load(name, data_dir=None, binarize=None)


@pytest.mark.parametrize("name", ["mine.hdf5", "mine.HDF5", "mine.he5", "mine.data", "mine", "mine.npz"])
def test_a_files_content_says_its_kind(tmp_path, name, monkeypatch):
    """A name without a folder is a file's where a file is there."""
    splits = random_splits(pixels=12)
    write_h5(tmp_path / "mine.h5", splits)
    (tmp_path / "mine.h5").rename(tmp_path / name)
    assert same(load(str(tmp_path / name), data_dir=None, binarize=None), splits)
    monkeypatch.chdir(tmp_path)
    assert same(load(name, data_dir=None, binarize=None), splits)
    np.savez(tmp_path / "arrays.npz", **splits)
    (tmp_path / "arrays.npz").rename(tmp_path / name)
    assert same(load(name, data_dir=None, binarize=None), splits)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"0 1", mtime=0), "compressed by gzip"),  # the test's name has the bytes: no clock in them
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "MATLAB's older format"),
        (pickle.dumps({"train": [0]}), "a Python pickle, which is never read"),
        (b"\x00\x00\x08\x03\x00\x00\x27\x10", "MNIST's own IDX format"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"PAR1", "Parquet"),
        (b"0 1 0", "no HDF5, .npz or .npy file"),
        (b"", "no HDF5, .npz or .npy file"),
    ],
)
def test_another_format_is_refused_by_its_name(tmp_path, content, reason):
    (tmp_path / "mine.bin").write_bytes(content)
    with pytest.raises(UserError, match=rf"mine\.bin is {re.escape(reason)}.*; write train, valid and test"):
        load(str(tmp_path / "mine.bin"), data_dir=None, binarize=None)


@pytest.mark.parametrize("axes", [(2, 3), (2, 3, 1), (1, 2, 3)])
@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_images_with_rows_columns_and_one_channel(tmp_path, axes, ending):
    splits = random_splits(pixels=6)
    shaped = {split: images.reshape(-1, *axes) for split, images in splits.items()}
    write_h5(tmp_path / "mine.h5", shaped)
    np.savez(tmp_path / "mine.npz", **shaped)
    dataset = load(str(tmp_path / f"mine.{ending}"), data_dir=None, binarize=None)
    assert same(dataset, splits)
    assert dataset.image_shape == (2, 3)


@pytest.mark.parametrize("axes", [(6,), (2, 3), (2, 3, 1)])
def test_matlabs_arrays_are_turned_back(tmp_path, axes):
    """MATLAB has its numbers in the other order, so that HDF5 shows its axes in reverse."""
    splits = random_splits(pixels=6)
    with h5py.File(tmp_path / "mine.mat", "w", userblock_size=512) as file:
        for split, images in splits.items():
            file[split] = images.reshape(-1, *axes).transpose()
            file[split].attrs["MATLAB_class"] = np.bytes_("uint8")
    with (tmp_path / "mine.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    assert same(load(str(tmp_path / "mine.mat"), data_dir=None, binarize=None), splits)


def test_arrays_of_r_are_refused(tmp_path):
    write_h5(tmp_path / "mine.h5", random_splits(pixels=6))
    with h5py.File(tmp_path / "mine.h5", "r+") as file:
        file["valid"].attrs["rhdf5-NA.OK"] = 1
    with pytest.raises(UserError, match=r"'valid' of .* was written by R's rhdf5, which may reverse its axes"):
        load(str(tmp_path / "mine.h5"), data_dir=None, binarize=None)


def test_a_compression_that_is_not_here_is_named(tmp_path):
    splits = random_splits(pixels=6)
    write_h5(tmp_path / "mine.h5", splits)
    with h5py.File(tmp_path / "mine.h5", "r+") as file:
        del file["train"]
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((10, 6))
        how.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())  # Blosc
        space = h5py.h5s.create_simple(splits["train"].shape)
        stored = h5py.Dataset(h5py.h5d.create(file.id, b"train", h5py.h5t.STD_U8LE, space, how))
        stored[...] = splits["train"]
    with pytest.raises(UserError, match=r"'train' of .* is compressed by HDF5's filter .*32001, which isn't installed here"):
        load(str(tmp_path / "mine.h5"), data_dir=None, binarize=None)


def test_a_file_that_another_program_has_open_is_read(tmp_path):
    splits = random_splits(pixels=6)
    name = write_h5(tmp_path / "mine.h5", splits)
    code = "import sys, h5py; file = h5py.File(sys.argv[1], 'r+'); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, name], **pipes) as writer:
        writer.stdout.readline()
        assert same(load(name, data_dir=None, binarize=None), splits)
        writer.stdin.close()


def test_a_folder_of_three_arrays(tmp_path, monkeypatch):
    splits = random_splits(pixels=6)
    (tmp_path / "mine").mkdir()
    for split, images in splits.items():
        np.save(tmp_path / "mine" / f"{split}.npy", images.reshape(-1, 2, 3))
    dataset = load(str(tmp_path / "mine"), data_dir=None, binarize=None)
    assert same(dataset, splits)
    assert dataset.image_shape == (2, 3)
    monkeypatch.chdir(tmp_path)
    assert same(load("mine", data_dir=None, binarize=None), splits)
    (tmp_path / "mine" / "valid.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(UserError, match=r"valid\.npy is truncated or damaged \("):
        load("mine", data_dir=None, binarize=None)
    np.save(tmp_path / "mine" / "valid.npy", splits["valid"])
    with pytest.raises(UserError, match=r"differ in the shape of an image .*valid \[6\]"):
        load("mine", data_dir=None, binarize=None)
    (tmp_path / "mine" / "valid.npy").unlink()
    with pytest.raises(UserError, match="no data set 'mine'"):
        load("mine", data_dir=None, binarize=None)


def test_hdf5_missing_or_another_format(tmp_path):
    with pytest.raises(UserError, match=r"no file .*mine\.h5"):
        load(str(tmp_path / "mine.h5"), data_dir=None, binarize=None)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(UserError, match="no regular file"):
        load(str(tmp_path / "folder.h5"), data_dir=None, binarize=None)
    (tmp_path / "mine.h5").write_text("0 1 0\n")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        load(str(tmp_path / "mine.h5"), data_dir=None, binarize=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "Cannot read .*make the file readable"),
        (MemoryError("2 TiB"), "damaged .*2 TiB"),
    ],
)
def test_hdf5_that_may_not_be_read_or_claims_more_than_there_is(tmp_path, monkeypatch, error, message):
    def refuse(_):
        raise error

    name = write_h5(tmp_path / "mine.h5", random_splits(pixels=4))
    monkeypatch.setattr(h5py, "is_hdf5", refuse)
    with pytest.raises(UserError, match=message):
        load(name, data_dir=None, binarize=None)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_hdf5_truncated(tmp_path, kept):
    name = write_h5(tmp_path / "mine.h5", random_splits(pixels=64, sizes=(500, 100, 100)))
    os.truncate(name, int(kept * os.path.getsize(name)))
    with pytest.raises(UserError, match=r"mine\.h5 is truncated or damaged \(") as caught:
        load(name, data_dir=None, binarize=None)
    assert "\n" not in str(caught.value)


# --- the order of minibatches ---


@pytest.mark.parametrize(("images", "batch_size"), [(10, 3), (12, 4), (7, 7), (5, 1), (1, 1), (100, 64)])
def test_every_epoch_has_every_image_once(images, batch_size):
    epochs = 6
    order = minibatches(images=images, batch_size=batch_size, first_step=0, steps=epochs * images, seed=0)
    assert order.dtype == np.int32
    assert order.shape == (epochs * images, batch_size)
    for epoch in order.reshape(-1, images)[:epochs]:
        assert sorted(epoch) == list(range(images))


def test_the_order_is_pinned():
    # Records compare only while this order stays: two permutations of 10 laid end to end.
    order = minibatches(images=10, batch_size=4, first_step=0, steps=5, seed=0)
    assert order.tolist() == [[7, 1, 6, 8], [0, 9, 3, 4], [2, 5, 5, 6], [7, 4, 0, 2], [9, 3, 1, 8]]


@pytest.mark.parametrize("chunk", [1, 4, 7, 30])
def test_grouping_of_steps_changes_nothing(chunk):
    whole = minibatches(images=23, batch_size=5, first_step=0, steps=60, seed=3)
    parts = [
        minibatches(images=23, batch_size=5, first_step=first, steps=min(chunk, 60 - first), seed=3)
        for first in range(0, 60, chunk)
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_epochs_and_seeds_differ_and_a_seed_repeats():
    def epoch(number, seed):
        return tuple(minibatches(images=50, batch_size=50, first_step=number, steps=1, seed=seed)[0])

    # 1 and 1 + 2**32, or seed and epoch exchanged: what a careless generator takes for one another.
    assert len({epoch(number, seed) for number in range(5) for seed in (0, 1, 2, 3, 4, 1 + 2**32)}) == 30
    data._permutation.cache_clear()
    assert epoch(1, 0) == tuple(minibatches(images=50, batch_size=50, first_step=0, steps=2, seed=0)[1])


def test_the_first_image_of_an_epoch_is_uniform():
    order = minibatches(images=5, batch_size=5, first_step=0, steps=2000, seed=0)
    firsts = Counter(order[:, 0].tolist())
    assert all(abs(firsts[image] - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8) for image in range(5))


def test_a_result_can_be_written_to_without_changing_the_next():
    first = minibatches(images=8, batch_size=8, first_step=0, steps=1, seed=0)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(minibatches(images=8, batch_size=8, first_step=0, steps=1, seed=0), kept)


def test_late_steps_are_reached_at_once_and_none_are_none():
    started = time.perf_counter()
    late = minibatches(images=50_000, batch_size=128, first_step=10**12, steps=100, seed=0)
    assert time.perf_counter() - started < 1
    assert 0 <= late.min() < late.max() < 50_000
    assert minibatches(images=10, batch_size=3, first_step=5, steps=0, seed=0).shape == (0, 3)


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(UserError, match="batch of 11 exceeds the 10 training images; set --batch-size"):
        minibatches(images=10, batch_size=11, first_step=0, steps=1, seed=0)


# --- subsets and frequencies ---


def test_subset():
    chosen = subset(images=100, of=10_000)
    assert chosen.dtype == np.int32
    assert len(set(chosen)) == 100
    assert np.array_equal(chosen, np.sort(chosen))
    assert 0 <= chosen[0] < 500  # not a prefix, nor a suffix
    assert 9_500 < chosen[-1] < 10_000
    assert np.array_equal(subset(images=100, of=10_000), chosen)
    assert set(chosen) < set(subset(images=101, of=10_000))
    for everything in (0, 10):
        assert np.array_equal(subset(images=everything, of=10), np.arange(10))
    with pytest.raises(UserError, match=r"11 images .* only 10"):
        subset(images=11, of=10)


def test_pixel_log_odds():
    train = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 1], [0, 1, 0]], np.uint8)
    p = np.array([1, 5, 3]) / 6
    assert pixel_log_odds(train).dtype == np.float64
    np.testing.assert_allclose(pixel_log_odds(train), np.log(p / (1 - p)), rtol=1e-14)
    many = np.ones((1000, 1), np.uint8)  # more ones than a byte can count
    np.testing.assert_allclose(pixel_log_odds(many), np.log(1001), rtol=1e-14)


# --- files that hold less, or more, than they say ---


def h5_of(path, **instead):
    """A data set's file in which some splits are what a function of (file, split) makes."""
    with h5py.File(path, "w") as file:
        for split in SPLITS:
            if split in instead:
                instead[split](file, split)
            else:
                file[split] = np.ones((4, 4), np.uint8)
    return path


def linked(file, split):
    file[split] = h5py.ExternalLink("elsewhere.h5", "/secret")


def outside(file, split):
    file.create_dataset(split, (4, 4), np.uint8, external=[("/etc/hostname", 0, 16)])


def virtual(file, split):
    layout = h5py.VirtualLayout((4, 4), np.uint8)
    layout[:] = h5py.VirtualSource("missing.h5", "train", (4, 4))
    file.create_virtual_dataset(split, layout)


def bomb(file, split):
    file.create_dataset(split, (2**21, 2**13), np.uint8, chunks=(2**10, 2**10))  # no chunk is written


def half(file, split):
    file.create_dataset(split, (20, 64), np.uint8, chunks=(10, 64))[:10] = 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (linked, "is a link to elsewhere.h5; copy the array into the file"),
        (outside, "lie in other files"),
        (virtual, "lie in other files"),
        (bomb, "was not written whole"),
        (half, "was not written whole"),
    ],
)
@pytest.mark.parametrize("split", SPLITS)
def test_hdf5_whose_numbers_are_not_in_it_or_too_many_is_refused_at_once(tmp_path, make, words, split):
    path = h5_of(tmp_path / "mine.h5", **{split: make})
    began = time.monotonic()
    with pytest.raises(UserError, match=words):
        load(str(path), data_dir=None, binarize=None)
    assert time.monotonic() - began < 1


def test_arrays_that_declare_more_than_a_bound_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data.image_files, "MOST_BYTES", 2**10)
    many = np.ones((20, 64), np.uint8)
    np.save(tmp_path / "mine.npy", many)
    np.savez_compressed(tmp_path / "mine.npz", train=many, valid=many, test=many)
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["train"] = file["valid"] = file["test"] = many
    for name in ("mine.npy", "mine.npz", "mine.h5"):
        with pytest.raises(UserError, match="are read: give fewer images"):
            load(str(tmp_path / name), data_dir=None, binarize=None)


def test_an_npy_file_that_declares_more_than_it_has_is_damaged(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.ones((20, 64), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(20, 64), ", b"(9999999, 64), ".ljust(10))[:200])
    with pytest.raises(UserError, match="truncated or damaged"):
        load(str(path), data_dir=None, binarize=None)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "mine.h5")
    with pytest.raises(UserError, match="is no regular file"):
        load(str(tmp_path / "mine.h5"), data_dir=None, binarize=None)
