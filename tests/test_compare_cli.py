"""The command lines: one tiny real run, errors in words, exit codes, nothing half-written."""

from __future__ import annotations

import csv
import doctest
import json
import subprocess
import sys

import numpy as np
import pooch
import pytest

import linvae
import linvae.__main__
import linvae.cli
import linvae.compare
import linvae.data
import linvae.text
from linvae.models import PRESETS
from linvae.moments import Moments
from linvae.pipeline import make_plan
from linvae.result_folder import all_or_nothing
from linvae.spec import VAESpec
from linvae.theory import solve

TINY = ["--dataset", "digits", "--architecture", "linear", "--quick", "--seeds", "1"]
TINY += ["--latent-dim", "2", "--device", "cpu"]


@pytest.fixture
def no_data(tmp_path, monkeypatch):
    """An empty data root; no other place is searched."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LINVAE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_tiny_run(tmp_path, capsys):
    """The documented run: `--quick` on digits, the linear network within the claim of 2 %."""
    folder = tmp_path / "out"
    assert linvae.compare.main([*TINY, "--out", str(folder)]) == 0
    out = capsys.readouterr().out
    written = files(folder)
    assert {"comparison.csv", "summary.json", "report.html"} <= written
    pngs = {name[:-4] for name in written if name.endswith(".png")}
    assert pngs
    assert {name[:-4] for name in written if name.endswith(".pdf")} == pngs
    assert all((folder / name).stat().st_size > 0 for name in written)
    assert not [name for name in written if name.startswith(".")]  # no temporary file left

    target = linvae.data.load_dataset("digits").target
    predicted = solve(VAESpec(2), Moments.from_data(target)).critical_beta[0]
    (threshold,) = json.loads((folder / "summary.json").read_text())["thresholds"]
    assert threshold["predicted"] == pytest.approx(predicted, rel=1e-6)
    assert threshold["observed"] == pytest.approx(predicted, rel=0.02)
    assert f"{predicted:.4g}" in out
    assert "predicted" in out
    assert f"{folder}/report.html" in out.replace("\n", "")
    assert f"{predicted:.4g}" in (folder / "report.html").read_text()
    with (folder / "comparison.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["architecture"] for row in rows} == {"theory", "linear"}
    assert {row["dataset"] for row in rows} == {"digits"}


@pytest.mark.parametrize("model", ["cvae", "hvae"])
def test_json_is_one_document(tmp_path, capsys, short_runs, model):
    folder = tmp_path / "out"
    arguments = [*TINY, "--model", model, "--max-samples", "200", "--out", str(folder), "--json"]
    assert linvae.compare.main(arguments) == 0
    captured = capsys.readouterr()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    summary = json.loads(captured.out, parse_constant=refuse)
    assert summary["settings"]["model"] == model
    assert summary["settings"]["n_samples"] == 200
    assert summary["settings"]["command"].startswith("python -m linvae.compare --dataset digits")
    assert len(summary["thresholds"]) == (2 if model == "hvae" else 1)
    assert captured.err == ""
    stored = json.loads((folder / "summary.json").read_text(), parse_constant=refuse)
    assert stored["thresholds"] == summary["thresholds"]


def test_gaussian_has_a_conditional_form():
    arguments = linvae.compare.parser().parse_args(["--dataset", "gaussian", "--model", "cvae"])
    assert linvae.cli.load_named(arguments).condition_dim == 32


def test_quiet_run_into_the_default_folder(tmp_path, monkeypatch, capsys, short_runs):
    monkeypatch.chdir(tmp_path)
    assert linvae.compare.main([*TINY, "--max-samples", "100", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert "comparison.csv" in files(tmp_path / "results" / "digits-vae")


def test_unknown_dataset(tmp_path, capsys):
    folder = tmp_path / "out"
    assert linvae.compare.main(["--dataset", "digts", "--out", str(folder)]) == 2
    assert "did you mean 'digits'?" in capsys.readouterr().err
    assert not folder.exists()


def test_missing_data(no_data, tmp_path, capsys):
    folder = tmp_path / "out"
    assert linvae.compare.main(["--dataset", "mnist", "--out", str(folder)]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Needed for 'train': train-images" in captured.err
    assert str(no_data / "mnist") in captured.err
    assert str(tmp_path / "cache" / "linvae") in captured.err
    assert not folder.exists()


BAD = {
    "latent_dim": (["--latent-dim", "0"], "'0' must be an integer >= 1"),
    "latent_dim text": (["--latent-dim", "2.5"], "'2.5' must be an integer >= 1"),
    "decoder_variance": (["--decoder-variance", "-1"], "'-1' must be a finite number > 0"),
    "decoder_variance nan": (["--decoder-variance", "nan"], "'nan' must be a finite number > 0"),
    "decoder_variance inf": (["--decoder-variance", "inf"], "'inf' must be a finite number > 0"),
    "seeds": (["--seeds", "0"], "'0' must be an integer >= 1"),
    "architecture": (["--architecture", "transformer"], "'transformer' must be one of linear, mlp"),
    "model": (["--model", "gan"], "'gan' must be one of vae, cvae, hvae"),
    "quick and full": (["--quick", "--full"], "not allowed with"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_option(name, tmp_path, capsys):
    options, message = BAD[name]
    folder = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main([*options, "--out", str(folder)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.parametrize(
    "error", [ValueError("unusable"), OSError("disk full"), KeyboardInterrupt()], ids=repr
)
def test_nothing_is_written_after_an_error(error, tmp_path, monkeypatch, capsys):
    import linvae.pipeline as pipeline

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run_comparison", fail)
    folder = tmp_path / "out"
    code = linvae.compare.main([*TINY, "--out", str(folder)])
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert capsys.readouterr().err.startswith("linvae: ")
    assert not folder.exists()


def test_error_in_training_is_no_success(tmp_path, monkeypatch, short_runs, capsys):
    """A run that diverges ends in words and a code, and leaves no folder."""
    import linvae.train.cells as cells
    from linvae.train import Diverged, DivergedError, TrainResult

    def diverge(*_: object, **__: object) -> None:
        raise DivergedError(TrainResult([], 0.0, 100, tuple(Diverged(0, p, 100) for p in range(7))))

    monkeypatch.setattr(cells, "train", diverge)
    folder = tmp_path / "out"
    assert linvae.compare.main([*TINY, "--max-samples", "100", "--out", str(folder)]) != 0
    assert "training diverged: the objective of all" in capsys.readouterr().err
    assert not files(folder) - {linvae.compare.UNFINISHED}  # the lost members, to be told again


def test_choices_are_those_of_the_networks():
    """Written out in compare, so that --help does not wait for torch."""
    from linvae.models import ARCHITECTURES
    from linvae.models.activations import ACTIVATIONS
    from linvae.pipeline import NETWORK_REMEDIES
    from linvae.train import REMEDIES, WARMUPS

    assert tuple(ARCHITECTURES) == linvae.compare.ARCHITECTURES
    assert ("none", *linvae.compare.TRAINING_REMEDIES) == REMEDIES
    assert tuple(NETWORK_REMEDIES) == linvae.compare.NETWORK_REMEDIES
    assert tuple(ACTIVATIONS) == linvae.compare.ACTIVATIONS
    assert linvae.cli.WARMUPS == WARMUPS


def test_stopped_run_goes_on(tmp_path, monkeypatch, short_runs, no_drawing, capsys):
    """Stopped in the sweep: the members of the threshold are not trained again."""
    import linvae.jobs as jobs
    import linvae.train.cells as cells

    arguments = [*TINY, "--max-samples", "100", "--no-bracket"]
    assert linvae.compare.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    trained = []
    original = cells.train

    def counted(model, *others):
        trained.append(model.n_points)
        return original(model, *others)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cells, "train", counted)
    folder = tmp_path / "out"
    with monkeypatch.context() as broken:
        broken.setattr(jobs, "observe", stop)
        assert linvae.compare.main([*arguments, "--out", str(folder)]) == 130
    assert "given again, training goes on from what is stored" in capsys.readouterr().err
    # set-points and the collapsed one; set-points again, for longer; betas of the sweep
    assert trained == [7, 6, 9]
    assert linvae.compare.main([*arguments, "--out", str(folder)]) == 0
    assert trained == [7, 6, 9]
    table = "comparison.csv"
    assert (folder / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert linvae.compare.UNFINISHED not in files(folder)


def test_store_is_kept(tmp_path, monkeypatch, short_runs, no_drawing):
    import linvae.train.cells as cells

    store = tmp_path / "members"
    arguments = [*TINY, "--max-samples", "100", "--no-bracket", "--store", str(store)]
    assert linvae.compare.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    monkeypatch.setattr(cells, "train", None)  # whoever calls it fails
    assert linvae.compare.main([*arguments, "--out", str(tmp_path / "two")]) == 0
    table = "comparison.csv"
    assert (tmp_path / "one" / table).read_bytes() == (tmp_path / "two" / table).read_bytes()


def test_networks_of_images(tmp_path, short_runs, no_drawing, capsys):
    folder = tmp_path / "out"
    options = ["--architecture", "conv", "--channels", "2,4", "--hidden", "4", "--model", "cvae"]
    arguments = [*TINY[:2], *options, "--quick", "--seeds", "1", "--latent-dim", "2"]
    arguments += ["--max-samples", "100", "--no-bracket", "--out", str(folder)]
    assert linvae.compare.main(arguments) == 0
    settings = json.loads((folder / "summary.json").read_text())["settings"]
    assert settings["network_options"] == {"channels": [2, 4], "hidden": 4}
    assert "conv" in capsys.readouterr().out


def test_preset_sets_data_model_and_networks():
    parsed = linvae.compare._parse(["--preset", "dang-cvae-conv"])
    assert (parsed.dataset, parsed.model) == ("mnist", "cvae")
    assert parsed.architecture == ["linear", "conv"]
    preset = PRESETS["dang-cvae-conv"]
    assert linvae.compare._spec(parsed) == preset.spec
    options = linvae.compare._network_options(parsed)
    assert make_plan(architectures=("conv",), options=options).network("conv") == (
        preset.architecture
    )
    other = linvae.compare._parse(["--preset", "dang-vae", "--dataset", "digits", "--seeds", "1"])
    assert (other.dataset, other.architecture, other.seeds) == ("digits", ["linear"], 1)
    smaller = linvae.compare._parse(["--preset", "dang-cvae-mlp", "--hidden", "4"])
    assert linvae.compare._network_options(smaller)["hidden"] == 4


def test_preset_runs(tmp_path, short_runs):
    folder = tmp_path / "out"
    arguments = ["--preset", "dang-hvae", "--dataset", "digits", "--quick", "--seeds", "1"]
    arguments += ["--quiet", "--max-samples", "100", "--no-bracket", "--out", str(folder)]
    assert linvae.compare.main(arguments) == 0
    settings = json.loads((folder / "summary.json").read_text())["settings"]
    assert settings["spec"] == repr(PRESETS["dang-hvae"].spec)
    assert settings["betas"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--channels", "4"], "--channels has no effect on linear, mlp: add --architecture conv"),
        (["--skip"], "--skip has no effect on --model vae: it is for hvae, or leave it out"),
        (["--depth", "2", "--architecture", "linear"], "--depth has no effect on linear networks"),
    ],
)
def test_options_without_effect_are_refused(options, words, capsys):
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main(["--dataset", "digits", *options])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--hidden", "32"], ["--activation", "tanh"], ["--skip"]])
def test_linear_preset_refuses_sizes_of_networks(option, capsys):
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main(["--preset", "dang-vae", *option])
    assert stop.value.code == 2
    expected = f"{option[0]} has no effect on --preset dang-vae: it is linear"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--model", "vae"],
        ["--latent-dim", "8"],
        ["--architecture", "mlp"],
        ["--decoder-variance", "0.5"],
    ],
)
def test_preset_refuses_what_it_sets(option, capsys):
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main(["--preset", "dang-cvae", *option])
    assert stop.value.code == 2
    assert f"{option[0]} is set by --preset dang-cvae: leave one" in capsys.readouterr().err


def test_help_names_every_option_and_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        linvae.compare.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--dataset", "--latent-dim", "--decoder-variance", "--seeds", "--out", "--json"):
        assert option in out
    assert "default" in out


def test_version_from_the_shell():
    done = subprocess.run(
        [sys.executable, "-m", "linvae", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"linvae {linvae.__version__}\n"


def test_unknown_command(capsys):
    assert linvae.__main__.main(["compair"]) == 2
    captured = capsys.readouterr()
    assert "unknown command 'compair'; did you mean 'compare'?" in captured.err
    assert captured.out == ""


def test_no_suggestion_far_from_every_command(capsys):
    assert linvae.__main__.main(["xyzzy"]) == 2
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]], ids=str)
def test_usage_names_every_command(arguments, capsys):
    assert linvae.__main__.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in linvae.__main__.COMMANDS)


def test_data_list(no_data, capsys):
    assert linvae.__main__.main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("digits", "gaussian", "mnist", "omniglot"))


def test_subcommand_passes_its_code_on(no_data, tmp_path, capsys):
    arguments = ["compare", "--dataset", "omniglot", "--out", str(tmp_path / "out")]
    assert linvae.__main__.main(arguments) == 3


def test_example_in_the_package_docstring():
    result = doctest.testmod(linvae)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_result_folder_that_is_a_file_is_refused_before_any_work(tmp_path, capsys):
    there = tmp_path / "notes.txt"
    there.write_text("mine")
    assert linvae.compare.main([*TINY, "--out", str(there)]) == 2
    assert "is not a folder; choose another result folder" in capsys.readouterr().err
    assert there.read_text() == "mine"


def test_results_of_an_earlier_run_are_replaced_together_or_not_at_all(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("report.html", "rate.png", "comparison.csv", "notes.txt"):
        (folder / name).write_text("old")
    before = {path.name: path.read_text() for path in folder.iterdir()}

    def write(fail: bool) -> None:
        with all_or_nothing(folder, outputs=("report", "rate", "comparison")) as staged:
            (staged / "comparison.csv").write_text("new")
            if fail:
                raise OSError("disk full")
            (staged / "report.html").write_text("new")

    with pytest.raises(OSError, match="disk full"):
        write(fail=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    write(fail=False)
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert after == {"report.html": "new", "comparison.csv": "new", "notes.txt": "old"}


def test_files_of_others_stay_whose_stem_is_that_of_a_result(tmp_path):
    for name in ("run.py", "model.pt", "run.toml", "model.json"):
        (tmp_path / name).write_text("old")
    with all_or_nothing(tmp_path, outputs=("run", "model")) as staged:
        (staged / "run.toml").write_text("new")
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert after == {"run.py": "old", "model.pt": "old", "run.toml": "new"}


@pytest.mark.parametrize(
    ("options", "seeds"), [([], 3), (["--full"], 5), (["--full", "--seeds", "1"], 1)]
)
def test_number_of_seeds(options, seeds, tmp_path, monkeypatch):
    assert planned(options, tmp_path, monkeypatch).seeds == tuple(range(seeds))


@pytest.mark.parametrize(
    ("options", "seeds", "steps"),
    [
        (["--architecture", "conv"], 1, 1500),
        (["--architecture", "conv", "--quick"], 1, 1000),
        (["--architecture", "conv", "--full"], 5, 12_000),
        (["--architecture", "conv", "--image-size", "32"], 3, 3000),
        (["--architecture", "mlp"], 3, 3000),
    ],
)
def test_large_images_have_one_seed(options, seeds, steps, tmp_path, monkeypatch, real_data):
    """64x64 unless told."""
    options = ["--dataset", "ffhq", "--data-dir", str(real_data("ffhq")), *options]
    plan = planned(options, tmp_path, monkeypatch)
    assert (plan.seeds, plan.config.steps) == (tuple(range(seeds)), steps)
    assert plan.pixels == (32**2 if "--image-size" in options else 64**2)


def planned(options, tmp_path, monkeypatch):
    """The plan of a command line, which is not run."""
    import linvae.pipeline as pipeline

    plans = []

    def stop(dataset: object, spec: object, plan: pipeline.Plan, *_: object) -> None:
        plans.append(plan)
        raise ValueError("far enough")

    monkeypatch.setattr(pipeline, "run_comparison", stop)
    linvae.compare.main([*options, "--quiet", "--out", str(tmp_path / "out")])
    return plans[0]


@pytest.mark.parametrize(
    "program", [linvae.compare.main, linvae.text.main], ids=["compare", "text"]
)
def test_options_of_the_latent_reconstruction_need_their_remedy(program, capsys):
    start = ["train"] if program is linvae.text.main else []
    with pytest.raises(SystemExit) as stop:
        program([*start, "--remedy", "free-bits", "--lr-encoder-share", "0.1"])
    assert stop.value.code == 2
    message = "--lr-encoder-share has no effect: add --remedy latent-reconstruction"
    assert message in capsys.readouterr().err


# --- own data -----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A table with a header, a conditional pair and a stack of images, of known samples."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(60, 4)) * [3, 2, 1, 0.5]
    np.savetxt(tmp_path / "own.csv", table, delimiter=",", header="a,b,c,d", comments="")
    np.savez(tmp_path / "pair.npz", target=table[:, 1:], condition=table[:, :1])
    np.save(tmp_path / "images.npy", rng.random((60, 6, 5)))
    return tmp_path, table


def test_own_table(own, monkeypatch, short_runs, no_drawing):
    """The threshold is that of the file's samples; the folder has the name of the file."""
    folder, table = own
    monkeypatch.chdir(folder)
    assert linvae.compare.main([*TINY[2:], "--data", "own.csv", "--no-bracket", "--quiet"]) == 0
    summary = json.loads((folder / "results" / "own-vae" / "summary.json").read_text())
    predicted = solve(VAESpec(2), Moments.from_data(table)).critical_beta[0]
    # the data are float32 in training
    assert summary["thresholds"][0]["predicted"] == pytest.approx(predicted, rel=1e-6)
    assert summary["settings"]["data_note"] == "target: the first line, 'a,b,c,d', is its header"


def test_own_condition_chooses_the_model(own, short_runs, no_drawing):
    folder, _ = own
    options = [*TINY[2:], "--data", str(folder / "pair.npz"), "--no-bracket", "--quiet"]
    assert linvae.compare.main([*options, "--out", str(folder / "out")]) == 0
    settings = json.loads((folder / "out" / "summary.json").read_text())["settings"]
    assert (settings["model"], settings["condition_dim"], settings["target_dim"]) == ("cvae", 1, 3)


def test_own_images_are_drawn(own, short_runs, no_drawing):
    folder, _ = own
    options = [*TINY[2:], "--data", str(folder / "images.npy"), "--no-bracket", "--quiet"]
    assert linvae.compare.main([*options, "--out", str(folder / "out")]) == 0
    assert (folder / "out" / "reconstructions_linear.png").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--data", "own.csv", "--dataset", "digits"], 2, "two sources"),
        (["--data", "own.csv", "--split", "train"], 2, "--split has no effect with --data"),
        (["--scale", "2"], 2, "--scale has no effect with --dataset"),
        (["--data", "nothing.csv"], 3, "does not exist"),
        (["--data", "own.csv", "--model", "cvae"], 2, "needs a condition and own.csv has none"),
        (["--data", "pair.npz", "--model", "vae"], 2, "no use for the condition of pair.npz"),
        (["--data", "own.csv", "--architecture", "conv"], 2, "image"),
    ],
)
def test_own_data_that_cannot_be_compared(options, code, words, own, monkeypatch, capsys):
    monkeypatch.chdir(own[0])
    try:
        found = linvae.compare.main(options)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    assert words in capsys.readouterr().err
    assert not [path for path in (own[0] / "results").rglob("*") if path.is_file()]
