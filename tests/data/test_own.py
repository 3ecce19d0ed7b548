"""A user's own files: every format gives back the array that was written, or says what is wrong."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from linvae.data import MissingDataError
from linvae.data import own as module
from linvae.data.own import open_own_data
from linvae.moments import Moments

TABLE = np.random.default_rng(0).normal(size=(23, 4))


def write_csv(path, header="", delimiter=","):
    np.savetxt(path, TABLE, delimiter=delimiter, header=header, comments="", fmt="%.17g")


def write_h5(path, **arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("_", "/")] = values


def write_parquet(path, table=TABLE):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {f"c{i}": column for i, column in enumerate(table.T)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=7)


def write_upper_case_npz(path):
    with path.open("wb") as file:  # of a name NumPy would make a.NPZ.npz
        np.savez(file, target=TABLE, other=np.ones(3))


WRITERS = {
    "npy": ("a.npy", lambda p: np.save(p, TABLE)),
    "npy-by-column": ("a.npy", lambda p: np.save(p, np.asfortranarray(TABLE))),
    "npz": ("a.npz", lambda p: np.savez(p, anything=TABLE)),
    "npz-packed": ("a.npz", lambda p: np.savez_compressed(p, TABLE)),
    "npz-by-column": ("a.npz", lambda p: np.savez(p, np.asfortranarray(TABLE))),
    "npz-target": ("a.NPZ", write_upper_case_npz),
    "csv": ("a.csv", write_csv),
    "csv-header": ("a.csv", lambda p: write_csv(p, header='one,"two, or 2",three,four')),
    "csv-semicolon": ("a.csv", lambda p: write_csv(p, header="a;b;c;d", delimiter=";")),
    "csv-tab": ("a.csv", lambda p: write_csv(p, delimiter="\t")),
    "h5": ("a.h5", lambda p: write_h5(p, group_inner=TABLE)),
    "h5-target": ("a.hdf5", lambda p: write_h5(p, target=TABLE, other=np.ones(3))),
    "parquet": ("a.parquet", write_parquet),
}


@pytest.fixture(params=[1, 5, 23, 1000])
def rows(request, monkeypatch):
    """Batches of so many rows of TABLE."""
    monkeypatch.setattr(module, "BATCH_BYTES", 8 * TABLE.shape[1] * request.param)
    return request.param


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS.keys())
def test_batches_are_the_array_that_was_written(name, write, rows, tmp_path):
    path = tmp_path / name
    write(path)
    data = open_own_data(path)
    assert (data.n_samples, data.target_dim, data.condition_dim) == (23, 4, 0)
    for _ in range(2):  # it can be read again
        batches = list(data.batches())
        assert max(len(batch) for batch in batches) <= rows
        np.testing.assert_array_equal(np.concatenate(batches), TABLE)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.csv"])
def test_first_columns_are_the_condition(name, rows, tmp_path):
    next(write for file, write in WRITERS.values() if file == name)(tmp_path / name)
    data = open_own_data(tmp_path / name, condition_dim=3)
    assert (data.target_dim, data.condition_dim) == (1, 3)
    moments = Moments.from_batches(data.batches())
    whole = Moments.from_data(TABLE[:, 3:], TABLE[:, :3])
    np.testing.assert_allclose(moments.covariance, whole.covariance, rtol=1e-12, atol=1e-15)
    assert moments.condition_dim == 3
    assert "condition dim 3" in data.describe()


def test_condition_of_its_own(rows, tmp_path):
    np.savez(tmp_path / "a.npz", target=TABLE[:, :1], condition=TABLE[:, 1:])
    data = open_own_data(tmp_path / "a.npz")
    assert (data.target_dim, data.condition_dim) == (1, 3)
    conditions, targets = zip(*data.batches(), strict=True)
    np.testing.assert_array_equal(np.concatenate(conditions), TABLE[:, 1:])
    np.testing.assert_array_equal(np.concatenate(targets), TABLE[:, :1])


def test_named_array(tmp_path):
    np.savez(tmp_path / "a.npz", first=TABLE, second=-TABLE)
    (batch,) = open_own_data(tmp_path / "a.npz", array="second").batches()
    np.testing.assert_array_equal(batch, -TABLE)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bool", "float16", ">f8"])
def test_types_become_float(dtype, tmp_path):
    values = (np.arange(24).reshape(4, 3, 2) % 7).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    data = open_own_data(tmp_path / "a.npy", scale=0.5)
    (batch,) = data.batches()
    assert batch.dtype == (np.float32 if dtype == "float32" else np.float64)
    np.testing.assert_array_equal(batch, values.reshape(4, 6).astype(float) / 2)
    assert data.note == "target: samples of shape (3, 2), flattened; values multiplied by 0.5"


def test_integers_are_left_as_they_are_and_said(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0, 255], [128, 3]], dtype=np.uint8))
    data = open_own_data(tmp_path / "a.npy")
    assert data.note.startswith("uint8 values as they are: variances are in their units squared")
    assert next(iter(data.batches())).max() == 255
    assert data.describe().startswith("a.npy: n 2, dim 2, sha256 ")
    assert len(data.sha256) == 64


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "RGBA", "P", "1"])
def test_folder_of_images_in_natural_order(mode, rows, tmp_path):
    rng = np.random.default_rng(1)
    shape = (5, 3, 4)[: 2 + (mode in ("RGB", "RGBA"))]
    pictures = []
    for number in (10, 9, 2, 1):
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 2**16, size=(5, 3), dtype=np.uint16))
        else:
            levels = rng.integers(0, 256, size=(*shape[:2], len(mode))[: len(shape)])
            plain = Image.fromarray(levels.astype(np.uint8), mode if len(shape) == 3 else "L")
            image = plain.convert(mode)
        image.save(tmp_path / f"face{number}.png")
        if mode in ("P", "RGBA"):
            image = image.convert("RGB")
        pictures.insert(0, np.asarray(image.convert("L") if mode == "1" else image).ravel())
    (tmp_path / "notes.txt").write_text("not an image")
    data = open_own_data(tmp_path)
    np.testing.assert_array_equal(np.concatenate(list(data.batches())), np.stack(pictures))
    assert data.sha256 == "" and "flattened" in data.note


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A packed file of 64 MB: reading holds a few batches of 4 MiB, not the array."""
    np.savez_compressed(tmp_path / "a.npz", np.zeros((80_000, 100)))
    tracemalloc.start()
    rows = sum(len(batch) for batch in open_own_data(tmp_path / "a.npz").batches())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 80_000
    # two batches, each read in pieces that are joined (twice the bytes), and what zlib holds
    assert peak < 5 * module.BATCH_BYTES


# --- what cannot be used ------------------------------------------------------------------------


def save(values):
    return lambda path: np.save(path, values, allow_pickle=True)


def text(content, encoding="utf-8"):
    return lambda path: path.write_text(content, encoding=encoding)


BAD = {
    "suffix": ("a.xls", text(""), "suffix '.xls' is none of .npy, .csv, .parquet, .npz, .h5"),
    "not-npy": ("a.npy", text("hello, world"), "not a readable .npy file"),
    "empty-npy": ("a.npy", text(""), "not a readable .npy file"),
    "pickle": ("a.npy", save(np.array([{}, 1])), "not a readable .npy file .*Python objects"),
    "packed-pickle": (
        "a.npz",
        lambda p: np.savez(p, np.array([{}, 1])),
        "npz file .*Python objects",
    ),
    "text-array": ("a.npy", save(np.array([["a", "b"]] * 3)), "has dtype <U1 and must be numbers"),
    "complex": ("a.npy", save(np.ones((3, 2), complex)), "has dtype complex128 and must be"),
    "one-axis": ("a.npy", save(np.ones(5)), r"has shape \(5,\) and must have at least 2 axes"),
    "no-axis": ("a.npy", save(np.ones(())), r"has shape \(\) and must have at least 2 axes"),
    "no-samples": ("a.npy", save(np.ones((0, 3))), r"\(0, 3\) and must have at least 2 samples"),
    "one-sample": ("a.npy", save(np.ones((1, 3))), r"\(1, 3\) and must have at least 2 samples"),
    "no-features": ("a.npy", save(np.ones((3, 0))), "at least 2 samples and 1 feature"),
    "not-npz": ("a.npz", text("hello"), "not a readable .npz file"),
    "names": ("a.npz", lambda p: np.savez(p, a=TABLE, b=TABLE), "holds a, b: name one with array="),
    "nothing": ("a.npz", lambda p: np.savez(p), "holds nothing: name one"),
    "lengths": (
        "a.npz",
        lambda p: np.savez(p, target=TABLE, condition=TABLE[:5]),
        "condition has 5 samples and target 23: sample i of both",
    ),
    "empty-csv": ("a.csv", text(""), r"has shape \(0, 0\) and must have at least 2 samples"),
    "header-only": ("a.csv", text("a,b\n"), r"has shape \(0, 2\) and must have at least 2 samples"),
    "latin": (
        "a.csv",
        text("ä,ö\n1,2\n", "latin-1"),
        "not a readable .csv file .*utf-8.*save it as UTF-8",
    ),
    "no-images": ("folder", lambda p: p.mkdir(), "folder holds no images"),
}


@pytest.mark.parametrize(("name", "write", "words"), BAD.values(), ids=BAD.keys())
def test_unusable_files_are_refused(name, write, words, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        open_own_data(tmp_path / name)


def nan_at(row, column):
    values = TABLE.astype(np.float32)
    values[row, column] = np.nan
    return values


LATE = {
    "nan": ("a.npy", save(nan_at(17, 2)), r"target\[17, 2\] = nan must be finite; remove or"),
    "missing": (
        "a.csv",
        text("a,b\n1,2\n3,4\n5,\n"),
        "a.csv: line 4, column 'b' is empty: fill it, or remove such lines$",
    ),
    "word": (
        "a.csv",
        text("1,2\n\n3,4\n5,six\n"),
        "a.csv: line 4, column 2 is 'six' and must be a number: correct it, or remove",
    ),
    "nan-in-csv": (
        "a.csv",
        text("a,b\n1,2\nnan,4\n"),
        "a.csv: line 3, column 'a' is 'nan' and must be finite: remove or impute",
    ),
    "decimal-comma": (
        "a.csv",
        text("a;b\n1;2\n3;1,5\n"),
        "a.csv: line 3, column 'b' is '1,5': write numbers with a decimal point$",
    ),
    "decimal-comma-first": (
        "a.csv",
        text("1,5;2,5\n1;2\n"),
        "a.csv: line 1, column 1 is '1,5': write numbers with a decimal point$",
    ),
    "ragged": (
        "a.csv",
        text("a,b\n1,2\n3,4\n5,6,7\n"),
        "a.csv: line 4 has 3 cells and the first line 2: every line must have as many; fill",
    ),
}


@pytest.mark.parametrize("rows", [1, 512])
@pytest.mark.parametrize(("name", "write", "words"), LATE.values(), ids=LATE.keys())
def test_damage_further_on_is_named(name, write, words, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 8 * 2 * rows)  # rows of the CSV files at a time
    path = tmp_path / name
    write(path)
    data = open_own_data(path)
    with pytest.raises(ValueError, match=words):
        list(data.batches())


def test_a_file_that_grew_is_not_used(tmp_path):
    write_csv(tmp_path / "a.csv")
    data = open_own_data(tmp_path / "a.csv")
    with (tmp_path / "a.csv").open("a") as stream:
        stream.write("1,2,3,4\n")
    with pytest.raises(ValueError, match="target has 24 samples and 23 were announced"):
        list(data.batches())


def test_missing_file_is_missing_data(tmp_path):
    with pytest.raises(MissingDataError, match=r"nowhere\.npy' does not exist: give the path of"):
        open_own_data(tmp_path / "nowhere.npy")


def test_options_that_do_not_fit(tmp_path):
    np.save(tmp_path / "a.npy", TABLE)
    np.savez(tmp_path / "a.npz", target=TABLE, condition=TABLE)
    with pytest.raises(ValueError, match=r"array='x' has no effect on a \.npy file"):
        open_own_data(tmp_path / "a.npy", array="x")
    with pytest.raises(ValueError, match=r"array='x' is not in .*, which holds target, condition"):
        open_own_data(tmp_path / "a.npz", array="x")
    with pytest.raises(ValueError, match="condition_dim=4 must be between 0 and 3"):
        open_own_data(tmp_path / "a.npy", condition_dim=4)
    with pytest.raises(ValueError, match=r"condition_dim=1: .* has a condition of its own, of 4"):
        open_own_data(tmp_path / "a.npz", condition_dim=1)
    with pytest.raises(ValueError, match="scale=0 must be a finite number > 0"):
        open_own_data(tmp_path / "a.npy", scale=0)


def test_images_of_two_sizes_are_refused(tmp_path):
    for i, size in enumerate([(4, 4), (4, 5)]):
        Image.new("L", size).save(tmp_path / f"{i}.png")
    data = open_own_data(tmp_path)
    with pytest.raises(ValueError, match=r"1.png is an image of shape \(5, 4\), uint8, and 0.png"):
        list(data.batches())


@pytest.mark.parametrize(("name", "package"), [("a.h5", "h5py"), ("a.parquet", "pyarrow")])
def test_missing_library_is_named(name, package, tmp_path, monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(module.importlib, "import_module", missing)
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"needs {package}, which is not installed: pip install"):
        open_own_data(tmp_path / name)


def test_parquet_of_words_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'b' has type string and must be numbers"):
        open_own_data(tmp_path / "a.parquet")


@pytest.mark.parametrize("first", ["1,,3", ",a,b", "1,b,c"])
def test_a_first_line_of_words_and_numbers_is_no_sample_lost(first, tmp_path):
    """Taken for a header a sample would be gone, without a word."""
    (tmp_path / "data.csv").write_text(f"{first}\n1,2,3\n2,3,9\n")
    with pytest.raises(ValueError, match="has gaps or both words and numbers"):
        open_own_data(tmp_path / "data.csv")


def test_an_image_too_large_to_be_one_is_refused(tmp_path, monkeypatch):
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.new("L", (9, 9)).save(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(ValueError, match="decompression bomb"):
        open_own_data(tmp_path)


def test_a_header_is_noted_and_that_of_pandas_is_one(tmp_path):
    """0 to d - 1 is what pandas calls columns without names; a first sample of others stays."""
    for header, n in (("0,1,2,3", 5), ("one,two,three,four", 5), ("0,1,2,4", 6), ("0.0,1,2,3", 6)):
        np.savetxt(tmp_path / "a.csv", np.eye(5, 4), delimiter=",", header=header, comments="")
        data = open_own_data(tmp_path / "a.csv")
        assert data.n_samples == n
        noted = f"target: the first line, {header!r}, is its header"
        assert data.note == (noted if n == 5 else "")
    np.savetxt(tmp_path / "one.csv", [0.0, 1.0, 2.0])
    assert open_own_data(tmp_path / "one.csv").n_samples == 3


def test_a_long_header_is_cut_between_its_names(tmp_path):
    names = [f"a_long_name_{i}" for i in range(9)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + 2 * ("1,2,3,4,5,6,7,8,9\n"))
    shown = "a_long_name_0,a_long_name_1,a_long_name_2,a_long_name_3,..."
    assert open_own_data(tmp_path / "a.csv").note == (
        f"target: the first line, {shown!r}, is its header"
    )


@pytest.mark.parametrize("header", ["i,a", ""])
@pytest.mark.parametrize(
    ("first", "is_index"), [((0, 1, 2), True), ((0, 2, 1), False), ((1, 2, 3), False)]
)
def test_a_first_column_that_counts_the_rows_is_noted(header, first, is_index, tmp_path):
    np.savetxt(
        tmp_path / "a.csv", np.column_stack([first, [0.5, 0.1, 0.7]]), fmt=["%d", "%g"],
        delimiter=",", header=header, comments="",
    )  # fmt: skip
    note = open_own_data(tmp_path / "a.csv").note
    words = "target: the first column counts the rows 0, 1, 2 ...: leave it out if it is an index"
    assert (words in note) == is_index


def test_a_column_of_its_own_that_counts_is_no_index(tmp_path):
    (tmp_path / "a.csv").write_text("0\n1\n2\n")
    assert open_own_data(tmp_path / "a.csv").note == ""


def test_all_arrays_at_once(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(4, 3))
    target, condition = open_own_data(tmp_path / "a.npy").arrays()
    assert condition is None and np.array_equal(target, np.arange(12.0).reshape(4, 3))
    target, condition = open_own_data(tmp_path / "a.npy", condition_dim=1).arrays()
    assert condition.tolist() == [[0], [3], [6], [9]] and target.shape == (4, 2)


@pytest.mark.parametrize("path", ["x" * 5000 + ".csv", "~nobody-of-this-name/x.csv"])
def test_what_is_no_path_is_a_usage_error(path):
    with pytest.raises(ValueError, match=r"is no path \(.*give that of a file"):
        open_own_data(path)


def test_a_long_cell_is_cut_in_the_message(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("1,2\n3,4\n5," + "x" * 10**5 + "\n")
    with pytest.raises(ValueError, match="column 2 is 'xxx") as refused:
        list(open_own_data(file).batches())
    assert len(str(refused.value)) < 500
