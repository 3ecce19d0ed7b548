"""Text files: what is read, and what is said about files that are no text."""

import tracemalloc
import zipfile

import pytest

from linvae.data import CorruptFileError, MissingDataError, Vocabulary, read_text_file
from linvae.data.text_files import count_sentences


@pytest.fixture
def write(tmp_path):
    def write(content, name="mine.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(dataset):
    return [dataset.text(i) for i in range(dataset.n_samples)]


def test_one_sentence_per_line(write):
    path = write("b a b\n\n  a   c\t\n")
    dataset = read_text_file(path)
    assert texts(dataset) == ["b a b", "a c"]
    assert (dataset.name, dataset.split, dataset.files) == ("mine.txt", "all", ("mine.txt",))
    assert dataset.vocabulary.words[3:] == ("a", "b", "c")
    assert dataset.labels is None
    assert dataset.preprocessing[0] == {"step": "read", "labels": "none", "blank_lines": 1}
    assert count_sentences(path) == 2


def test_trailing_tab_is_a_label_nowhere(write):
    """A TAB makes a label column only where something follows it."""
    assert read_text_file(write("a b\t\nc\n")).labels is None


def test_label_tab_sentence(write):
    dataset = read_text_file(write("1\ta b\n0\tb\n1\t\n"))
    assert texts(dataset) == ["a b", "b"]
    assert dataset.labels.tolist() == ["1", "0"]
    assert dataset.preprocessing[0] == {"step": "read", "labels": "tab", "blank_lines": 1}


def test_first_word_is_the_label(write):
    dataset = read_text_file(write("5 a b\n1 b\n"), labels="first")
    assert (texts(dataset), dataset.labels.tolist()) == (["a b", "b"], ["5", "1"])


def test_tabs_as_blanks(write):
    assert texts(read_text_file(write("1\ta\nb\n"), labels="none")) == ["1 a", "b"]


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfa \xc3\xa9\r\nb\r\n", b"a \xc3\xa9\nb"],
    ids=["windows", "no newline at the end"],
)
def test_marks_and_line_ends(write, content):
    assert texts(read_text_file(write(content))) == ["a é", "b"]


def test_spellings_of_unknown_and_marks(write):
    dataset = read_text_file(write("<s> a _UNK </s>\n_UNK <unk> b a\n<s> </s>\n"))
    assert texts(dataset) == ["a <unk>", "<unk> <unk> b a"]
    assert dataset.vocabulary.words[3:] == ("a", "b")
    assert dataset.unknown_share == 3 / 6


def test_vocabulary_limits(write):
    path = write("a a a b b c\n")
    assert texts(read_text_file(path, max_words=1)) == ["a a a <unk> <unk> <unk>"]
    assert texts(read_text_file(path, min_count=2)) == ["a a a b b <unk>"]
    given = Vocabulary.from_counts({"c": 1, "z": 1})
    dataset = read_text_file(path, vocabulary=given)
    assert dataset.vocabulary is given
    assert texts(dataset) == ["<unk> <unk> <unk> <unk> <unk> c"]


def test_sentence_limits(write):
    path = write("a b c\na\nb c\nc c c\n")
    dataset = read_text_file(path, max_length=2)
    assert texts(dataset) == ["a", "b c"]
    assert dataset.preprocessing[1] == {"step": "longest", "max_length": 2, "dropped": 2}
    dataset = read_text_file(path, max_length=2, max_sentences=1)
    assert texts(dataset) == ["a"]
    assert dataset.vocabulary.words[3:] == ("a",)
    assert [step["step"] for step in dataset.preprocessing] == [
        "read",
        "longest",
        "first",
        "vocabulary",
    ]


def test_a_member_of_an_archive(write_zip, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a/b.txt": b"1\ta\n", "c.txt": b"z\n"})
    dataset = read_text_file(path, member="a/b.txt")
    assert (texts(dataset), dataset.labels.tolist()) == (["a"], ["1"])
    assert dataset.preprocessing[0]["member"] == "a/b.txt"


# --- errors -------------------------------------------------------------------------------------

UNUSABLE = {
    "empty": (b"", "it is empty", "Give a text file"),
    "blank": (b"\n  \n\t\n", "all of its 3 lines are blank", "Give a text file"),
    "binary": (b"a b\n\x89PNG\0\0", "line 2 holds a NUL byte", "Give a text file"),
    "utf-16": ("a b\n".encode("utf-16"), "line 1 holds a NUL byte", "iconv -f utf-16"),
    "latin-1": (
        b"caf\xc3\xa9\n\xc3\xa9 caf\xe9\n",
        "line 2 is no UTF-8: byte 12 of the file is 0xe9",
        "iconv -f latin1",
    ),
    "latin-1 with a mark": (
        b"\xef\xbb\xbfcaf\xe9\n",
        "line 1 is no UTF-8: byte 6 of the file is 0xe9",
        "iconv -f latin1",
    ),
    "long line": (
        b"a\n" + b"abc " * 300_000,
        "line 2 is longer than 1048576 bytes",
        "Put one sentence on a line",
    ),
    "many words": (
        b"a\n" + b"a " * 10_001,
        "line 2 has 10001 words, and at most 10000 are read",
        "Put one sentence on a line",
    ),
    "label missing": (
        b"1\ta\n\nb c\n",
        "line 3 has no TAB",
        "Make every line `label TAB sentence`",
    ),
    "label too many": (b"b c\n1\ta\n", "line 2 has a TAB", "labels='none'"),
}


@pytest.mark.parametrize("case", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_file(write, case):
    content, message, remedy = case
    path = write(content)
    with pytest.raises(CorruptFileError) as caught:
        read_text_file(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert remedy in said
    assert "sha256" in said


def test_word_limit_itself_is_read(write):
    assert read_text_file(write(b"a " * 10_000)).n_words == 10_001


def test_labels_asked_for_and_missing(write):
    with pytest.raises(CorruptFileError, match="line 1 has no TAB"):
        read_text_file(write("a b\n"), labels="tab")


def test_endless_line_is_refused_in_bounded_memory(tmp_path):
    """64 MiB without a newline: refused after 1 MiB, holding a few copies of that at most."""
    path = tmp_path / "endless.txt"
    with path.open("wb") as stream:
        for _ in range(64):
            stream.write(b"a" * (1 << 20))
    tracemalloc.start()
    with pytest.raises(CorruptFileError, match="line 1 is longer"):
        read_text_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_memory_is_that_of_the_tokens(write):
    """400,000 words: 4 bytes each while reading; a list of words would be at least 8, and more."""
    path = write("a b c d e f g h i j\n" * 40_000)
    read_text_file(path)
    tracemalloc.start()
    dataset = read_text_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # arrays of tokens, old and new, and masks while they are checked, 4 bytes a token each or less
    assert peak < 24 * len(dataset.tokens)


def test_damaged_member(write_zip, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"train.txt": b"a b c\n" * 50})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF  # inside the stored text: its checksum no longer fits
    path.write_bytes(content)
    assert zipfile.is_zipfile(path)
    with pytest.raises(CorruptFileError, match=r"x.zip: member train.txt cannot be read"):
        read_text_file(path, member="train.txt")


def test_errors_in_an_archive_name_the_member(write_zip, tmp_path):
    path = write_zip(tmp_path / "x.zip", {"train.txt": b"a\nb\0\n"})
    with pytest.raises(CorruptFileError, match=r"member train.txt, line 2 holds a NUL byte"):
        read_text_file(path, member="train.txt")


def test_no_such_file(tmp_path):
    with pytest.raises(MissingDataError, match=r"none.txt: no such file; give the path"):
        read_text_file(tmp_path / "none.txt")
    with pytest.raises(MissingDataError, match="no such file"):
        read_text_file(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "second"}, "labels='second' must be one of auto, none, tab, first"),
        ({"max_sentences": 0}, "max_sentences=0 must be at least 1"),
        ({"max_length": 0}, "max_length=0 must be at least 1"),
        ({"max_length": 2}, "max_length=2 drops all 1 sentences of .*mine.txt"),
        ({"min_count": 3}, "no word of 6 occurs min_count=3"),
    ],
    ids=str,
)
def test_impossible_options(write, options, message):
    with pytest.raises(ValueError, match=message):
        read_text_file(write("a b c\n"), **options)
