"""Text datasets by name: which files are found, which split is taken, and real sentences."""

import json
import shutil

import numpy as np
import pytest

from linvae.data import (
    CorruptFileError,
    MissingDataError,
    Vocabulary,
    load_text,
    load_text_splits,
    text_names,
)

PLAIN = {"train": "a b\nb\nb c\n", "validation": "a d\nb\n", "test": "c\nc c\ne\n"}
LABELLED = {split: text.replace("\n", "\n1\t")[:-2] for split, text in PLAIN.items()}
LABELLED = {split: "0\t" + text for split, text in LABELLED.items()}


def place(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def texts(dataset):
    return [dataset.text(i) for i in range(dataset.n_samples)]


def test_names():
    assert text_names() == ("synthetic", "yahoo", "yelp", "yelp13", "short-yelp", "ptb")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("yaho", "did you mean 'yahoo'"), ("short-yel", "did you mean 'short-yelp'"), ("?", "ptb$")],
)
def test_unknown_name(name, hint):
    with pytest.raises(ValueError, match=rf"text dataset name='{name.replace('?', '.')}'.*{hint}"):
        load_text(name)


@pytest.mark.parametrize("spelling", ["short-yelp", "short_yelp", "Short_Yelp"])
def test_spellings(root, spelling):
    place(root / "text" / "short_yelp", {"train.txt": "a\n"})
    assert load_text(spelling, data_dir=root).name == "short-yelp"


# --- layouts ------------------------------------------------------------------------------------

LAYOUTS = {
    "He, Yahoo": (
        "yahoo",
        "text/yahoo/yahoo_data",
        LABELLED,
        ("yahoo.train.txt", "yahoo.valid.txt", "yahoo.test.txt"),
    ),
    "He, Yelp": (
        "yelp",
        "text/yelp",
        LABELLED,
        ("yelp.train.txt", "yelp.valid.txt", "yelp.test.txt"),
    ),
    "Yang, Yahoo": ("yahoo", "text/yahoo", PLAIN, ("train.txt", "val.txt", "test.txt")),
    "Yang, Yelp": ("yelp", "text/yelp/yelp15", PLAIN, ("train.txt", "valid.txt", "test.txt")),
    "short Yelp": (
        "short-yelp",
        "text/short_yelp",
        LABELLED,
        ("short_yelp.train.txt", "short_yelp.valid.txt", "short_yelp.test.txt"),
    ),
    "PTB": ("ptb", "text/ptb/ptb", PLAIN, ("train.txt", "valid.txt", "test.txt")),
}


@pytest.mark.parametrize("case", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout(root, case):
    name, folder, contents, files = case
    place(root / folder, dict(zip(files, contents.values(), strict=True)))
    for split, file in zip(PLAIN, files, strict=True):
        dataset = load_text(name, split=split, data_dir=root)
        assert (dataset.name, dataset.split, dataset.files) == (name, split, (file,))
        assert texts(dataset) == PLAIN[split].strip().split("\n")
        assert (dataset.labels is None) == (contents is PLAIN)
    assert load_text(name, data_dir=root).note == "published training split 'train'"


def test_yelp13_has_the_rating_first(root):
    place(root / "text" / "yelp13_vmf", {"train.txt": "5 a b\n1 b\n"})
    dataset = load_text("yelp13", data_dir=root)
    assert (texts(dataset), dataset.labels.tolist()) == (["a b", "b"], ["5", "1"])
    with pytest.raises(MissingDataError):
        load_text("yelp", data_dir=root)  # another set


def test_archive_of_the_penn_treebank(root, write_zip):
    members = {f"ptb/{split}.txt": text.encode() for split, text in PLAIN.items()}
    members["ptb/valid.txt"] = members.pop("ptb/validation.txt")
    write_zip(root / "text" / "ptb" / "ptb.zip", {"__MACOSX/ptb/train.txt": b"\0\1", **members})
    train, validation, test = load_text_splits("ptb", data_dir=root)
    assert [texts(part) for part in (train, validation, test)] == [
        ["a b", "b", "b c"],
        ["a <unk>", "b"],
        ["c", "c c", "<unk>"],
    ]
    assert train.files == ("ptb.zip",)
    assert validation.preprocessing[0]["member"] == "ptb/valid.txt"


@pytest.mark.parametrize("content", [b"<html>", b""], ids=["html", "empty"])
def test_damaged_archive(root, content):
    place(root / "text" / "ptb", {})
    (root / "text" / "ptb" / "ptb.zip").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"ptb.zip: not a complete zip archive"):
        load_text("ptb", data_dir=root)


def test_a_damaged_archive_beside_all_files_is_not_opened(root):
    folder = root / "text" / "ptb"
    place(folder, {"train.txt": "a\n", "valid.txt": "a\n", "test.txt": "a\n", "ptb.zip": "?"})
    assert load_text("ptb", data_dir=root).n_samples == 1


def test_part_of_the_training_file(root):
    folder = root / "text" / "short_yelp"
    place(folder, {"short_yelp.train.100.txt": "1\ta\n", "short_yelp.test.txt": "0\tb\n"})
    dataset = load_text("short-yelp", data_dir=root)
    assert (dataset.split, dataset.files) == ("train", ("short_yelp.train.100.txt",))
    assert dataset.note.endswith("short_yelp.train.100.txt is a part of the training file")
    place(folder, {"short_yelp.train.txt": "1\tc\n"})
    assert load_text("short-yelp", data_dir=root).note == "published training split 'train'"


# --- which split --------------------------------------------------------------------------------


def test_without_training_file_the_first_split_is_taken(root):
    place(root / "text" / "yahoo", {"val.txt": "a\n", "test.txt": "b\n"})
    dataset = load_text("yahoo", data_dir=root)
    assert dataset.split == "validation"
    assert dataset.note.startswith("the training split 'train' was not found; took 'validation'")
    assert load_text("yahoo", split="val", data_dir=root).split == "validation"


def test_missing_split_says_what_is_there(root):
    place(root / "text" / "yahoo", {"val.txt": "a\n"})
    with pytest.raises(MissingDataError) as caught:
        load_text("yahoo", split="test", data_dir=root)
    said = str(caught.value)
    assert "split 'test', are missing. Splits found: validation." in said
    with pytest.raises(ValueError, match=r"split='dev' .* train, validation, test; found here: v"):
        load_text("yahoo", split="dev", data_dir=root)


def test_missing_data_says_what_to_do(root):
    with pytest.raises(MissingDataError) as caught:
        load_text("yelp", data_dir=root)
    said = str(caught.value)
    assert f"{root / 'text' / 'yelp'} (no such folder)" in said
    assert "train.txt or yelp.train.txt, one sentence per line" in said
    assert "research use, unclear for redistribution" in said
    assert "in text/yelp/" in said
    assert said.endswith("Works now, without any file: synthetic.")


@pytest.mark.parametrize("given", [{}, {"name": "yahoo", "path": "x.txt"}], ids=str)
def test_name_or_path(given):
    with pytest.raises(ValueError, match="load_text needs one of them, a name among synthetic"):
        load_text(**given)


def test_own_file(tmp_path):
    place(tmp_path, {"x.txt": "1\ta b\n0\tb\n"})
    dataset = load_text(path=tmp_path / "x.txt", max_words=1)
    assert (dataset.name, texts(dataset)) == ("x.txt", ["<unk> b", "b"])
    with pytest.raises(ValueError, match=r"split='test' of the file .* divide it"):
        load_text(path=tmp_path / "x.txt", split="test")


# --- three splits -------------------------------------------------------------------------------


def test_splits_share_the_vocabulary_of_the_training_file(root):
    place(root / "text" / "yahoo", {f"{s}.txt": t for s, t in PLAIN.items() if s != "validation"})
    place(root / "text" / "yahoo", {"val.txt": PLAIN["validation"]})
    train, validation, test = load_text_splits("yahoo", data_dir=root)
    assert train.vocabulary.words[3:] == ("b", "a", "c")
    assert train.vocabulary is validation.vocabulary is test.vocabulary
    assert [part.split for part in (train, validation, test)] == ["train", "validation", "test"]
    assert texts(test) == ["c", "c c", "<unk>"]
    first = load_text_splits("yahoo", data_dir=root, max_words=1, max_sentences=2, max_length=1)
    assert [texts(part) for part in first] == [["b"], ["b"], ["<unk>", "<unk>"]]


def distinct(n, k0=0):
    """`n` sentences without a common word."""
    return "".join(f"v{k} w{k}\n" for k in range(k0, k0 + n))


def test_without_training_file_the_largest_stands_for_it(root):
    place(root / "text" / "yahoo", {"val.txt": distinct(20), "test.txt": distinct(30, 10)})
    train, validation, test = load_text_splits("yahoo", data_dir=root)
    assert (train.split, validation.split, test.split) == ("test", "validation", "validation")
    assert train.note.startswith("no training file: 'test', the largest, stands for it")
    assert validation.note.startswith("one file for validation and test: half of 'validation'")
    assert (train.n_samples, validation.n_samples, test.n_samples) == (30, 10, 10)
    whole = load_text("yahoo", split="validation", data_dir=root, vocabulary=train.vocabulary)
    assert sorted(texts(validation) + texts(test)) == sorted(texts(whole))


def test_training_file_is_kept_where_another_is_larger(root):
    place(root / "text" / "yahoo", {"train.txt": distinct(4), "test.txt": distinct(10)})
    train, validation, test = load_text_splits("yahoo", data_dir=root)
    assert (train.split, validation.split, test.split) == ("train", "test", "test")
    assert "no training file" not in train.note


def test_one_file_is_divided(tmp_path):
    place(tmp_path, {"x.txt": distinct(50)})
    parts = load_text_splits(path=tmp_path / "x.txt", seed=1)
    assert [part.n_samples for part in parts] == [40, 5, 5]
    assert all(part.note.startswith("one file only: divided into 80 %") for part in parts)
    used = {word for text in texts(parts[0]) for word in text.split()}
    assert set(parts[0].vocabulary.words[3:]) == used  # nothing of the other parts
    assert parts[1].vocabulary is parts[0].vocabulary
    assert texts(load_text_splits(path=tmp_path / "x.txt", seed=2)[0]) != texts(parts[0])
    words = load_text_splits(path=tmp_path / "x.txt", max_words=7)[0].vocabulary
    assert len(words) == 10


def test_lines_that_repeat_are_counted_in_the_note(tmp_path):
    place(tmp_path, {"x.txt": 3 * distinct(30)})
    train, _, test = load_text_splits(path=tmp_path / "x.txt")
    again = sum(text in set(texts(train)) for text in texts(test))
    assert again > 4
    assert f", {again} of the 9 test sentences are training sentences too" in test.note
    place(tmp_path, {"y.txt": distinct(90)})
    assert "too" not in load_text_splits(path=tmp_path / "y.txt")[2].note


def test_a_file_too_short_to_divide(tmp_path):
    place(tmp_path, {"x.txt": distinct(9), "y.txt": distinct(10)})
    with pytest.raises(ValueError, match="has 9 sentences; at least 10 are needed to divide one"):
        load_text_splits(path=tmp_path / "x.txt")
    assert [part.n_samples for part in load_text_splits(path=tmp_path / "y.txt")] == [8, 1, 1]


def test_missing_splits(root):
    with pytest.raises(MissingDataError, match="Folders tried"):
        load_text_splits("yahoo", data_dir=root)


# --- synthetic ----------------------------------------------------------------------------------


def test_synthetic_needs_no_files():
    train, validation, test = load_text_splits("synthetic", max_sentences=40, min_count=2)
    assert [part.n_samples for part in (train, validation, test)] == [40, 40, 40]
    assert train.vocabulary is test.vocabulary
    assert min(n for word, n in train.counts().items() if word.startswith("w")) >= 2
    assert len({part.text(0) for part in (train, validation, test)}) == 3
    assert load_text("synthetic", split="val", max_sentences=3).split == "validation"
    again = load_text("synthetic", max_sentences=40, vocabulary=train.vocabulary)
    np.testing.assert_array_equal(again.tokens, train.tokens)


def test_synthetic_options():
    with pytest.raises(ValueError, match="split='all' of dataset 'synthetic' must be one of"):
        load_text("synthetic", split="all")
    with pytest.raises(ValueError, match="max_length=3 leaves no sentence"):
        load_text("synthetic", max_sentences=3, max_length=3)
    with pytest.raises(ValueError, match="max_sentences=0 must be at least 1"):
        load_text("synthetic", max_sentences=0)


# --- real sentences -----------------------------------------------------------------------------

# Sentences, words without END, longest. Yahoo: as counted in the public copies of both files; PTB:
# as published, less one END a sentence; the others by a plain count of words, labels taken off.
REAL = {
    ("yahoo", "validation"): ("text/yahoo/val.txt", 10_000, 790_680, 200),
    ("yahoo", "test"): ("text/yahoo/test.txt", 10_000, 788_673, 200),
    ("yelp13", "validation"): ("text/yelp13_vmf/valid.txt", 7_773, 370_321, 50),
    ("yelp13", "test"): ("text/yelp13_vmf/test.txt", 8_671, 411_779, 50),
    ("short-yelp", "train"): ("text/short_yelp/short_yelp.train.10000.txt", 10_000, 89_405, 15),
    ("short-yelp", "test"): ("text/short_yelp/short_yelp.test.txt", 10_000, 89_998, 15),
    ("ptb", "train"): ("text/ptb/ptb.zip", 42_068, 887_521, 82),
    ("ptb", "validation"): ("text/ptb/ptb.zip", 3_370, 70_390, 74),
    ("ptb", "test"): ("text/ptb/ptb.zip", 3_761, 78_669, 77),
}


@pytest.mark.parametrize(("key", "facts"), REAL.items(), ids=[" ".join(key) for key in REAL])
def test_real_sizes(real_data, key, facts):
    file, sentences, words, longest = facts
    dataset = load_text(key[0], split=key[1], data_dir=real_data(file))
    assert (dataset.n_samples, dataset.n_words - sentences) == (sentences, words)
    assert dataset.lengths.max() - 2 == longest
    json.dumps(dataset.preprocessing)


def test_real_penn_treebank_has_its_published_vocabulary(real_data):
    """10,000 types, <unk> and END among them; START is one more."""
    dataset = load_text("ptb", data_dir=real_data("text/ptb/ptb.zip"))
    assert len(dataset.vocabulary) == 10_001
    assert dataset.n_words == 929_589  # the published number of training tokens


def test_real_labels(real_data):
    root = real_data("text/short_yelp/short_yelp.test.txt")
    assert set(load_text("short-yelp", split="test", data_dir=root).labels) == {"0", "1"}
    root = real_data("text/yelp13_vmf/test.txt")
    assert set(load_text("yelp13", split="test", data_dir=root).labels) == {*"01234"}


def test_real_yahoo_without_its_training_file(real_data):
    train, validation, test = load_text_splits("yahoo", data_dir=real_data("text/yahoo/val.txt"))
    assert (train.split, validation.split, test.split) == ("validation", "test", "test")
    assert validation.n_words + test.n_words == 788_673 + 10_000
    # words seen in one half of the published 20,000: the rest is unknown in the other
    assert len(train.vocabulary) == 17_046
    assert train.unknown_share < test.unknown_share < 0.055


def test_real_sentences_in_the_layout_of_he(real_data, root):
    """The same sentences give the same tokens with labels or without."""
    source = real_data("text/yahoo/val.txt") / "text/yahoo/val.txt"
    lines = source.read_text(encoding="utf-8").splitlines()[:500]
    place(root / "text/yahoo/yahoo_data", {"yahoo.train.txt": "".join(f"3\t{x}\n" for x in lines)})
    shutil.copy(source, root / "plain.txt")
    labelled = load_text("yahoo", data_dir=root)
    plain = load_text(path=root / "plain.txt", max_sentences=500)
    np.testing.assert_array_equal(labelled.tokens, plain.tokens)
    assert set(labelled.labels) == {"3"}


def test_real_vocabulary_travels(real_data, tmp_path):
    """Saved after training and read again, it gives the same tokens."""
    root = real_data("text/short_yelp/short_yelp.test.txt")
    train = load_text("short-yelp", data_dir=root)
    train.vocabulary.save(tmp_path / "words.txt")
    loaded = Vocabulary.load(tmp_path / "words.txt")
    assert loaded.sha256 == train.vocabulary.sha256
    again = load_text("short-yelp", data_dir=root, vocabulary=loaded)
    np.testing.assert_array_equal(again.tokens, train.tokens)
