"""`Vocabulary`, `TextDataset` and batches of equal lengths."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from linvae.data import (
    CorruptFileError,
    TextDataset,
    Vocabulary,
)
from linvae.data.vocabulary import END, SPECIAL, START, UNKNOWN

SENTENCES = ["b a b", "a c b", "d", "c a _UNK b a"]
WORDS = Vocabulary((*SPECIAL, "a", "b", "c", "d"))


def dataset_of(sentences, vocabulary=WORDS, **fields):
    """Encode sentences one by one."""
    parts = [vocabulary.encode(sentence.split()) for sentence in sentences]
    offsets = np.cumsum([0, *map(len, parts)])
    return TextDataset("mine", np.concatenate(parts), offsets, vocabulary, **fields)


@pytest.fixture
def dataset():
    return dataset_of(SENTENCES, labels=np.array(["0", "1", "0", "1"]), note="a note")


# --- Vocabulary ---------------------------------------------------------------------------------


def test_order_is_frequency_then_spelling():
    vocabulary = Vocabulary.from_sentences(sentence.split() for sentence in SENTENCES)
    assert vocabulary.words == ("<s>", "</s>", "<unk>", "a", "b", "c", "d")  # a 4, b 4, c 2, d 1
    assert len(vocabulary) == 7


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"max_words": 1}, ["a"]),
        ({"max_words": 9}, ["a", "b", "c", "d"]),
        ({"min_count": 2}, ["a", "b", "c"]),
        ({"min_count": 3, "max_words": None}, ["a", "b"]),
    ],
    ids=str,
)
def test_limits(options, kept):
    counts = Counter(" ".join(SENTENCES).split()) + Counter({"<unk>": 9, "<s>": 9, "</s>": 9})
    assert list(Vocabulary.from_counts(counts, **options).words[3:]) == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_words": 0}, "max_words=0 must be at least 1"),
        ({"min_count": 0}, "min_count=0 must be at least 1"),
        ({"min_count": 5}, "no word of 2 occurs min_count=5 times or more"),
    ],
    ids=str,
)
def test_impossible_limits(options, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_counts({"a": 4, "_UNK": 7}, **options)


def test_encode_and_decode():
    tokens = WORDS.encode(["d", "b", "e", "_UNK", "<unk>", "a"])
    assert tokens.tolist() == [START, 6, 4, UNKNOWN, UNKNOWN, UNKNOWN, 3, END]
    assert tokens.dtype == np.int32
    assert WORDS.decode(tokens) == ["d", "b", "<unk>", "<unk>", "<unk>", "a"]
    assert WORDS.decode([START, 3, END, -1, -1]) == ["a"]  # padding comes after the end
    assert WORDS.decode([3, 4]) == ["a", "b"]


def test_marks_of_begin_and_end_are_set_once():
    assert WORDS.encode(["<s>", "a", "</s>"]).tolist() == WORDS.encode(["a"]).tolist()


def test_encode_refuses_a_string():
    with pytest.raises(ValueError, match=r"words='a b' is one string .* pass words.split\(\)"):
        WORDS.encode("a b")


@pytest.mark.parametrize("token", [-1, 7])
def test_decode_refuses_what_is_no_token(token):
    with pytest.raises(ValueError, match=f"token {token} must be between 0 and 6"):
        WORDS.decode([START, token])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "b"), r"words begin with \('a', 'b'\) and must begin with"),
        ((*SPECIAL, "a", "a"), r"words\[4\]='a' must be one word without white space, given once"),
        ((*SPECIAL, "a b"), r"words\[3\]='a b' must be one word"),
        ((*SPECIAL, ""), r"words\[3\]='' must be one word"),
        ((*SPECIAL, "_UNK"), r"words\[3\]='_UNK' .* not '_UNK'"),
    ],
    ids=str,
)
def test_no_vocabulary(words, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(words)


def test_saved_vocabulary_is_read_again(tmp_path):
    vocabulary = Vocabulary((*SPECIAL, "é", "don't", "\u200b"))  # the last is no white space
    vocabulary.save(tmp_path / "words.txt")
    assert Vocabulary.load(tmp_path / "words.txt") == vocabulary
    assert (tmp_path / "words.txt").read_text(encoding="utf-8").splitlines()[3:5] == ["é", "don't"]
    written = hashlib.sha256((tmp_path / "words.txt").read_bytes()).hexdigest()
    assert vocabulary.sha256 == written != WORDS.sha256


def test_vocabulary_with_windows_line_ends(tmp_path):
    (tmp_path / "words.txt").write_bytes(b"<s>\r\n</s>\r\n<unk>\r\na\r\n")
    assert Vocabulary.load(tmp_path / "words.txt").words[3:] == ("a",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "words begin with"),
        (b"a\nb\n", "words begin with"),
        (b"<s>\n</s>\n<unk>\na\na\n", r"words\[4\]='a'"),
        (b"<s>\n</s>\n<unk>\n\xff\n", "codec can't decode"),
    ],
    ids=["empty", "other", "twice", "latin1"],
)
def test_damaged_vocabulary(tmp_path, content, message):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(CorruptFileError, match=rf"words.txt: no vocabulary.*{message}") as caught:
        Vocabulary.load(tmp_path / "words.txt")
    assert "Vocabulary.save" in str(caught.value)


# --- TextDataset --------------------------------------------------------------------------------


def test_counts_of_a_dataset(dataset):
    assert dataset.n_samples == 4
    assert dataset.lengths.tolist() == [5, 5, 3, 7]
    assert dataset.n_words == 16  # 12 words and 4 ends; starts are given
    assert dataset.unknown_share == 1 / 12
    assert (dataset.tokens.dtype, dataset.offsets.dtype) == (np.int32, np.int64)
    assert dataset.counts() == {"<s>": 4, "</s>": 4, "<unk>": 1, "a": 4, "b": 4, "c": 2, "d": 1}


def test_text_comes_back(dataset):
    expected = [sentence.replace("_UNK", "<unk>") for sentence in SENTENCES]
    assert [dataset.text(i) for i in range(4)] == expected
    assert dataset.sentence(2).tolist() == [START, 6, END]


@pytest.mark.parametrize("i", [-1, 4])
def test_sentence_outside(dataset, i):
    with pytest.raises(IndexError, match=f"i={i} must be between 0 and 3"):
        dataset.sentence(i)


def test_describe(dataset):
    assert dataset.describe() == (
        "mine [all]: n 4, words 16, vocabulary 7, unknown 8.33 %, longest 5, sha256 "
        + dataset.sha256[:12]
    )


def test_digest_follows_tokens_offsets_and_vocabulary(dataset):
    other_words = Vocabulary((*SPECIAL, "a", "b", "c", "e"))
    others = [
        dataset_of(["a b", "c"]),
        dataset_of(["a", "b c"]),
        dataset_of(["a b", "c"], other_words),
    ]
    assert len({one.sha256 for one in [dataset, *others]}) == 4
    assert dataset_of(["a b", "c"]).sha256 == others[0].sha256


def test_padded(dataset):
    rows = dataset.padded()
    assert (rows.shape, rows.dtype) == ((4, 7), np.int64)
    for i, row in enumerate(rows):
        inside = dataset.lengths[i]
        assert row[:inside].tolist() == dataset.sentence(i).tolist()
        assert set(row[inside:].tolist()) <= {-1}


def test_padding_is_the_one_of_the_models():
    pytest.importorskip("torch")
    from linvae import data, models

    assert data.PADDING == models.recurrent.PADDING


def test_taken_in_any_order(dataset):
    taken = dataset.taken([3, 0, 3], {"step": "mine"})
    assert [taken.text(i) for i in range(3)] == [dataset.text(i) for i in (3, 0, 3)]
    assert taken.labels.tolist() == ["1", "0", "1"]
    assert taken.preprocessing == ({"step": "mine"},)
    assert (taken.sha256, taken.note) == (dataset.sha256, "a note")  # they name the source


def test_subset(dataset):
    subset = dataset.subset(3, seed=1)
    texts = [dataset.text(i) for i in range(4)]
    places = [texts.index(subset.text(i)) for i in range(3)]
    assert places == sorted(set(places))
    assert subset.preprocessing == ({"step": "subset", "n": 3, "seed": 1},)
    assert [dataset.subset(1, s).text(0) for s in range(9)] != [dataset.subset(1, 0).text(0)] * 9


@pytest.mark.parametrize("n", [0, 5])
def test_subset_out_of_range(dataset, n):
    with pytest.raises(ValueError, match=f"n={n} must be between 1 and n_samples=4"):
        dataset.subset(n, seed=0)


def test_divided_into_disjoint_parts():
    whole = dataset_of([" ".join("abcd"[(i // 4**k) % 4] for k in range(4)) for i in range(200)])
    parts = whole.divided(0.7, 0.2, seed=3)
    assert [part.n_samples for part in parts] == [140, 40, 20]
    texts = [part.text(i) for part in parts for i in range(part.n_samples)]
    assert sorted(texts) == sorted(whole.text(i) for i in range(200))
    assert len(set(texts)) == 200  # all different, so no sentence is in two parts
    assert parts[1].preprocessing == (
        {"step": "divided", "shares": [0.7, 0.2], "seed": 3, "part": 1},
    )
    assert whole.divided(0.7, 0.2, seed=4)[0].text(0) != parts[0].text(0) or (
        whole.divided(0.7, 0.2, seed=4)[0].tokens.tolist() != parts[0].tokens.tolist()
    )


@pytest.mark.parametrize("shares", [(), (0.5, 0.5), (1.5,), (-0.1,), (0.05,)], ids=str)
def test_impossible_division(dataset, shares):
    with pytest.raises(ValueError, match=r"shares=\(.*must be positive, add up to less than 1"):
        dataset.divided(*shares, seed=0)


def test_longest_drops_longer_sentences(dataset):
    short = dataset.longest(3)
    assert [short.text(i) for i in range(3)] == SENTENCES[:3]
    assert short.preprocessing == ({"step": "longest", "max_length": 3, "dropped": 1},)
    with pytest.raises(ValueError, match=r"max_length=0 leaves no sentence .* shortest has 1"):
        dataset.longest(0)


def test_reindexed_maps_what_is_missing_to_unknown(dataset):
    smaller = Vocabulary((*SPECIAL, "c", "a"))
    changed = dataset.reindexed(smaller)
    assert [changed.text(i) for i in range(4)] == [
        "<unk> a <unk>",
        "a c <unk>",
        "<unk>",
        "c a <unk> <unk> a",
    ]
    assert changed.offsets.tolist() == dataset.offsets.tolist()
    assert changed.unknown_share == 6 / 12
    assert changed.preprocessing[-1] == {
        "step": "vocabulary",
        "size": 5,
        "sha256": smaller.sha256,
    }


@pytest.mark.parametrize(
    ("tokens", "offsets", "message"),
    [
        ([0, 3, 1], [0, 2], r"offsets of dataset 'x' run from 0 to 2.*must run from 0 to 3"),
        ([0, 3, 1], [1, 3], r"offsets of dataset 'x' run from 1 to 3"),
        ([0, 3, 1, 1], [0, 3, 4], r"smallest step 1; .* steps of at least 2"),
        ([], [0], r"shapes \(0,\) and \(1,\)"),
        ([[0, 1]], [0, 2], r"shapes \(1, 2\) and \(2,\)"),
        ([0, 7, 1], [0, 3], r"tokens\[1\]=7 .* must be between 0 and 6"),
        ([0, -1, 1], [0, 3], r"tokens\[1\]=-1 .* must be between 0 and 6"),
        ([3, 3, 1], [0, 3], "must begin with START=0"),
        ([0, 3, 3], [0, 3], "end with END=1"),
        ([0, 1, 1], [0, 3], "hold neither inside"),
        ([0, 0, 1], [0, 3], "hold neither inside"),
    ],
    ids=str,
)
def test_no_list_of_sentences(tokens, offsets, message):
    with pytest.raises(ValueError, match=message):
        TextDataset("x", np.array(tokens, dtype=int), np.array(offsets), WORDS)


def test_labels_of_another_length():
    with pytest.raises(ValueError, match=r"labels of dataset 'mine' have shape \(2,\) and must"):
        dataset_of(["a"], labels=["0", "1"])
