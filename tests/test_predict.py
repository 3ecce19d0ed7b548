"""`python -m linvae.predict`: one screenful from the data alone, and its advice holds."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import linvae.__main__
from linvae import CVAESpec, Moments, VAESpec, solve
from linvae.advice_words import condition_words, level_words
from linvae.data import load_dataset
from linvae.measured import _memory
from linvae.predict import _value, main
from linvae.spec import default_spec
from linvae.theory.marginal import log_likelihood

DIGITS = Moments.from_data(load_dataset("digits").target)
SAMPLES = np.random.default_rng(0).normal(size=(400, 5)) @ np.diag([2.0, 1.5, 1.0, 0.7, 0.2])


@pytest.fixture
def samples(tmp_path):
    np.save(tmp_path / "mine.npy", SAMPLES)
    return str(tmp_path / "mine.npy")


def answer(capsys, *arguments) -> dict:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_default_run_is_one_screenful(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("data: digits [all]: n 1797, dim 64, sha256 ")
    lines = out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    edge = solve(VAESpec(8), DIGITS).critical_beta[0]
    assert f"0 of 8 units active; all are collapsed from beta {edge:.4g} on" in out


def test_modes_that_are_not_shown_are_counted(capsys):
    assert main(["--latent-dim", "12"]) == 0
    assert "collapsed above (4 weaker ones not shown, see --json)" in capsys.readouterr().out


def test_numbers_are_those_of_the_solver(capsys):
    found = answer(capsys, "--latent-dim", "3", "--beta", "0.1", "--beta", "0.6",
                   "--decoder-variance", "0.5", "--decoder-variance", "2")  # fmt: skip
    at = [(p["decoder_variance"], p["beta"]) for p in found["predictions"]]
    assert at == [(0.5, 0.1), (0.5, 0.6), (2.0, 0.1), (2.0, 0.6)]
    for point in found["predictions"]:
        s = point["decoder_variance"]
        spec = VAESpec(3, beta=point["beta"], decoder_variance=s)
        solution = solve(spec, DIGITS)
        theta2 = solution.mode_variances
        error = np.minimum(theta2[:3], spec.beta * s).sum() + theta2[3:].sum()
        assert point["active_units"] == solution.active_units.tolist()
        assert point["rates_nats"] == pytest.approx(solution.rates.tolist())
        assert point["squared_error"] == pytest.approx(error, rel=1e-12)
        elbo = -solution.distortion - solution.rates.sum()
        assert point["negative_elbo_nats"] == pytest.approx(-elbo, rel=1e-12)
        likelihood = log_likelihood(spec, DIGITS, solution.weights)
        assert point["negative_log_likelihood_nats"] == pytest.approx(-likelihood, rel=1e-12)
    thresholds = solve(VAESpec(3, beta=0.1, decoder_variance=0.5), DIGITS).critical_beta[:3]
    assert [row["critical_betas"][0] for row in found["thresholds"]] == pytest.approx(thresholds)


def test_default_grid_spans_the_thresholds(samples, capsys):
    found = answer(capsys, "--data", samples, "--scale", "3")
    betas = [p["beta"] for p in found["predictions"]]
    units = [p["active_units"][0] for p in found["predictions"]]
    critical = [row["critical_betas"][0] for row in found["thresholds"]]
    assert critical == pytest.approx(9 * np.linalg.eigvalsh(np.cov(SAMPLES.T, bias=True))[::-1])
    assert betas == sorted(set(betas)) and 1.0 in betas
    assert betas[0] < 0.6 * critical[-1] and units[0] == 5
    assert critical[0] < betas[-1] < 1.4 * critical[0] and units[-1] == 0


ASKED = {
    "keep": (["--keep-units", "2"], "active_units", 2),
    "none": (["--keep-units", "0"], "active_units", 0),
    "rate": (["--rate", "1.5"], "rate_nats", 1.5),
    "error": (["--squared-error", "4"], "squared_error", 4.0),
}


@pytest.mark.parametrize(("options", "field", "value"), ASKED.values(), ids=ASKED.keys())
def test_advised_beta_gives_what_was_asked(options, field, value, samples, capsys):
    options = ["--data", samples, "--decoder-variance", "0.3", *options]
    (asked,) = answer(capsys, *options)["asked"]
    assert asked[field] == pytest.approx(value, rel=1e-9)
    solution = solve(
        VAESpec(8, beta=asked["beta"], decoder_variance=0.3), Moments.from_data(SAMPLES)
    )
    seen = {
        "active_units": solution.active_units[0],
        "rate_nats": solution.rates[0],
        "squared_error": solution.squared_error,
    }
    assert seen[field] == pytest.approx(value, rel=1e-9)


def test_advice_in_words(samples, capsys):
    assert main(["--data", samples, "--keep-units", "1", "--rate", "2", "--quiet"]) == 0
    now, units, rate = capsys.readouterr().out.splitlines()
    theta2 = np.linalg.eigvalsh(np.cov(SAMPLES.T, bias=True))[::-1]
    assert now.startswith("At beta 1 and decoder variance 1: 2 of 8 units active; all are")
    assert units.startswith(f"To keep 1 unit: beta from {theta2[1]:.4g} to {theta2[0]:.4g} (say ")
    assert rate.startswith("To spend 2 nats: beta ") and "rate 2 nats" in rate


def test_condition_columns_make_it_conditional(samples, capsys):
    found = answer(capsys, "--data", samples, "--condition-dim", "2", "--latent-dim", "2")
    moments = Moments.from_data(SAMPLES[:, 2:], SAMPLES[:, :2])
    spec = CVAESpec(2)
    assert found["spec"] == repr(spec)
    critical = solve(spec, moments).critical_beta[:2]
    assert [row["critical_betas"][0] for row in found["thresholds"]] == pytest.approx(critical)
    q = np.linalg.eigh(moments.residual_covariance)[1][:, -1]
    fitted = SAMPLES[:, :2] - SAMPLES[:, :2].mean(axis=0)
    along = (SAMPLES[:, 2:] - SAMPLES[:, 2:].mean(axis=0)) @ q
    fitted = fitted @ np.linalg.lstsq(fitted, along, rcond=None)[0]
    rho = np.corrcoef(fitted, along)[0, 1]
    assert found["thresholds"][0]["correlation"] == pytest.approx(rho, rel=1e-9)
    assert found["advice"][-1].startswith("The condition predicts the strongest mode with")


def test_hierarchy_says_which_level_dies_first(capsys):
    assert main(["--model", "hvae", "--quiet"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    edge = solve(VAESpec(8), DIGITS).critical_beta[0]
    # level 1 has half its prior's variance, fixed: prices 1/2 and 1 a nat, `linvae.theory.hvae`
    assert first.startswith(f"Level 2 dies first, when beta, of level 1, exceeds {edge / 2:.4g}: a")
    assert second.startswith(f"Level 1 dies when beta, of level 1, exceeds {2 * edge:.4g}: no mode")


def test_a_learned_decoder_variance(capsys):
    """Against the solver, and thresholds against it a thousandth beside them."""
    found = answer(capsys, "--decoder-variance", "learned", "--latent-dim", "3", "--rate", "2")
    assert found["thresholds_at"] == {"beta": 1.0, "decoder_variance": "learned"}
    for point in found["predictions"]:
        solution = solve(VAESpec(3, beta=point["beta"], decoder_variance="learned"), DIGITS)
        assert point["decoder_variance"] == pytest.approx(solution.decoder_variance)
        assert point["active_units"] == solution.active_units.tolist()
    for i, row in enumerate(found["thresholds"]):
        (edge,) = row["critical_betas"]
        for factor, units in ((0.999, i + 1), (1.001, i)):
            spec = VAESpec(3, beta=factor * edge, decoder_variance="learned")
            assert solve(spec, DIGITS).active_units[0] == units
    at = solve(VAESpec(3, beta=found["asked"][0]["beta"], decoder_variance="learned"), DIGITS)
    assert at.rates[0] == pytest.approx(2, rel=1e-5)
    assert "a learned decoder variance, 0.0459" in found["advice"][0]


def test_advice_for_a_hierarchy(capsys):
    """All betas in proportion; `solve` there has what was asked for."""
    options = ["--model", "hvae", "--latent-dim", "3", "--keep-units", "2", "--rate", "3"]
    found = answer(capsys, *options, "--squared-error", "4")
    units, rate, error = (
        solve(default_spec("hvae", 3, 1.0).scale_betas(asked["beta"]), DIGITS)
        for asked in found["asked"]
    )
    assert units.active_units[0] == 2
    assert rate.rates.sum() == pytest.approx(3, rel=1e-5)
    assert error.squared_error == pytest.approx(4, rel=1e-5)
    assert ", of level 1, the others in proportion; then" in found["advice"][1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--decoder-variance", "2", "--decoder-variance", "3"],
            "at decoder variance 2 and beta 1",
        ),
        (["--decoder-variance", "2", "--beta", "0.1", "--beta", "0.2"], "at beta 0.1: a mode is"),
        (["--decoder-variance", "2", "--beta", "0.1"], "Thresholds: a mode is"),
    ],
    ids=["variances", "betas", "point"],
)
def test_the_table_says_what_its_thresholds_are_of(options, words, capsys):
    assert main([*options, "--latent-dim", "2"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())
    found = answer(capsys, *options)
    assert found["thresholds_at"]["decoder_variance"] == 2.0


def test_a_very_wide_spectrum_leaves_weak_modes_out_of_the_grid(tmp_path, capsys):
    np.save(tmp_path / "wide.npy", SAMPLES * 10.0 ** np.array([4, 3, 2, 1, 0]))
    found = answer(capsys, "--data", str(tmp_path / "wide.npy"))
    betas = [p["beta"] for p in found["predictions"] if p["beta"] != 1.0]
    top = found["thresholds"][0]["critical_betas"][0]
    assert betas[0] == pytest.approx(top / 2000, rel=0.05)  # two digits


@pytest.mark.parametrize(("dims", "inside"), [(5, 1), (9, 2)], ids=["narrow", "wide"])
def test_one_thread_of_linear_algebra_up_to_a_width(dims, inside, tmp_path, monkeypatch):
    """Where two are allowed; and they are again afterwards."""
    import linvae.predict
    from linvae.moments import Moments

    threads = []

    def seen(*arguments):
        threads.append(blas_threads())
        return real(*arguments)

    real = Moments.from_batches
    monkeypatch.setattr(Moments, "from_batches", seen)
    monkeypatch.setattr(linvae.predict, "CALM", 8)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(30, dims)))
    with threadpool_limits(2, user_api="blas"):
        if max(blas_threads()) < 2:
            pytest.skip("the linear algebra here has one thread")
        assert main(["--data", str(tmp_path / "a.npy"), "--quiet"]) == 0
        assert threads == [{inside}]
        assert blas_threads() == {2}


def blas_threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


CGROUPS = {
    "v2": ("0::/a/b\n", {"a/memory.max": "4096\n", "a/b/memory.max": "max\n"}, 4096),
    "v2-root": ("0::/\n", {"memory.max": "8192\n"}, 8192),
    "v1": ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "512\n"}, 512),
    "v1-none": ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, None),
    "none": ("", {}, None),
}


@pytest.mark.parametrize(("group", "files", "limit"), CGROUPS.values(), ids=CGROUPS)
def test_memory_is_that_of_the_container(group, files, limit, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "group").write_text(group)
    physical = _memory(tmp_path / "empty", tmp_path / "nothing")
    assert _memory(tmp_path, tmp_path / "group") == (limit or physical)


WORDS = {
    "closed": (_value("beta", 2.0, (1.0, 4.0)), "beta from 1 to 4 (say 2)"),
    "to-zero": (_value("beta", 2.0, (0.0, 4.0)), "beta below 4 (say 2)"),
    "to-infinity": (_value("beta", 2.0, (1.0, np.inf)), "beta 1 or more"),
    "point": (_value("beta", 2.0, (2.0, 2.0)), "beta 2"),
    "alive": (condition_words(CVAESpec(1), 0.5, 0.6), "from 0.6 on, so it is alive."),
    "collapsed": (condition_words(CVAESpec(1), 0.6, 0.5), "from 0.5 on, so it is collapsed."),
    "always": (condition_words(CVAESpec(1), 0.6, 0.0), "collapsed whatever the condition."),
    "noise": (level_words(2, np.inf, "noise", False), "Level 2 never dies: it copies the noise"),
    "never": (level_words(2, 0.0, "never", True), "Level 2 is idle at every beta: a learned"),
}  # fmt: skip


@pytest.mark.parametrize(("sentence", "words"), WORDS.values(), ids=WORDS.keys())
def test_sentences(sentence, words):
    assert words in sentence


def test_a_beta_that_is_given_is_the_one_spoken_of(capsys):
    assert main(["--beta", "0.3", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("At beta 0.3 and decoder variance 1: 4 of 8 units")


USAGE = {
    "two-sources": (["--data", "x.npy", "--dataset", "digits"], "--data and --dataset are two"),
    "scale": (["--dataset", "digits", "--scale", "2"], "--scale has no effect with --dataset"),
    "split": (["--data", "x.npy", "--split", "test"], "--split has no effect with --data"),
    "download": (["--data", "x.npy", "--download"], "--download has no effect with --data"),
    "learned": (["--model", "hvae", "--decoder-variance", "learned"], "learned is for vae and cva"),
    "variance": (["--decoder-variance", "earned"], "'earned' must be a finite number > 0"),
    "beta": (["--beta", "-1"], "'-1' must be a finite number > 0"),
    "rate": (["--rate", "-3"], "argument --rate: '-3' must be a finite number >= 0"),
    "error": (
        ["--squared-error", "0"],
        "argument --squared-error: '0' must be a finite number > 0",
    ),
    "units": (["--keep-units", "-1"], "argument --keep-units: '-1' must be an integer >= 0"),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=USAGE.keys())
def test_usage_errors(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_missing_file_is_exit_code_3(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "nowhere.npy")]) == 3
    assert "does not exist: give the path of a file" in capsys.readouterr().err


UNUSABLE = {
    "nan": (np.array([[1.0, np.nan], [0.0, 1.0], [2.0, 0.0]]), [], "target[0, 1] = nan must be"),
    "one-sample": (np.ones((1, 3)), [], "must have at least 2 samples"),
    "constant": (np.ones((5, 3)), [], "target has zero variance everywhere"),
    "no-condition": (SAMPLES, ["--model", "cvae"], "model='cvae' needs a condition and bad.npy"),
    "idle-condition": (
        SAMPLES, ["--model", "vae", "--condition-dim", "1"], "model='vae' has no use for the",
    ),
    "explained": (
        np.repeat(SAMPLES[:, :1], 2, axis=1), ["--condition-dim", "1"], "explains all of its target"
    ),
    "too-many": (SAMPLES, ["--keep-units", "9"], "9: ask for 5 at most, the data have no"),
    "too-many-for-units": (
        SAMPLES, ["--keep-units", "5", "--latent-dim", "3"], "3 at most, or raise --latent-dim"
    ),
    "tied-units": (
        np.tile(np.eye(3), (2, 1)), ["--keep-units", "1"],
        "linvae: --keep-units 1: no beta keeps exactly so many",
    ),
    "error": (SAMPLES, ["--squared-error", "100"], "linvae: --squared-error 100.0 must be above 0"),
    "rate": (SAMPLES, ["--rate", "1e6"], "linvae: --rate 1000000.0 needs a water level below"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "options", "words"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_unusable_data_is_exit_code_2(values, options, words, tmp_path, capsys):
    np.save(tmp_path / "bad.npy", values)
    assert main(["--data", str(tmp_path / "bad.npy"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linvae: ") and words in error


def test_too_wide_is_refused_before_reading(tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.zeros((2, 300_000), dtype=np.uint8))
    assert main(["--data", str(tmp_path / "wide.npy")]) == 2
    error = capsys.readouterr().err
    assert "wide.npy has 300000 dimensions, whose covariance takes 2682 GiB" in error


def test_subcommand(capsys):
    assert linvae.__main__.main(["predict", "--dataset", "gaussian", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("At beta 1 and decoder variance 1: ")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ["torch", "scipy", "matplotlib", "sklearn", "PIL", "pooch"]),
        (["--dataset", "gaussian"], ["torch", "matplotlib", "sklearn"]),
    ],
    ids=["help", "run"],
)
def test_imports_stay_light(arguments, heavy):
    code = (
        f"import sys\nsys.argv[1:] = {arguments!r}\n"
        "try:\n    import linvae.predict\n    linvae.predict.main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
