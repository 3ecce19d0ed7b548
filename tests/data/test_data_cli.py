"""`python -m linvae.data`: output and exit codes."""

import subprocess
import sys

import numpy as np
import pytest

from linvae.data.__main__ import main


def run(capsys, *arguments):
    """Return the exit code, stdout and stderr of one command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_without_any_files(root, capsys):
    code, out, _ = run(capsys, "list", "--data-dir", root)
    assert code == 0
    assert "all 1797" in out
    assert out.count("missing") == 10  # 5 sets of images, 5 of sentences
    assert "python -m linvae.data download mnist" in out
    assert "no redistribution" in " ".join(out.split())


def test_list_counts_what_is_there(root, write_pair, capsys):
    write_pair(root / "mnist", "train", n=7)
    write_pair(root / "mnist", "sample", n=5)
    _, out, _ = run(capsys, "list", "--data-dir", root)
    assert "train 7" in out
    assert "sample 5" in out
    assert out.count("missing") == 9


def test_list_survives_a_corrupt_file(root, write_pair, capsys):
    write_pair(root / "mnist", "train")
    (root / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    (root / "omniglot").mkdir()
    (root / "omniglot" / "images_background.zip").write_bytes(b"<html>")
    code, out, _ = run(capsys, "list", "--data-dir", root)
    assert code == 0
    assert out.count("corrupt:") == 2  # a cell may break between this and the name
    assert "train-images-idx3-ubyte.gz" in out
    assert "images_background.zip" in out


def test_verify_without_any_files(root, capsys):
    code, _, err = run(capsys, "verify", "mnist", "--data-dir", root)
    assert code == 3
    assert "Folders tried" in err
    assert run(capsys, "verify", "--data-dir", root)[0] == 3


def test_verify_unpublished_files(root, write_pair, capsys):
    write_pair(root / "mnist", "sample")
    code, out, _ = run(capsys, "verify", "mnist", "--data-dir", root)
    assert code == 0
    assert "decoded, shape (6, 4, 4); nothing published, sha256 " in out
    assert "2 checked, 0 failed" in out


def test_verify_another_file_under_a_published_name(root, write_pair, capsys):
    write_pair(root / "mnist", "train")
    code, out, _ = run(capsys, "verify", "--data-dir", root)
    assert code == 2
    assert "DIFFERS: sha256" in out
    assert "published 440fcabf" in out
    assert "2 checked, 2 failed" in out


def test_verify_corrupt_files(root, write_pair, write_zip, encode, capsys):
    write_pair(root / "mnist", "sample")
    images = root / "mnist" / "sample-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:-9])
    good = encode(np.zeros((4, 4), dtype=np.uint8))
    write_zip(root / "omniglot" / "images_x.zip", {"top/a.png": good, "top/b.png": good[:-30]})
    (root / "ffhq").mkdir()
    (root / "ffhq" / "00000.png").write_bytes(good)
    (root / "ffhq" / "00001.png").write_bytes(b"")
    code, out, _ = run(capsys, "verify", "--data-dir", root)
    assert code == 2
    assert "member top/b.png is not a complete image" in out
    assert "00001.png: it is not a complete image" in out
    assert "4 checked, 3 failed" in out


@pytest.mark.parametrize("command", ["verify", "download"])
@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_built_in_sets_need_nothing(root, capsys, command, name):
    code, out, _ = run(capsys, command, name, "--data-dir", root)
    assert code == 0
    assert "needs no files" in out


def test_download_restricted(root, capsys):
    code, _, err = run(capsys, "download", "ffhq", "--data-dir", root)
    assert code == 3
    assert "CC BY-NC-SA 4.0" in err


def test_list_shows_text(root, capsys):
    (root / "text" / "yahoo" / "yahoo_data").mkdir(parents=True)
    (root / "text" / "yahoo" / "yahoo_data" / "yahoo.valid.txt").write_text("1\ta b\n\n0\tc\n")
    (root / "text" / "ptb").mkdir()
    (root / "text" / "ptb" / "ptb.zip").write_bytes(b"<html>")
    code, out, _ = run(capsys, "list", "--data-dir", root)
    assert code == 0
    assert "validation 2" in out
    assert "text/yahoo" in "".join(out.split())
    assert "train 4000" in out  # synthetic
    assert out.count("research use, unclear") == 5
    assert out.count("corrupt:") == 1
    assert out.count("missing") == 8


def test_verify_text(root, write_zip, capsys):
    (root / "text" / "yahoo").mkdir(parents=True)
    (root / "text" / "yahoo" / "val.txt").write_text("a b\n\nc\n")
    members = {"ptb/train.txt": b"a b\nc\n", "ptb/valid.txt": b"c\n", "ptb/test.txt": b"c\n"}
    write_zip(root / "text" / "ptb" / "ptb.zip", members)
    code, out, _ = run(capsys, "verify", "--data-dir", root)
    assert code == 0
    assert "val.txt: read, validation: 2 sentences, 5 words; nothing published, sha256 " in out
    assert "ptb.zip: read, train: 2 sentences" in out
    assert "4 checked, 0 failed" in out


def test_verify_damaged_text(root, capsys):
    (root / "text" / "yahoo").mkdir(parents=True)
    (root / "text" / "yahoo" / "val.txt").write_bytes(b"a b\nc\xe9\n")
    (root / "text" / "ptb").mkdir()
    (root / "text" / "ptb" / "ptb.zip").write_bytes(b"<html>")
    code, out, _ = run(capsys, "verify", "--data-dir", root)
    assert code == 2
    assert "val.txt: CORRUPT: " in out
    assert "line 2 is no UTF-8" in out
    assert "not a complete zip archive" in out
    assert "2 checked, 2 failed" in out


def test_text_without_files(root, capsys):
    code, _, err = run(capsys, "verify", "yahoo", "--data-dir", root)
    assert code == 3
    assert "Works now, without any file: synthetic." in err
    code, _, err = run(capsys, "download", "short_yelp", "--data-dir", root)
    assert code == 3
    assert "cannot be downloaded by a program" in err
    assert "in text/short_yelp/" in err


@pytest.mark.parametrize("command", ["verify", "download"])
def test_unknown_dataset(root, capsys, command):
    code, _, err = run(capsys, command, "minst", "--data-dir", root)
    assert code == 2
    assert "did you mean 'mnist'" in err


@pytest.mark.parametrize("arguments", [[], ["fetch"], ["download"], ["list", "--nothing"]], ids=str)
def test_usage(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_runs_as_a_module(root):
    command = [sys.executable, "-m", "linvae.data", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exit codes" in result.stdout


def test_real_samples_verify(real_data, root, capsys):
    code, out, _ = run(
        capsys, "verify", "mnist", "--data-dir", real_data("mnist/t10k-images-idx3-ubyte.gz")
    )
    assert code == 0
    assert "t10k-images-idx3-ubyte.gz: ok, decoded, shape (10000, 28, 28)" in out
