"""Further runs of `analysis.causes`: each change takes away one cause and leaves the prediction."""

import argparse
import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest

from analysis import causes
from analysis.causes import Case, as_measured
from analysis.nonlinear_thresholds import rows as table_rows
from linvae.data import Dataset
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.pipeline import default_spec, make_plan, run_comparison
from linvae.theory import solve
from linvae.train import TrainConfig, TrainingData
from linvae.verdicts import CauseName

N = 400
FLOAT32 = 2e-6  # some units of rounding of the stored samples, relative to their variance


@pytest.fixture
def dataset():
    """Skewed targets with a curved regression on the condition."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, 2))
    noise = rng.exponential(size=(N, 5)) * np.array([2.0, 1.0, 0.7, 0.5, 0.3])
    curved = np.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1], x[:, 0], 0 * x[:, 0]], axis=1)
    return Dataset("small", 5 + noise + 2 * curved, condition=x + 1)


def case_of(dataset, model="cvae", level=1):
    """With a condition for the cvae alone."""
    if model != "cvae":
        dataset = replace(dataset, condition=None)
    return Case(dataset, default_spec(model, 1, 1.0), Architecture("mlp"), TrainConfig(), level)


def prediction(case):
    moments = Moments.from_data(case.dataset.target, case.dataset.condition)
    return solve(case.spec, moments).level_critical_betas[:, 0]


def joint(dataset):
    both = np.concatenate([dataset.condition, dataset.target], axis=1).astype(np.float64)
    return both - both.mean(axis=0)


@pytest.mark.parametrize("model", ["vae", "cvae", "hvae"])
@pytest.mark.parametrize("change", [causes.mirrored, causes.straightened])
def test_prediction_of_every_level_stays(dataset, model, change):
    case = case_of(dataset, model)
    np.testing.assert_allclose(prediction(change(case)), prediction(case), rtol=FLOAT32)


def test_mirrored_data_have_the_covariance_and_no_third_moment(dataset):
    before, after = joint(dataset), joint(causes.mirrored(case_of(dataset)).dataset)
    scale = np.var(before)
    np.testing.assert_allclose(
        after.T @ after / len(after), before.T @ before / N, atol=FLOAT32 * scale
    )
    third = np.einsum("ni,nj,nk->ijk", *[after] * 3) / len(after)
    was = np.einsum("ni,nj,nk->ijk", *[before] * 3) / N
    assert np.abs(was).max() > scale**1.5
    assert np.abs(third).max() < FLOAT32 * np.abs(was).max()


def test_data_wider_than_their_number_are_rotated_before_they_are_doubled():
    wide = Dataset("wide", np.random.default_rng(0).normal(size=(10, 30)))
    after = causes.mirrored(case_of(wide, "vae")).dataset
    assert after.target.shape == (20, 9)
    image = replace(wide, image_shape=(5, 6))
    case = replace(case_of(image, "vae"), network=Architecture("conv", channels=(4,)))
    assert causes.mirrored(case).dataset.target.shape == (20, 30)  # pixels stay pixels
    assert causes.mirrored(case).dataset.image_layout() is not None


def test_exchange_leaves_linear_regression_and_no_other(dataset):
    case = case_of(dataset)
    after = causes.exchanged(case)
    # chance correlation of residual and condition takes about dx/n of a variance, 6 times that here
    np.testing.assert_allclose(prediction(after), prediction(case), rtol=6 * 2 / N)
    assert explained_by_squares(case.dataset) > 0.5
    assert explained_by_squares(after.dataset) < 6 * 5 / N  # chance: 5 functions of x
    np.testing.assert_array_equal(after.dataset.condition, dataset.condition)
    regression = dataset.target - residual(dataset)
    np.testing.assert_allclose(
        in_order(after.dataset.target - regression), in_order(residual(dataset)), atol=1e-5
    )  # float32 of numbers of order 10


def in_order(rows):
    return rows[np.argsort(rows[:, 0])]


def residual(dataset, functions=lambda x: x):
    """Of linear regression on functions of the condition."""
    f = functions(dataset.condition.astype(np.float64))
    f, y = f - f.mean(axis=0), dataset.target - dataset.target.mean(axis=0, dtype=np.float64)
    return y - f @ np.linalg.lstsq(f, y, rcond=None)[0]


def explained_by_squares(dataset):
    """Share of what linear regression leaves that squares and products take."""

    def squares(x):
        x = x - x.mean(axis=0)
        return np.concatenate([x, x**2, x[:, :1] * x[:, 1:]], axis=1)

    left, linear = (residual(dataset, functions)[:, 0] for functions in (squares, lambda x: x))
    return 1 - np.var(left) / np.var(linear)


def test_straightened_residual_is_the_leading_component(dataset):
    before, after = residual(dataset), residual(causes.straightened(case_of(dataset)).dataset)
    values, axes = np.linalg.eigh(before.T @ before)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(after.T @ after)[::-1],
        [values[-1], 0, 0, 0, 0],
        atol=FLOAT32 * values[-1],
    )
    np.testing.assert_allclose(after @ axes[:, -1], before @ axes[:, -1], atol=1e-5)


def test_widened_encoder_has_the_same_decoder(dataset):
    case = case_of(dataset, "hvae")
    data = TrainingData.from_arrays(case.dataset.target)
    old, new = (
        build_model(c.spec, data.target, architecture=c.network)
        for c in (case, causes.widened(case))
    )
    assert shapes(old.decoders) == shapes(new.decoders)
    for before, after in zip(shapes(old.encoders), shapes(new.encoders), strict=True):
        hidden = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        assert hidden in ([], [(64, 256)])  # biases of the head have no hidden side
    assert shapes(old.encoders) != shapes(new.encoders)


def shapes(module):
    return [p.shape for p in module.parameters()]


def test_longer_changes_the_steps_alone(dataset):
    case = case_of(dataset)
    after = causes.longer(case)
    assert after.config.steps == 2 * case.config.steps
    assert replace(after, config=case.config) == case


def test_a_case_is_that_of_its_row(dataset):
    """Same networks, data and streams as the table: the same control runs, bit for bit."""
    plan = replace(make_plan(architectures=("mlp",), effort=0.03), bracket=False, sweep=False)
    comparison = run_comparison(dataset, default_spec("cvae", 1, 1.0), plan)
    (row,) = table_rows(comparison, 0.0)
    predicted, found = causes.measure(as_measured(row, dataset))
    assert predicted == pytest.approx(row["predicted_beta"], rel=1e-12)
    betas = [run.beta for run in comparison.select("control_drift")]
    assert found.factors.ravel().tolist() == betas
    assert len(set(betas)) == 18


def test_steps_batches_and_seeds_are_those_of_the_row(dataset):
    row = {"architecture": "conv", "model": "hvae", "level": 2, "steps": 1500}
    row |= {"batch_size": 64, "n_seeds": 2, "learning_rate": 7e-4}
    case = as_measured(row, dataset)
    assert (case.config.steps, case.config.batch_size, case.level) == (3000, 64, 2)
    assert case.seeds == (0, 1)
    assert case.config.learning_rate == 7e-4
    assert case.network.channels == (8, 16)


ROW = {
    "data": "small", "sha256": "ab", "model": "cvae", "architecture": "mlp", "level": 1,
    "steps": 100, "batch_size": 128, "learning_rate": 2e-3, "n_seeds": 3,
    "locator": [0.9, 0.88, 0.92],
    "certified_beta": [0.8, 0.7, 0.9],
    "residual_beta": [0.6, 0.5, 0.7], "local_beta": [0.45, 0.4, 0.5],
    "cause": "regression", "slope_per_nat": -0.04, "largest_drift": 0.023,
}  # fmt: skip


@pytest.mark.parametrize(
    ("quantity", "was", "now"),
    [
        ("certified / predicted", 0.8, 1.5),
        ("residual / predicted", 0.6, 2.0),
        ("local / residual", 0.75, 0.625),
        ("slope per nat", -0.04, -1.5),
        ("largest drift", 0.023, 0.03),
    ],
)
def test_supporting_numbers(quantity, was, now):
    nan = math.nan
    found = SimpleNamespace(
        certified_factors=np.array([2.0, 4.0, nan]),
        residual_factors=np.array([4.0, 4.0, nan]),
        local_factors=np.array([2.0, 3.0, nan]),
        slopes=np.array([-1.0, -2.0, nan]),
        drifts=np.array([[-0.03, nan], [0.01, 0.02]]),
    )
    assert causes.recorded(ROW, quantity) == pytest.approx(was)
    assert causes.observed(found, 2.0, quantity) == pytest.approx(now)


@pytest.mark.parametrize(
    ("seeds", "after", "gone", "word"),
    [
        ([1.97, 1.99, 2.01], [0.995, 0.985, 1.005], 0.952, "shown"),
        ([1.86, 1.88, 1.90], [0.94, 0.93, 0.95], 0.413, "not shown"),
        ([1.97, math.nan, 2.01], [None] * 3, None, "no threshold"),  # a lost seed shows nothing
    ],
)
def test_explained(monkeypatch, dataset, seeds, after, gone, word):
    """0.9 to 0.995 of a prediction of 2: log(0.995)/log(0.9) = 0.048 of the shift is left."""
    names = ("certified_factors", "residual_factors", "local_factors", "slopes", "drifts")
    found = SimpleNamespace(**dict.fromkeys(names, np.ones(3)), critical_factors=np.array(seeds))
    monkeypatch.setattr(causes, "measure", lambda *_, **__: (2.0, found))
    row = causes.explain(ROW, dataset)
    assert (row["after"], row["gone"], row["verdict"]) == (after, gone, word)
    assert (row["expected"], row["quantity_before"], row["quantity_after"]) == (1, 0.6, 0.5)
    longer = causes.explain(ROW | {"cause": "time"}, dataset)
    assert longer["expected"] == pytest.approx(math.sqrt(0.9), abs=1e-4)  # half of the logarithm
    if gone == 0.413:  # most of what is expected of twice the steps
        assert longer["verdict"] == "shown"


def test_numbers_that_are_not_there_are_none():
    silent = ROW | {"local_beta": [None] * 3, "slope_per_nat": None, "largest_drift": None}
    for quantity in ("local / residual", "slope per nat", "largest drift"):
        assert causes.recorded(silent, quantity) is None
    names = ("certified_factors", "residual_factors", "local_factors", "slopes", "drifts")
    none = SimpleNamespace(**dict.fromkeys(names, np.full(3, np.nan)))
    assert causes.observed(none, 1.0, "local / residual") is None


@pytest.mark.parametrize(
    ("before", "after", "expected", "shown"),
    [
        ([0.90, 0.88, 0.92], [0.99, 0.98, 1.00], 1.0, True),
        ([0.90, 0.88, 0.92], [0.94, 0.93, 0.95], 1.0, False),  # 0.41 of the shift
        ([0.90, 0.88, 0.92], [0.94, 0.93, 0.95], 0.5, True),  # more than half of what time does
        ([0.90, 0.88, 0.92], [0.92, 0.91, 0.93], 0.5, False),  # seeds among those before
        ([0.90, 0.80, 0.99], [0.99, 0.98, 1.00], 1.0, False),  # the same
        ([1.20, 1.10, 1.30], [1.02, 1.00, 1.05], 1.0, True),
        ([1.20, 1.10, 1.30], [1.35, 1.33, 1.37], 1.0, False),  # the wrong way
        ([1.20, 1.10, 1.30], [0.85, 0.83, 0.87], 1.0, False),  # thrown over to the other side
        ([1.20, 1.10, 1.30], [None, None, None], 1.0, False),
    ],
)
def test_verdict(before, after, expected, shown):
    gone, word = causes.verdict(before, after, expected)
    if after[0] is None:
        assert (gone, word) == (None, "no threshold")
    else:
        assert word == ("shown" if shown else "not shown")
        assert before[0] ** (1 - gone) == pytest.approx(after[0], abs=2e-4)  # gone is rounded


def asked(**filters):
    everything = {"datasets": None, "models": ("vae", "cvae"), "architectures": ("mlp",)}
    return argparse.Namespace(**everything | filters)


def test_rows_inside_filtered_or_done_are_left_out():
    inside = ROW | {"locator": [0.96, 0.9, 1.0], "level": 3}
    unknown = ROW | {"locator": [None] * 3, "level": 2}
    rows = [ROW, inside, unknown]
    assert causes.wanted(rows, [], asked()) == [ROW]
    assert causes.wanted(rows, [], asked(datasets=["small"])) == [ROW]
    for other in ({"datasets": ["mnist"]}, {"models": ["vae"]}, {"architectures": ["conv"]}):
        assert causes.wanted(rows, [], asked(**other)) == []
    assert causes.wanted(rows, [ROW], asked()) == []
    for other in ({"steps": 1}, {"cause": "line"}):  # another run
        assert causes.wanted(rows, [ROW | other], asked()) == [ROW]


def test_another_cause_can_be_tried(tmp_path):
    path = tmp_path / "rows.json"
    table = [{"cause": {"name": "time", "text": "drifts"}}, {"cause": None}]
    path.write_text(json.dumps({"rows": table}))
    assert causes.measured(path) == [{"cause": "time"}]
    assert causes.measured(path, "line") == [{"cause": "line"}]


def test_runs_are_written_skipped_and_printed(tmp_path, monkeypatch, capsys, dataset):
    """Through the command line, with one real run of few steps."""
    named = ROW | {"cause": {"name": ROW["cause"], "text": "why"}}
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [named]}))
    arguments = ["causes", "--rows", str(tmp_path / "rows.json"), "--out", str(tmp_path / "o.json")]
    monkeypatch.setattr("sys.argv", [*arguments, "--members", str(tmp_path / "members")])
    monkeypatch.setattr(causes, "load_dataset", lambda *_, **__: dataset)
    causes.main()
    (row,) = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert row["before"] == ROW["locator"]
    assert (row["cause"], row["intervention"]) == ("regression", "residuals exchanged")
    assert row["quantity_before"] == 0.6
    assert (row["after"], row["gone"], row["verdict"]) == ([None] * 3, None, "no threshold")
    # the linear regression, all that is left to learn, is learned first: nearly, in 100 steps
    assert row["quantity_after"] == pytest.approx(1, abs=0.1)
    monkeypatch.setattr(causes, "explain", lambda *_: pytest.fail("run again"))
    causes.main()
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", [*arguments, "--table"])
    causes.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1
    assert (
        "| small | cvae | mlp | 1 | regression | residuals exchanged | 0.900 (0.880-0.920) |"
        in (lines[2])
    )


def test_every_cause_has_a_further_run():
    assert set(causes.INTERVENTIONS) == set(get_args(CauseName))
