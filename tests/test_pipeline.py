"""From a dataset to rows: what is predicted is `solve`, what cannot be observed is NaN."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from linvae import pipeline
from linvae.comparison import with_remedy, without_remedy
from linvae.data import Dataset, gaussian, load_dataset
from linvae.jobs import SweepJob
from linvae.models import Architecture
from linvae.moments import Moments
from linvae.pipeline import (
    _training_settings,
    default_spec,
    make_plan,
    run_comparison,
    sweep_jobs,
    training_data,
)
from linvae.remedy_rows import predictor
from linvae.report import render_text, tables
from linvae.rows import SWEEP, phase_boundaries, sweep_rows
from linvae.spec import CVAESpec, HVAESpec, LatentReconstruction, VAESpec
from linvae.theory import solve
from linvae.theory.observables import active_unit_counts
from linvae.train import Annealing, Remedy, TrainConfig, TrainingData, named_remedy
from linvae.verdicts import verdicts
from linvae.wording import nats

QUANTITIES = {"rate_nats", "unit_rate_nats", "information_nats", "active_units", "collapsed_units"}


def short_plan(steps: int = 40, n_seeds: int = 2, architectures=("linear",)):
    """So short that nothing converges: predictions and the shape of the table do not mind."""
    plan = make_plan(
        architectures=architectures, n_seeds=n_seeds, options={"hidden": 8}, device="cpu"
    )
    return replace(plan, config=TrainConfig(steps=steps))


def small(conditional: bool = False) -> Dataset:
    rho = [0.8, 0.5, 0.0] if conditional else 0.0
    return gaussian([3.0, 1.0, 0.2], 200, correlation=rho, seed=3)


MODELS = {
    "vae": (VAESpec(2, decoder_variance=0.5), False),
    "general": (VAESpec(2, decoder_variance=0.5), True),
    "cvae": (CVAESpec(2, decoder_variance=0.5), True),
    "hvae": (
        HVAESpec.markovian((2, 2), decoder_variance=0.5, encoder_variances=(0.25, None)),
        False,
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def compared(request):
    spec, conditional = MODELS[request.param]
    dataset = small(conditional)
    moments = Moments.from_data(dataset.target, dataset.condition)
    return spec, moments, run_comparison(dataset, spec, short_plan())


def test_default_specs():
    assert default_spec("vae", 5, 0.3) == VAESpec(5, decoder_variance=0.3)
    assert default_spec("cvae", 5, 0.3) == CVAESpec(5, decoder_variance=0.3)
    hvae = default_spec("hvae", 5, 0.3)
    assert hvae.latent_dims == (5, 5)
    assert hvae.prior_variances == (0.3, 1.0)
    assert hvae.encoder_variances == (0.15, None)


def test_unknown_model():
    with pytest.raises(ValueError, match="model='vqvae' must be one of vae, cvae, hvae"):
        default_spec("vqvae", 2, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("vae", 0, 1.0), "latent_dim=0"), (("hvae", 2, -1.0), "decoder_variance=-1.0")],
)
def test_default_spec_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        default_spec(*arguments)


@pytest.mark.parametrize(("effort", "steps"), [(1.0, 3000), (1 / 3, 1000), (4.0, 12000), (0, 100)])
def test_effort_scales_the_steps(effort, steps):
    plan = make_plan(effort=effort, n_seeds=2)
    assert plan.config.steps == steps
    assert plan.seeds == (0, 1)
    assert plan.config_for("linear", level=2).steps == 2 * steps


def test_control_runs_have_larger_batches_and_networks_lower_rates():
    plan = make_plan()
    linear, mlp = plan.config_for("linear", 1), plan.config_for("mlp", 1)
    sweep = replace(plan.config, log_every=60)  # 50 points of 3000 steps
    assert plan.config_for("linear") == sweep
    assert linear == replace(plan.config, batch_size=128)
    assert plan.config_for("mlp") == replace(sweep, learning_rate=sweep.learning_rate / 3)
    assert mlp == replace(linear, learning_rate=plan.config.learning_rate * 2 / 3)
    rates = [plan.config_for(name, 1).learning_rate for name in ("linear", "mlp", "conv")]
    assert rates == pytest.approx([3e-3, 2e-3, 0.75e-3])


@pytest.mark.parametrize(("side", "batch"), [(16, 128), (32, 128), (45, 64), (64, 32), (256, 32)])
def test_batches_of_control_runs_hold_fewer_large_images(side, batch):
    """As many pixels as 128 images of 32x32, and no fewer images than the sweep; networks alone."""
    plan = make_plan(pixels=side**2)
    assert plan.config_for("conv", 1).batch_size == batch
    assert plan.config_for("conv").batch_size == 32
    assert plan.config_for("mlp", 1).batch_size == 128


def test_predicted_thresholds_are_those_of_solve(compared):
    spec, moments, comparison = compared
    expected = solve(spec.with_one_unit(), moments).level_critical_betas[:, 0]
    for row in comparison.select("critical_beta"):
        # the pipeline works on the rotated data, so up to the rounding of float32 images of it
        assert row.predicted == pytest.approx(expected[row.level - 1], rel=1e-5)
    levels = {row.level for row in comparison.select("critical_beta")}
    assert levels == set(range(1, len(spec.latent_dims) + 1))


def test_predictions_of_the_sweep_are_those_of_solve(compared):
    spec, moments, comparison = compared
    betas = sorted({row.beta for row in comparison.select("distortion_nats")})
    first = solve(spec, moments).critical_beta[0]
    assert betas == pytest.approx([x * first for x in SWEEP], rel=1e-5)
    for beta in betas:
        solution = solve(spec.scale_betas(beta / spec.betas[0]), moments)
        found = comparison.select("rate_nats", architecture="linear", beta=beta)
        assert {row.seed for row in found} == {0, 1}
        for row in found:
            assert row.predicted == pytest.approx(solution.rates[row.level - 1], abs=1e-4)
        for row in comparison.select("distortion_nats", beta=beta):
            assert row.predicted == pytest.approx(solution.distortion, abs=1e-4)
        for row in comparison.select("active_units", architecture="linear", beta=beta):
            assert row.predicted == active_unit_counts(solution, 0.01)[row.level - 1]
        for row in comparison.select("unit_rate_nats", beta=beta):
            ordered = np.sort(solution.mode_rates[row.level - 1])[::-1]
            assert row.predicted == pytest.approx(ordered[row.index - 1], abs=1e-4)


def test_mode_variances_are_those_of_solve(compared):
    spec, moments, comparison = compared
    found = [row.predicted for row in comparison.select("mode_variance")]
    expected = solve(spec, moments).mode_variances
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_member_has_its_rows(compared):
    spec, _, comparison = compared
    levels = range(1, len(spec.latent_dims) + 1)
    members = len(SWEEP) * 2
    for quantity in QUANTITIES - {"unit_rate_nats"}:
        for level in levels:
            rows = comparison.select(quantity, architecture="linear", level=level)
            assert len(rows) == members
            assert len({(row.beta, row.seed) for row in rows}) == members
            assert all(math.isfinite(row.observed) for row in rows)
    units = comparison.select("unit_rate_nats", architecture="linear")
    pinned = [  # the axes of a level with a fixed isotropic variance are free: no rows there
        k
        for k, fixed in zip(spec.latent_dims, spec.encoder_variances, strict=True)
        if not isinstance(fixed, float)
    ]
    assert len(units) == members * sum(pinned)
    assert len(comparison.select("distortion_nats")) == members


def test_theory_rows_have_no_observation(compared):
    _, _, comparison = compared
    theory = [row for row in comparison.rows if row.architecture == "theory"]
    assert theory
    assert all(math.isnan(row.observed) and row.seed == -1 for row in theory)


def test_every_architecture_has_rows_and_progress_reaches_the_end():
    calls = []
    plan = short_plan(steps=20, n_seeds=1, architectures=("linear", "mlp"))
    comparison = run_comparison(small(), VAESpec(2), plan, lambda *call: calls.append(call))
    assert comparison.architectures == ["linear", "mlp"]
    names = [f"{a}: {what}" for a in ("linear", "mlp") for what in
             ("threshold of level 1", "sweep of beta")]  # fmt: skip
    assert [call for call in calls if call[1] == 20] == [(name, 20, 20) for name in names]
    assert comparison.settings["spec"] == repr(VAESpec(2))
    assert comparison.settings["data_sha256"] == small().sha256


def test_branches_and_every_method_are_in_the_comparison(compared):
    """One record per method and level; both branches at every beta, K at four checkpoints."""
    spec, _, comparison = compared
    one_level = len(spec.latent_dims) == 1
    for level in comparison.levels:
        methods = [e.method for e in comparison.estimates("linear", level)]
        has = {"certificate": level == 1, "local": one_level}
        assert methods == ["control", "bracket", *(name for name, here in has.items() if here)]
        for name in ("alive", "collapsed"):
            rows = comparison.select(f"{name}_branch_nats", level=level)
            assert {row.index for row in rows} == {1, 2, 3, 4}
            assert len(rows) == 4 * 2 * len({row.beta for row in rows})
            free = comparison.select(f"{name}_branch_free_energy", level=level)
            assert len(free) == (len(rows) // 4 if level == 1 else 0)
        assert len(comparison.select("bracket_high", level=level)) == 2
        assert len(comparison.select("control_drift", level=level)) == 2 * 6


def test_plan_without_branches_trains_none():
    plan = replace(short_plan(n_seeds=1), bracket=False)
    comparison = run_comparison(small(), VAESpec(1), plan)
    assert not comparison.select("alive_branch_nats")
    assert "bracket" not in [e.method for e in comparison.estimates("linear", 1)]


NO_THRESHOLD = {
    # p(z_1|z_2) is narrower than the fixed q(z_1|y): level 2 explains encoder noise at any beta
    "always": ((0.25, 1.0), (4.0, None), math.inf),
    # q(z_2|z_1) is fixed, wider than its prior, and level 1 may shrink as it likes
    "never": ((1.0, 1.0), (None, 2.0), 0.0),
}


@pytest.mark.parametrize("name", NO_THRESHOLD)
def test_level_without_a_threshold_has_no_observation(name):
    prior, encoder, predicted = NO_THRESHOLD[name]
    spec = HVAESpec((1, 1), prior_variances=prior, encoder_variances=encoder)
    comparison = run_comparison(small(), spec, short_plan(steps=10, n_seeds=1))
    (row,) = comparison.select("critical_beta", level=2)
    assert row.predicted == predicted
    assert math.isnan(row.observed)
    assert row.seed == -1
    assert not comparison.select("fit_slope", level=2)
    assert not comparison.select("factor_at_information", level=2)
    assert comparison.select("fit_slope", level=1)


def explained(kind: str) -> Dataset:
    rng = np.random.default_rng(0)
    if kind == "copied":  # whole numbers: float32 has no rounding to explain
        condition = rng.integers(-9, 9, size=(60, 3))
        target = condition @ rng.integers(-9, 9, size=(3, 2))
    else:  # three samples, three condition dimensions
        condition, target = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    return Dataset(kind, target.astype(np.float32), condition=condition.astype(np.float32))


@pytest.mark.parametrize("kind", ["copied", "few samples"])
def test_condition_that_explains_the_target(kind):
    message = rf"the condition explains the target of dataset '{kind}' exactly \(n_samples="
    with pytest.raises(ValueError, match=message):
        run_comparison(explained(kind), CVAESpec(1), short_plan())


def test_conditional_model_without_a_condition():
    with pytest.raises(ValueError, match="CVAESpec needs a condition"):
        run_comparison(small(), CVAESpec(1), short_plan())


def test_bounds_of_any_network_stand_in_settings_and_rows(compared):
    spec, moments, comparison = compared
    bounds = comparison.settings["bounds_of_any_network"]
    rows = comparison.select("universal_beta")
    if isinstance(spec, VAESpec) and not isinstance(spec, CVAESpec) and moments.condition_dim:
        assert bounds is None  # the encoder sees the condition only
        assert rows == []
        return
    adds = bounds["scope"] == "any decoder that adds to the fixed regression"
    assert adds is (moments.condition_dim > 0)
    critical = solve(spec, moments).critical_beta[0]
    assert bounds["linear"] == pytest.approx(critical, rel=1e-5)  # float32 data
    assert bounds["linear"] <= bounds["found"] <= bounds["proven"]
    assert [row.predicted for row in rows] == [bounds["found"]]


def test_a_member_that_diverged_stops_no_row(monkeypatch):
    """Its information is NaN: no prediction belongs to it, and the others keep theirs."""
    import linvae.train.cells as cells

    original = cells.train

    def one_lost(model, *others):
        with torch.no_grad():
            next(iter(model.decoders[0].parameters()))[0, 2] = torch.nan
        return original(model, *others)

    monkeypatch.setattr(cells, "train", one_lost)
    plan = replace(short_plan(), sweep=False, bracket=False)
    found = run_comparison(small(), VAESpec(1, decoder_variance=0.5), plan)
    rows = found.select("factor_at_information", seed=0)
    assert [math.isnan(row.predicted) for row in rows] == [False, False, True, False, False, False]
    assert not found.select("rate_nats", architecture="linear")  # no sweep was asked for


def test_law_of_the_leading_mode_is_that_of_its_scores():
    """Rare events on one axis: p = 1/5 has skewness (1 - 2 p)/sqrt(p (1 - p)) = 1.5."""
    target = np.zeros((500, 2))
    target[:100, 0] = 3.0
    target[::2, 1], target[1::2, 1] = 0.1, -0.1
    dataset = Dataset(name="rare", target=target)
    law = pipeline._law_of_leading_mode(dataset, Moments.from_data(target), VAESpec(1))
    assert abs(law.skewness) == pytest.approx(1.5, rel=1e-9)
    assert law.kurtosis == pytest.approx(1.5**2 + 1, rel=1e-9)  # of any law of two points
    # u = 1: (2/9) skew^2/(5 - kurt); where kurt > 3 that is the maximum
    assert law.shift == pytest.approx(2 / 9 * 2.25 / (5 - 3.25), rel=1e-6)


# --- remedies -----------------------------------------------------------------------------------

LINEAR = Architecture()


@pytest.fixture(scope="module")
def remedied():
    plan = replace(short_plan(n_seeds=1), bracket=False)
    plan = replace(plan, remedies=("free-bits", "total-free-bits", "annealing"))
    return run_comparison(small(), VAESpec(2, decoder_variance=0.5), plan)


def test_every_remedy_has_a_sweep_of_its_own(remedied):
    names = ["linear", *(with_remedy("linear", r) for r in remedied.settings["remedies"])]
    assert remedied.architectures == names
    for name in names:
        assert len(remedied.sweep("rate_nats", name, 1)) == len(SWEEP)
    assert [without_remedy(name)[1] for name in names[:2]] == ["", "free-bits"]
    assert {row.architecture for row in remedied.select("critical_beta")} == {"linear"}


def _rises(architecture, plan):
    return [
        job.remedy.schedule for job in sweep_jobs(VAESpec(2), (1.0,), architecture, plan).values()
    ]


def test_betas_of_networks_of_images_rise_first():
    """In a quarter of the steps, with a remedy too, but for those that are about the start."""
    names = ("latent-reconstruction", "latent-skip", "free-bits", "annealing", "aggressive")
    plan = make_plan(architectures=("mlp", "conv"), remedies=names, options={"depth": 2})
    steps = plan.config.steps
    rise, own = Annealing(steps // 4), named_remedy("annealing", steps).schedule
    assert _rises("conv", plan) == [rise, rise, rise, rise, own, None]
    assert _rises("mlp", plan) == [None, None, None, None, own, None]
    settings = _training_settings(plan, 1)
    assert settings["conv, sweep"]["beta_rises_over_steps"] == steps // 4
    assert "beta_rises_over_steps" not in settings["mlp, sweep"]


def test_convolutions_whose_betas_rise_live_where_constant_ones_collapse_them():
    """Digits at 0.35 of the threshold, where a linear VAE has 1.70 nats: half of them, and none."""
    digits = load_dataset("digits")
    spec = VAESpec(8)
    critical = solve(spec, Moments.from_data(digits.target)).critical_beta[0]
    plan = replace(short_plan(600, 1, ("conv",)), options={})
    job = sweep_jobs(spec, (0.35 * critical,), "conv", plan)["conv"]
    data = training_data(digits, digits, plan.network("conv"), torch.device("cpu"))
    rising, constant = (j.run(data).rates.item() for j in (job, replace(job, remedy=Remedy())))
    assert rising > 0.85
    assert constant < 0.01


@pytest.mark.parametrize(("remedy", "nats"), [("free-bits", 0.2), ("total-free-bits", 0.1)])
def test_remedies_train_to_what_theory_predicts(remedy, nats):
    """At 1.15 of the threshold all is collapsed but what a floor covers: 2 units of 0.1, or 0.1.

    0.02 nats, rate and distortion: Adam's steps about the edge of a floor.
    """
    spec, moments, factors = (
        VAESpec(2, decoder_variance=0.5),
        Moments.from_data(small().target),
        (6.9,),
    )
    chosen = named_remedy(remedy, 1500)
    job = SweepJob(spec, LINEAR, (0,), TrainConfig(steps=1500, batch_size=200), factors, chosen)
    seen = job.run(TrainingData.from_arrays(small().target))
    rows = list(sweep_rows(spec, moments, seen, factors, (0,), "linear", predictor(chosen, LINEAR)))
    assert replace(job, remedy_name=remedy).name == f"linear: sweep of beta, {remedy}"
    (rate,) = (row for row in rows if row.quantity == "rate_nats")
    (distortion,) = (row for row in rows if row.quantity == "distortion_nats")
    assert rate.predicted == pytest.approx(nats, abs=1e-9)
    assert rate.observed == pytest.approx(nats, abs=0.02)
    assert distortion.observed == pytest.approx(distortion.predicted, abs=0.02)
    gained = solve(spec.scale_betas(100.0), moments).distortion - distortion.predicted
    assert gained > 0.05


@pytest.mark.parametrize("source", ["prior", "posterior"])
@pytest.mark.parametrize("k", [2, 3], ids=["mixed units", "a unit per mode"])
def test_latent_reconstruction_trains_to_what_theory_predicts(k, source):
    """Half-way and above the plain threshold: rate and distortion within 0.05 nats, all units.

    0.05 nats: what Adam's last steps at 1 % of the rate leave; the loss moves both by 0.2 and more.
    """
    spec, moments = VAESpec(k, decoder_variance=0.5), Moments.from_data(small().target)
    top = float(solve(spec, moments).critical_beta[0])
    chosen = Remedy(latent_reconstruction=LatentReconstruction(2.0, source))
    factors = (0.5 * top, 1.1 * top)
    config = TrainConfig(steps=2000, batch_size=200, learning_rate=0.02)
    seen = SweepJob(spec, LINEAR, (0,), config, factors, chosen).run(
        TrainingData.from_arrays(small().target)
    )
    rows = list(sweep_rows(spec, moments, seen, factors, (0,), "x", predictor(chosen, LINEAR)))
    plain = list(sweep_rows(spec, moments, seen, factors, (0,), "x"))
    for quantity in ("rate_nats", "distortion_nats", "active_units"):
        found = [r for r in rows if r.quantity == quantity]
        assert [r.observed for r in found] == pytest.approx([r.predicted for r in found], abs=0.05)
        moved = [r.predicted for r in found], [r.predicted for r in plain if r.quantity == quantity]
        assert np.abs(np.subtract(*moved)).max() > 0.2


def test_what_free_bits_predict_nothing_of_has_none(remedied):
    for quantity in ("information_nats", "active_units", "collapsed_units"):
        found = remedied.select(quantity, architecture=with_remedy("linear", "free-bits"))
        assert found
        assert all(math.isnan(row.predicted) for row in found)


def test_remedies_have_a_verdict(remedied):
    text = {v.claim: v for v in verdicts(remedied)}["free-bits, linear"]
    assert text.text.startswith("free bits per unit: ")
    assert text.why.startswith("theory: below the floor a rate has no price")


def test_a_remedy_that_holds_more_than_the_optimum_is_not_called_a_gain(remedied):
    trained = with_remedy("linear", "annealing")

    def why(added, remedy="annealing"):
        """With `added` nats of the predicted rate."""
        name = with_remedy("linear", remedy)
        rows = [
            replace(row, architecture=name, observed=row.predicted + added)
            if (row.architecture, row.quantity) == (trained, "rate_nats")
            else replace(row, architecture=name)
            if row.architecture == trained
            else row
            for row in remedied.rows
        ]
        return {v.claim: v for v in verdicts(replace(remedied, rows=rows))}[f"{remedy}, linear"].why

    assert why(0.05).startswith("theory: the optimum, and with it the threshold, stays")
    assert "held by smaller betas on the way and is not undone yet" in why(0.3)
    assert "units still share modes" in why(0.3, "aggressive")  # all its betas are the last ones


def rendered(spec, remedy, architecture="linear", **options):
    """A run with this remedy, and what a terminal shows of it."""
    plan = replace(short_plan(n_seeds=1), bracket=False, remedies=(remedy,), **options)
    plan = replace(plan, architectures=(architecture,))
    found = run_comparison(small(isinstance(spec, CVAESpec)), spec, plan)
    console = Console(width=160, record=True, file=StringIO())
    render_text(found, console)
    return found, console.export_text()


RENDERED = {
    "free bits": (VAESpec(2, decoder_variance=0.5), "free-bits", {}),
    "published": (VAESpec(2, decoder_variance=0.5), "latent-reconstruction", {}),
    "mean": (
        VAESpec(2, decoder_variance=0.5), "latent-reconstruction",
        {"reconstruction": LatentReconstruction(0.5, "mean")},
    ),
    "detached": (
        VAESpec(2, decoder_variance=0.5), "latent-reconstruction",
        {"reconstruction": LatentReconstruction(0.5, "posterior", "both", 1e-4)},
    ),
    "adaptive": (VAESpec(2, decoder_variance=0.5), "latent-reconstruction",
                 {"warmup": "kl-adaptive"}),
    "conditional": (CVAESpec(2, decoder_variance=0.5), "latent-reconstruction", {}),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "remedy", "options"), RENDERED.values(), ids=RENDERED)
def test_every_remedy_is_rendered_whatever_is_predicted_of_it(spec, remedy, options):
    found, text = rendered(spec, remedy, **options)
    assert f"note: {remedy}, linear" in text
    assert "theory: " in text
    titles = [title for table in tables(found)[1] for title in table.header]
    loss = options.get("reconstruction", LatentReconstruction())
    known = loss.detach == "none" and loss.source == "posterior" and "warmup" not in options
    known = known and type(spec) is VAESpec
    assert (f"rate theory, {remedy}" in titles) is known
    plain = found.sweep("rate_nats", "linear", 1)
    (rates,) = (t for t in tables(found)[1] if "rate theory" in t.header)
    column = [row[rates.header.index("rate theory")] for row in rates.rows]
    assert column == [nats(rows[0].predicted) for rows in plain.values()]
    if remedy == "latent-reconstruction":
        assert found.settings["latent_reconstruction"]["weight"] == loss.weight


@pytest.mark.parametrize(
    ("spec", "remedy", "architecture", "message"),
    [
        (HVAESpec((2, 1)), "latent-reconstruction", "linear", "needs one level of latents, and HV"),
        (VAESpec(9), "inverse-lipschitz", "mlp", "latent_dim=9 must be at most the target's 3"),
        (VAESpec(2), "latent-skip", "mlp", "give --depth 2 or more"),
        (VAESpec(2), "inverse-lipschitz", "pixelcnn", "is a dense decoder, another model"),
    ],
)
def test_what_no_network_can_have_is_refused_before_training(spec, remedy, architecture, message):
    with pytest.raises(ValueError, match=message):
        rendered(spec, remedy, architecture)


def test_curves_are_those_of_every_member(compared):
    """40 steps are 40 points; the objective is distortion and beta times rate of that batch."""
    spec, _, comparison = compared
    members = {(p.beta, p.seed) for p in comparison.curves}
    swept = comparison.settings["betas_swept"]
    assert len(members) == 2 * len(SWEEP)
    assert sorted({beta for beta, _ in members}) == pytest.approx(swept)
    assert {p.beta for p in comparison.curves} == {r.beta for r in comparison.select(
        "distortion_nats") if r.seed >= 0}  # fmt: skip
    for beta, seed in members:
        points = [p for p in comparison.curves if (p.beta, p.seed) == (beta, seed)]
        assert [p.step for p in points] == list(range(1, 41))
        if len(spec.betas) == 1:
            found = [p.distortion_nats + beta * p.rate_nats for p in points]
            assert [p.objective_nats for p in points] == pytest.approx(found, rel=1e-5)  # float32


def test_boundaries_are_where_the_optimum_changes(compared):
    """On one side of a boundary solve's unit is alive, on the other it is not."""
    spec, moments, comparison = compared
    tried = 0
    for boundary in comparison.boundaries[::5]:
        if not 0 < boundary.critical_beta < math.inf:
            continue
        alive = []
        for factor in (0.999, 1.001):
            first = factor * boundary.critical_beta
            if len(spec.betas) > 1:
                at = replace(spec, betas=(first, first * boundary.at))
            else:
                at = replace(spec, beta=first, decoder_variance=boundary.at)
            collapsed = solve(at, moments).collapsed[boundary.level - 1, boundary.unit - 1]
            alive.append(not collapsed)
        assert alive == [True, False], boundary
        tried += 1
    assert tried >= 2
    places = {boundary.at for boundary in comparison.boundaries}
    middle = spec.betas[1] / spec.betas[0] if len(spec.betas) > 1 else spec.decoder_variance
    assert min(places) < 0.3 * middle and max(places) > 3 * middle


def test_boundaries_are_at_the_ratio_of_the_betas_that_were_tried():
    """Betas that are not equal; upper ones together, and nothing where levels run away."""
    spec = HVAESpec((1, 1), betas=(2.0, 6.0), encoder_variances=(0.5, None))
    moments = Moments.from_data(small().target)
    found = list(phase_boundaries(spec, moments))
    assert min(b.at for b in found) == pytest.approx(3 / 8)
    assert any(b.at == pytest.approx(3.0) for b in found)
    at = next(b for b in found if b.level == 1 and b.at == pytest.approx(3.0))
    assert at.critical_beta == pytest.approx(solve(spec, moments).level_critical_betas[0, 0])
    learned = HVAESpec((1, 1), betas=(1.0, 2.0))
    ratios = {b.at for b in phase_boundaries(learned, moments)}
    assert ratios and min(ratios) > 2 / 8  # below 1 betas decrease upwards
