"""Every command: help, wrong flags and choices, bad files, --debug, --config, --json, completion.

Exit codes as in README: 0 ran, 2 usage or unusable input, 3 data missing, 70 a defect.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import figures.__main__
import linvae.__main__
import linvae.compare
import linvae.completion
import linvae.data.__main__
import linvae.diagnose
import linvae.explore
import linvae.measured
import linvae.predict
import linvae.text
import paper_checks.__main__
from linvae.cli import Parser, exit_codes, print_json, progress_bars
from linvae.data.own import open_own_data
from linvae.run_file import RUN_FILE, run_file_text
from linvae.version import __version__

MODULES = {
    "predict": linvae.predict,
    "explore": linvae.explore,
    "compare": linvae.compare,
    "diagnose": linvae.diagnose,
    "text": linvae.text,
    "data": linvae.data.__main__,
    "completion": linvae.completion,
    "figures": figures.__main__,
    "paper_checks": paper_checks.__main__,
}
SAMPLES = np.random.default_rng(0).normal(size=(60, 4)) * [3, 2, 1, 0.5]


def every_parser() -> dict[tuple[str, ...], Parser]:
    """(command, subcommand) -> parser, of all of them."""
    found: dict[tuple[str, ...], Parser] = {}
    for name, module in MODULES.items():
        parser = module.parser()
        children = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not children:
            found[name,] = parser
        for action in children:
            found |= {(name, child): p for child, p in action.choices.items()}
    return found


PARSERS = every_parser()
LEAVES = pytest.mark.parametrize("names", PARSERS, ids=" ".join)


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of a command in this process."""

    def command(name, *arguments):
        try:
            code = MODULES[name].main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return command


def refused(result, code, *words):
    """One line on stderr with the words, nothing on stdout, no traceback."""
    found, out, err = result
    assert found == code, err
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err, err
    return err


# --- help, version, wrong options -----------------------------------------------------------------


def test_no_command_is_left_out():
    assert linvae.__main__.COMMANDS.keys() <= MODULES.keys()


@LEAVES
def test_help_has_examples_and_exit_codes(names, run):
    code, out, err = run(*names, "--help")
    assert (code, err) == (0, "")
    if names[0] != "data":  # its examples stand above its subcommands
        assert "examples:" in out
    assert "exit codes: 0 ran, 2 usage" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("name", MODULES)
def test_help_and_version_of_every_command(name, run):
    code, out, _ = run(name, "--help")
    assert code == 0
    assert "examples:" in out
    assert run(name, "--version") == (0, f"linvae {__version__}\n", "")


@LEAVES
def test_every_option_says_what_it_is(names):
    """A value has a default, or is needed; a number has its unit, where it is no count."""
    for action in PARSERS[names]._actions:
        words = action.help or ""
        label = f"{names} {action.dest}: {words!r}"
        assert words, label
        if action.nargs != 0 and action.option_strings:
            assert "default" in words, label
        if action.type in (float, linvae.cli.positive_float):
            units = ("nats", "unit", "weight", "factor", "rate", "share", "default 1, with adam")
            assert any(unit in words.lower() for unit in units), label


@LEAVES
def test_a_wrong_flag_names_the_nearest(names, run):
    options = [o for o in PARSERS[names]._option_string_actions if o.startswith("--")]
    for option in options:
        err = refused(run(*names, f"{option}x"), 2, f"unknown option {option}x; did you mean --")
        assert err.count("\n") == 1
        assert f"(see {PARSERS[names].prog} --help)" in err


def test_abbreviations_are_refused_and_completed(run):
    refused(run("predict", "--lat", "3"), 2, "unknown option --lat; did you mean --latent-dim?")
    refused(run("predict", "--keep=3"), 2, "unknown option --keep; did you mean --keep-units?")
    refused(run("text", "samples", "x", "-k3"), 2, "unknown option -k3")


@LEAVES
def test_a_wrong_choice_names_the_nearest(names, run):
    for action in PARSERS[names]._actions:
        if not action.choices:
            continue
        near = list(action.choices)[-1]
        option = [action.option_strings[-1]] if action.option_strings else []
        err = refused(run(*names, *option, f"{near}x"), 2, f"{near + 'x'!r} must be one of ")
        assert f"did you mean {near!r}?" in err
        assert err.count("\n") == 1


def test_a_wrong_command_names_the_nearest(run, capsys):
    refused(run("text", "trian"), 2, "'trian' must be one of train, samples", "mean 'train'?")
    refused(run("data", "verfy"), 2, "did you mean 'verify'?")
    for wrong, near in (("predic", "'predict'"), ("--versio", "--version")):
        assert linvae.__main__.main([wrong]) == 2
        assert f"did you mean {near}?" in capsys.readouterr().err


def test_one_argument_too_many(run):
    refused(run("predict", "digits"), 2, "'digits' is one argument too many")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--dataset", "minst"],
        ["compare", "--dataset", "minst"],
        ["diagnose", "encoder.pt", "--dataset", "minst"],
        ["explore", "--dataset", "minst"],
        ["data", "verify", "minst"],
        ["data", "download", "minst"],
    ],
    ids=" ".join,
)
def test_a_dataset_with_a_slip_of_the_pen(arguments, run):
    refused(run(*arguments), 2, "did you mean 'mnist'?")


# --- files ----------------------------------------------------------------------------------------


def _npz(path, values):
    np.savez(path, target=values)


def _csv(path, values):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(np.atleast_2d(values).tolist())


WRITE = {"npy": np.save, "npz": _npz, "csv": _csv}
HOLED = SAMPLES.copy()
HOLED[3, 1] = np.nan
ARRAYS = {
    "no samples": SAMPLES[:0],
    "one sample": SAMPLES[:1],
    "wrong shape": SAMPLES[:, 0],
    "NaN": HOLED,
    "words": np.array([["a", "b"], ["c", "d"], ["e", "f"]]),
    "constant": np.ones((9, 3)),
    "huge": SAMPLES * 1e300,
}
WAYS_OUT = ("remove", "reshape", "convert", "write it again", "needs more data", "rescale", "give ")
WAYS_OUT += ("nothing to explain",)


def bad_file(folder: Path, suffix: str, kind: str) -> Path:
    """A file that cannot be used, and why."""
    path = folder / f"own.{suffix}"
    if kind in ARRAYS:
        WRITE[suffix](path, ARRAYS[kind])
    elif kind == "a folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>\n<p>no, data here</p>\n1\n")
    elif kind == "truncated":
        WRITE[suffix](path, SAMPLES)
        path.write_bytes(path.read_bytes()[:-100])
    return path


KINDS = (*ARRAYS, "missing", "a folder", "empty", "text", "truncated")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", WRITE)
def test_predict_refuses_a_file(suffix, kind, tmp_path, run):
    path = bad_file(tmp_path, suffix, kind)
    code = 3 if kind == "missing" else 2
    err = refused(run("predict", "--data", path), code, path.name)
    assert any(way in err for way in WAYS_OUT), err
    code_too, _, err = run("predict", "--data", path, "--debug")
    assert code_too == code
    assert "Traceback" in err


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file of TorchScript for `SAMPLES`."""

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.eye(2, 4) / 2)

        def forward(self, y):
            mean = y @ self.W.T
            return mean, 0 * mean - 1

    path = tmp_path_factory.mktemp("encoder") / "encoder.pt"
    torch.jit.trace(Encoder(), torch.zeros(1, 4)).save(path)
    return path


@pytest.mark.parametrize("option", ["--data", "--condition"])
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("constant", "huge")])
def test_diagnose_refuses_a_file(kind, option, encoder, tmp_path, run):
    np.save(tmp_path / "y.npy", SAMPLES)
    path = bad_file(tmp_path, "npy", kind)
    data = ["--data", tmp_path / "y.npy"] if option == "--condition" else []
    err = refused(run("diagnose", encoder, *data, option, path), 3 if kind == "missing" else 2)
    role = "target" if option == "--data" else "condition"
    assert path.name in err or role in err
    assert "internal" not in err
    assert "Traceback" in run("diagnose", encoder, *data, option, path, "--debug")[2]


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty", "text", "truncated"])
def test_diagnose_refuses_an_encoder(kind, tmp_path, encoder, run):
    np.save(tmp_path / "y.npy", SAMPLES)
    path = tmp_path / "own.pt"
    if kind == "truncated":
        path.write_bytes(encoder.read_bytes()[:-500])
    elif kind != "missing":
        bad_file(tmp_path, "pt", kind)
    refused(run("diagnose", path, "--data", tmp_path / "y.npy"), 2, "own.pt")
    assert "Traceback" in run("diagnose", path, "--data", tmp_path / "y.npy", "--debug")[2]


TEXTS = {
    "missing": (None, 3, "give the path of a text file"),
    "empty": (b"", 2, "it is empty"),
    "blank": (b"\n\n\n", 2, "all of its 3 lines are blank"),
    "one sentence": (b"a b\n", 2, "at least 10 are needed"),
    "no text": (b"\xff\xfea\x00" * 9, 2, "this is no UTF-8 text"),
    "truncated": (b"a b\n" * 20 + b"caf\xc3", 2, "UTF-8"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_text_refuses_a_file(kind, tmp_path, run):
    content, code, words = TEXTS[kind]
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    arguments = ["text", "train", "--path", path, "--out", tmp_path / "out"]
    refused(run(*arguments), code, "own.txt", words)
    assert "Traceback" in run(*arguments, "--debug")[2]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "a folder"])
@pytest.mark.parametrize(
    "arguments", [["samples"], ["reconstruct", "a"], ["interpolate", "a", "b"]], ids=str
)
def test_text_refuses_a_model(kind, arguments, tmp_path, run):
    path = bad_file(tmp_path, "model", kind)
    command, *sentences = arguments
    words = "give the --out folder of `linvae text train`"
    refused(run("text", command, path, *sentences), 2, "own.model", words)


@pytest.mark.parametrize("name", ["predict", "compare", "diagnose", "text"])
@pytest.mark.parametrize("kind", ["missing", "a folder", "text"])
def test_every_config_that_cannot_be_read(name, kind, tmp_path, run):
    path = bad_file(tmp_path, "toml", kind)
    child = ["train"] if name == "text" else []
    words = "does not exist" if kind == "missing" else "is no readable TOML file"
    refused(run(name, *child, "--config", path), 2, f"--config {path} {words}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path, run):
    path = bad_file(tmp_path, "npy", "constant")
    path.chmod(0)
    refused(run("predict", "--data", path), 2, "own.npy", "ermission")


@pytest.mark.parametrize("name", ["predict", "compare", "diagnose", "text", "figures"])
def test_a_result_folder_that_is_a_file(name, tmp_path, encoder, run):
    (tmp_path / "taken").write_text("")
    first = {"text": ["train"], "figures": ["--only", "thresholds"]}
    first["diagnose"] = [encoder, "--dataset", "digits"]
    err = refused(run(name, *first.get(name, ()), "--out", tmp_path / "taken"), 2, "taken")
    assert "is not a folder; choose another result folder" in err
    assert (tmp_path / "taken").read_text() == ""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which none can be made")
@pytest.mark.parametrize("folder", ["/proc/nope", "long" * 100])
@pytest.mark.parametrize("name", ["predict", "compare"])
def test_a_result_folder_that_cannot_be_made(name, folder, run):
    err = refused(run(name, "--out", folder), 2, folder)
    assert "is no folder that can be made or written" in err and "Errno" not in err


def test_missing_data_sets_are_told(tmp_path, monkeypatch, run):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    monkeypatch.setenv("LINVAE_DATA", str(tmp_path))
    for arguments in (["predict"], ["compare", "--out", tmp_path / "o"], DEFECTS["diagnose"][0]):
        refused(run(*arguments, "--dataset", "mnist"), 3, "Works now, without any file: digits")
    refused(run("text", "train", "--dataset", "yahoo", "--out", tmp_path / "o"), 3, "synthetic")
    refused(run("data", "verify", "mnist", "--data-dir", tmp_path), 3, "Folders tried")


# --- defects --------------------------------------------------------------------------------------

DEFECTS = {
    "predict": (["predict"], "linvae.predict.open_source"),
    "compare": (["compare"], "linvae.compare.load_named"),
    "diagnose": (["diagnose", "e.pt", "--dataset", "digits"], "linvae.diagnose._arrays"),
    "explore": (["explore"], "linvae.explore._require_bokeh"),
    "text": (["text", "samples", "x"], "linvae.text._say"),
    "data": (["data", "list"], "linvae.data.__main__._list"),
    "completion": (["completion", "bash"], "linvae.completion.every_command"),
    "figures": (["figures", "--only", "skewness"], "figures.__main__.write_figure"),
    "paper_checks": (["paper_checks"], "paper_checks.__main__._show"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_defect_is_one_line_and_70(name, run, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise KeyError("lost")

    arguments, place = DEFECTS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, broken)
    line = "internal error (KeyError: 'lost'); run again with --debug and report it"
    err = refused(run(*arguments), 70, line)
    assert err.count("\n") == 1
    code, _, err = run(*arguments, "--debug")
    assert code == 70
    assert "Traceback" in err
    assert line in err


def test_a_command_that_cannot_be_imported_is_a_defect(monkeypatch, capsys):
    monkeypatch.setitem(linvae.__main__.COMMANDS, "predict", ("linvae.gone", ""))
    assert linvae.__main__.main(["predict"]) == 70
    err = capsys.readouterr().err
    assert "internal error (ModuleNotFoundError: No module named 'linvae.gone')" in err
    assert "Traceback" not in err


def test_errors_without_words_have_some(capsys):
    for error, words in ((MemoryError(), "out of memory"), (KeyboardInterrupt(), "interrupted")):
        with exit_codes() as status:
            raise error
        assert words in capsys.readouterr().err
        assert status.code in (2, 130)


def test_a_reader_that_has_enough_is_no_error():
    command = (
        f"{shlex.quote(sys.executable)} -m linvae data list --json | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "141\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["linvae", "predict", "--betaa", "4"], 2, "unknown option --betaa; did you mean --beta?"),
        (["linvae.predict", "--data", "no.npy"], 3, "no.npy"),
        (["figures", "--onyl", "x"], 2, "unknown option --onyl; did you mean --only?"),
        (["paper_checks", "--only", "lucas"], 2, "did you mean 'lucas2019'?"),
    ],
    ids=str,
)
def test_as_a_process(arguments, code, words):
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- --config -------------------------------------------------------------------------------------

RUNS = {
    "nothing given": ["predict"],
    "repeated numbers": ["predict", "--beta", "0.1", "--beta", "1e-7", "--decoder-variance", "2"],
    "paths": ["predict", "--data", "a b/é\"'.npy", "--scale", "0.00392156862745098"],
    "negative": ["compare", "--lr-encoder-share", "-1.5"],
    "flags": ["compare", "--skip", "--quick", "--check-convergence"],
    "yes": ["compare", "--bracket", "--download"],
    "no": ["compare", "--no-bracket", "--no-download"],
    "tuple": ["compare", "--channels", "8,16", "--architecture", "conv", "--architecture", "mlp"],
    "choices": [
        "compare",
        "--remedy",
        "annealing",
        "--remedy",
        "free-bits",
        "--lr-detach",
        "input",
    ],
    "text": ["text", "train", "--path", "x.txt", "--seed", "7", "--floor", "0.5"],
    "positional": ["diagnose", "--decoder", "d.pt", "e.pt", "--beta", "4"],
    "hyphen": ["diagnose", "--beta", "2", "--", "-e.pt"],
    "joined": ["predict", "--beta=3", "--dataset=digits"],
}


def parsed(name, *arguments):
    if name == "text":  # its subcommand has the options
        return vars(linvae.text.parser().parse_args([*map(str, arguments)]))
    return vars(MODULES[name].parser().parse_args([*map(str, arguments)]))


def written(folder: Path, name: str, *arguments: str) -> Path:
    args = argparse.Namespace(**parsed(name, *arguments))
    path = folder / RUN_FILE
    path.write_text(run_file_text(name, {key: getattr(args, key) for key in args.given}))
    return path


@pytest.mark.parametrize("case", RUNS)
def test_run_toml_gives_every_option_again(case, tmp_path):
    name, *arguments = RUNS[case]
    child = arguments[:1] if name == "text" else []
    path = written(tmp_path, name, *arguments)
    again = parsed(name, *child, "--config", path)
    before = parsed(name, *arguments)
    assert set(again.pop("given")) - {"config_file"} == set(before.pop("given"))
    assert again.pop("config_file") == path
    before.pop("config_file")
    assert again == before


def test_the_command_line_wins(tmp_path):
    path = written(tmp_path, "compare", "--quick", "--remedy", "annealing", "--seeds", "2",
                   "--bracket")  # fmt: skip
    found = parsed("compare", "--config", path, "--remedy", "cyclical", "--full", "--no-bracket")
    assert (found["quick"], found["full"]) == (False, True)  # they exclude each other
    assert found["remedy"] == ["cyclical"]
    assert found["seeds"] == 2
    assert found["bracket"] is False
    path = written(tmp_path, "diagnose", "mine.pt", "--beta", "4")
    assert parsed("diagnose", "--config", path)["encoder"] == Path("mine.pt")
    found = parsed("diagnose", "--beta", "5", "--config", path, "other.pt")
    assert (found["encoder"], found["beta"]) == (Path("other.pt"), 5.0)


def test_how_a_run_is_shown_is_no_part_of_it(tmp_path):
    text = written(tmp_path, "predict", "--json", "--quiet", "--debug", "--beta", "2").read_text()
    assert text.splitlines() == [
        f"# linvae {__version__}; run it again with: predict --config run.toml",
        "beta = [",
        "    2.0,",
        "]",
    ]


WRONG = {
    "unknown": ("betaa = 4", "unknown key 'betaa'; did you mean 'beta'?"),
    "of another command": ("architecture = 'mlp'", "unknown key 'architecture'"),
    "shown": ("json = true", "unknown key 'json'"),
    "section": ("[predict]\nbeta = 4", "unknown key 'predict'"),
    "text for a number": ("beta = '4'", "beta = '4': must be a number"),
    "text in a list": ("beta = [1, 'x']", "beta = [1, 'x']: 'x' must be a finite number > 0"),
    "list for one": ("latent-dim = [1, 2]", "latent-dim = [1, 2]: '1,2' must be an integer >= 1"),
    "fraction": ("latent_dim = 1.5", "latent_dim = 1.5: '1.5' must be an integer >= 1"),
    "number for text": ("dataset = 5", "dataset = 5: must be text"),
    "flag for a number": ("beta = true", "beta = True: 'True' must be a finite number > 0"),
    "number for a flag": ("download = 1", "download = 1: must be true or false"),
    "infinity": ("beta = inf", "beta = inf: 'inf' must be a finite number > 0"),
    "date": ("data = 2020-01-01", "must be text"),
    "choice": ("model = 'va'", "model: 'va' must be one of vae, cvae, hvae; did you mean 'vae'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_or_value_is_named_with_its_file(case, tmp_path, run):
    content, words = WRONG[case]
    (tmp_path / "mine.toml").write_text(content)
    err = refused(run("predict", "--config", tmp_path / "mine.toml"), 2, "mine.toml: ", words)
    assert err.count("\n") == 1


def test_predict_runs_again_from_its_folder(tmp_path, run):
    np.save(tmp_path / "y.npy", SAMPLES)
    first, second = tmp_path / "first", tmp_path / "second"
    options = ["--data", tmp_path / "y.npy", "--beta", "0.3", "--beta", "0.7", "--rate", "2"]
    assert run("predict", *options, "--latent-dim", "3", "--out", first, "--quiet")[0] == 0
    code, out, err = run("predict", "--config", first / RUN_FILE, "--out", second, "--json")
    assert (code, err) == (0, "")
    one, two = (json.loads((f / "prediction.json").read_text()) for f in (first, second))
    assert one == two == json.loads(out)
    assert [point["beta"] for point in one["predictions"]] == [0.3, 0.7]
    assert {path.name for path in first.iterdir()} == {"prediction.json", RUN_FILE}


def test_diagnose_runs_again_from_its_folder(tmp_path, encoder, run):
    np.save(tmp_path / "y.npy", SAMPLES)
    options = [encoder, "--data", tmp_path / "y.npy", "--beta", "0.5", "--out", tmp_path / "d"]
    code, before, _ = run("diagnose", *options, "--json")
    assert code == 0
    code, after, _ = run("diagnose", "--config", tmp_path / "d" / RUN_FILE, "--json")
    assert (code, json.loads(after)) == (0, json.loads(before))


def test_diagnose_writes_all_or_nothing(tmp_path, encoder, run, monkeypatch):
    """What stops it on the way leaves the files of the last run, and no others."""
    np.save(tmp_path / "y.npy", SAMPLES)
    options = [encoder, "--data", tmp_path / "y.npy", "--out", tmp_path / "d", "--quiet"]
    assert run("diagnose", *options)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    assert before.keys() == {
        "diagnosis.json", "diagnosis.png", "diagnosis.pdf", "report.html", RUN_FILE
    }  # fmt: skip

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("linvae.diagnosis.page.write_page", full)
    refused(run("diagnose", *options, "--beta", "0.1"), 2, "No space left on device")
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before


def test_text_trains_again_from_its_folder(tmp_path, run):
    (tmp_path / "own.txt").write_text("red red\nblue blue\n" * 20)
    sizes = ["--latent-dim", "1", "--embedding", "3", "--hidden", "4", "--epochs", "1"]
    options = ["--path", tmp_path / "own.txt", "--out", tmp_path / "a", *sizes, "--seed", "3"]
    code, before, err = run("text", "train", *options, "--json")
    assert (code, err) == (0, "")
    again = ["--config", tmp_path / "a" / RUN_FILE, "--out", tmp_path / "b"]
    code, after, _ = run("text", "train", *again, "--json")
    one, two = json.loads(before), json.loads(after)
    assert one.pop("model") != two.pop("model")
    assert (code, one) == (0, two)
    assert one["units"] == 1
    said = run("text", "samples", tmp_path / "a", "-n", "3", "--json")
    rows = json.loads(said[1])
    assert [row["name"] for row in rows] == ["1", "2", "3"]
    quiet = run("text", "samples", tmp_path / "a", "-n", "3", "--quiet")[1]
    assert quiet.splitlines() == [row["sentence"] for row in rows]


def test_compare_runs_again_from_its_folder(tmp_path, run, short_runs, no_drawing):
    options = ["--architecture", "linear", "--latent-dim", "2", "--seeds", "1", "--no-bracket"]
    options += ["--max-samples", "200", "--quick", "--device", "cpu"]
    assert run("compare", *options, "--out", tmp_path / "a", "--quiet")[0] == 0
    code, out, err = run("compare", "--config", tmp_path / "a" / RUN_FILE, "--json",
                         "--out", tmp_path / "b")  # fmt: skip
    assert (code, err) == (0, "")
    one, two = (json.loads((tmp_path / f / "summary.json").read_text()) for f in "ab")
    assert one["thresholds"] == two["thresholds"] == json.loads(out)["thresholds"]
    rows = [(tmp_path / f / "comparison.csv").read_text() for f in "ab"]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") > 10


# --- what is printed ------------------------------------------------------------------------------


def strict(text: str):
    """JSON without NaN and Infinity, which Python would take."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--model", "hvae"],
        ["data", "list"],
        ["data", "verify", "digits"],
        ["paper_checks", "--only", "tipping1999"],
        ["figures", "--only", "skewness", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_json_alone_on_stdout(arguments, run, tmp_path):
    arguments = [str(tmp_path) if a == "OUT" else a for a in arguments]
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    found = strict(out)
    if arguments[0] == "figures":
        assert {Path(path).name for path in found} == {p.name for p in tmp_path.iterdir()}
        assert all(Path(path).exists() for path in found)
    if arguments[:2] == ["data", "list"]:
        digits = next(row for row in found if row["dataset"] == "digits")
        assert digits["samples"] == {"all": 1797}


def test_json_has_no_nan(capsys):
    print_json({"a": float("nan"), "b": (float("inf"), 1.5)})
    assert strict(capsys.readouterr().out) == {"a": None, "b": ["inf", 1.5]}


def test_quiet_commands(run, tmp_path):
    assert run("figures", "--only", "skewness", "--out", tmp_path, "--quiet") == (0, "", "")
    out = run("paper_checks", "--only", "tipping1999", "--quiet")[1]
    assert len(out.splitlines()) == 1
    assert "claims in" in out
    out = run("data", "list", "--quiet")[1]
    assert {"digits", "gaussian", "synthetic"} <= set(out.split())
    assert run("data", "verify", "digits", "--quiet") == (0, "", "")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal_only(monkeypatch, tmp_path):
    with progress_bars(silent=False) as progress:
        assert progress is None  # captured: no terminal
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars(silent=True) as progress:
        assert progress is None
    with progress_bars(silent=False) as progress:
        progress("reading samples", 3, 6)
    assert "reading samples" in sys.stderr.getvalue()
    assert "50%" in sys.stderr.getvalue()


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_every_sample_that_is_read_is_told(condition_dim, tmp_path, monkeypatch):
    monkeypatch.setattr("linvae.data.own.BATCH_BYTES", 8 * 4 * 25)
    np.save(tmp_path / "y.npy", SAMPLES)
    data = open_own_data(tmp_path / "y.npy", condition_dim=condition_dim)
    told = []
    assert len(list(linvae.measured._told(data, lambda *call: told.append(call)))) == 3
    assert told == [("reading samples", n, 60) for n in (25, 50, 60)]


# --- completion -----------------------------------------------------------------------------------

ASK = """
source {script}
COMP_WORDS=({words}); COMP_CWORD={last}
function=$(complete -p linvae | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
$function linvae "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """words -> what bash offers for the last of them."""
    import contextlib

    path = tmp_path_factory.mktemp("shell") / "linvae.bash"
    with path.open("w") as stream, contextlib.redirect_stdout(stream):
        assert linvae.completion.main(["bash"]) == 0

    def ask(*words):
        quoted = " ".join(map(shlex.quote, words))
        script = ASK.format(script=path, words=quoted, last=len(words) - 1)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    return ask


def test_bash_completes_commands_options_and_choices(bash, tmp_path):
    assert bash("linvae", "") == set(linvae.__main__.COMMANDS)
    assert bash("linvae", "pre") == {"predict"}
    assert bash("linvae", "text", "") == {"train", "samples", "reconstruct", "interpolate"}
    assert bash("linvae", "predict", "--keep") == {"--keep-units"}
    assert bash("linvae", "predict", "--model", "") == {"vae", "cvae", "hvae"}
    assert bash("linvae", "text", "train", "--remedy", "cyc") == {"cyclical"}
    assert bash("linvae", "compare", "--no-b") == {"--no-bracket"}
    (tmp_path / "mine.npy").touch()
    found = bash("linvae", "predict", "--data", str(tmp_path / "mi"))
    assert found == {str(tmp_path / "mine.npy")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_scripts_name_every_command(shell, run):
    code, out, err = run("completion", shell)
    assert (code, err) == (0, "")
    assert all(command in out for command in linvae.__main__.COMMANDS)
