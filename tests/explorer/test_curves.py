"""Curves of the explorer: everything is what `solve` says on the whole moments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.integrate import trapezoid

from linvae import ARVAESpec, CVAESpec, HVAESpec, Moments, VAESpec, solve
from linvae.data import load_dataset
from linvae.explorer.curves import Curves, Unsolvable, curves
from linvae.explorer.source import Source, modes_at
from linvae.explorer.state import CONTROLS, Slider, State, preset
from linvae.spec import default_spec
from linvae.theory.advice import mode_correlations
from linvae.theory.stability import stability
from linvae.wording import nats

PLAIN = load_dataset("digits")
TASK = load_dataset("digits", conditional=True)
WHOLE = {
    "plain": Moments.from_data(PLAIN.target),
    "task": Moments.from_data(TASK.target, TASK.condition),
}
SOURCES = {name: Source.of(name, moments) for name, moments in WHOLE.items()}
STATES = {
    "vae": ("plain", {"beta": 0.2, "latent_dim": 5}),
    "wide": ("plain", {"beta": 0.05, "decoder_variance": 0.7, "latent_dim": 32}),
    "fixed": ("plain", {"beta": 0.3, "encoder": "fixed", "encoder_variance": 0.2}),
    "prior": ("plain", {"encoder": "fixed", "encoder_variance": 0.2, "prior_variance": 3.0}),
    "cvae": ("task", {"model": "cvae", "beta": 0.1}),
    "cvae fixed": ("task", {"model": "cvae", "beta": 0.3, "encoder": "fixed",
                            "encoder_variance": 0.2, "prior_variance": 3.0}),
    "hvae": ("plain", {"model": "hvae", "beta": 0.4, "beta_2": 0.3, **preset("hvae")}),
    "uneven": ("plain", {"model": "hvae", "beta": 0.2, "latent_dim": 3, "latent_dim_2": 6,
                         "encoder": "fixed", "encoder_2": "fixed", "prior_variance_2": 2.0}),
}  # fmt: skip


def at(name: str) -> tuple[State, Moments, Curves]:
    """A state, the whole moments, and its curves."""
    source, fields = STATES[name]
    state = State(spectrum="data", **fields)
    found = curves(state, SOURCES[source])
    assert isinstance(found, Curves)
    return state, WHOLE[source], found


@pytest.mark.parametrize("name", STATES)
def test_curves_are_those_of_the_solver_on_the_whole_moments(name):
    state, moments, found = at(name)
    for i in range(0, len(found.betas), 4):
        whole = solve(state.spec.scale_betas(found.betas[i] / state.beta), moments)
        units = found.unit_rates.shape[1]
        np.testing.assert_allclose(
            found.unit_rates[:, :, i], whole.mode_rates[:, :units], rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(found.rates[:, i], whole.rates, rtol=1e-8, atol=1e-10)
        assert found.squared_errors[i] == pytest.approx(whole.squared_error, rel=1e-9)


@pytest.mark.parametrize("name", STATES)
def test_what_holds_now_is_what_the_solver_says(name):
    state, moments, found = at(name)
    whole = solve(state.spec, moments)
    assert found.now.active_units.tolist() == whole.active_units.tolist()
    assert found.squared_error == pytest.approx(whole.squared_error, rel=1e-9)
    shown = found.thresholds.shape[1]
    critical = whole.level_critical_betas[:, :shown]
    np.testing.assert_allclose(found.thresholds, critical, rtol=1e-8)
    assert set(critical[np.isfinite(critical) & (critical > found.betas[0])].round(8)) <= set(
        found.betas.round(8)
    )
    width = state.latent_dim
    assert found.states.count("active") == whole.active_units[0]
    assert found.states[width:] == ("no unit",) * (len(found.states) - width)


@pytest.mark.parametrize("name", STATES)
def test_steps_count_the_active_units_between_thresholds(name):
    state, moments, found = at(name)
    between = np.sqrt(found.step_betas[1:] * found.step_betas[:-1])
    apart = found.step_betas[1:] > found.step_betas[:-1] * (1 + 1e-6)
    for beta, counts in zip(between[apart], found.active_units.T[:-1][apart], strict=True):
        whole = solve(state.spec.scale_betas(beta / state.beta), moments)
        assert counts.tolist() == whole.active_units.tolist()


@pytest.mark.parametrize("name", STATES)
def test_waterline_parts_the_modes_that_are_carried(name):
    state, moments, found = at(name)
    whole = solve(state.spec, moments)
    carried = found.variances[: state.latent_dim] > found.waterlines[0]
    assert carried.tolist() == (~whole.collapsed[0, : state.latent_dim]).tolist()
    if name in ("vae", "wide", "cvae"):  # the encoder is learned: Wang & Ziyin 2022, Theorem 2
        assert found.waterlines == pytest.approx(state.beta * state.decoder_variance, rel=1e-9)


def test_modes_that_level_2_is_too_narrow_for_have_a_waterline_of_their_own():
    """Both variances fixed and level 2 cheap: its first three modes are cheaper for level 1 too."""
    state = State(
        model="hvae", beta=1.0, beta_2=1e-2, latent_dim=8, latent_dim_2=3, encoder="fixed",
        encoder_variance=0.5, encoder_2="fixed", encoder_variance_2=0.5, decay=0.3,
    )  # fmt: skip
    found = curves(state)
    low, high = found.waterlines
    # without level 2, beta s sigma^2/eta^2
    assert high == pytest.approx(0.5)
    assert low < high
    for height in (0.9 * high, 1.1 * high):
        spectrum = curves(dataclasses.replace(state, largest=height, spectrum="equal"))
        carried = np.array([s == "active" for s in spectrum.states[:8]])
        assert carried.tolist() == [height > low] * 3 + [height > high] * 5
    learned = dataclasses.replace(state, encoder="learned", encoder_2="learned", beta_2=1.0)
    assert len(curves(learned).waterlines) == 1


@pytest.mark.parametrize("spectrum", ["power law", "exponential", "equal"])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_synthetic_condition_is_that_joint_covariance(spectrum, correlation):
    state = State(model="cvae", spectrum=spectrum, dim=7, decay=0.4, condition_dim=3,
                  correlation=correlation, latent_dim=4, beta=0.7)  # fmt: skip
    theta2 = modes_at(dataclasses.replace(state, model="vae"), None).variances
    joint = np.zeros((10, 10))
    joint[:3, :3], joint[3:, 3:] = np.eye(3), np.diag(theta2)
    for i in range(3):
        joint[i, 3 + i] = joint[3 + i, i] = correlation * np.sqrt(theta2[i])
    moments = Moments.from_covariance(joint, condition_dim=3)
    found, whole = curves(state), solve(state.spec, moments)
    assert found.now.rates[0] == pytest.approx(whole.rates[0], rel=1e-9)
    assert found.squared_error == pytest.approx(whole.squared_error, rel=1e-9)
    top = mode_correlations(CVAESpec(1), moments)
    assert modes_at(state, None).given.target_variance == pytest.approx(top.target_variances[0])
    assert modes_at(state, None).given.correlation == pytest.approx(top.correlations[0], abs=1e-7)


def test_synthetic_spectra_have_their_shape():
    power = modes_at(State(spectrum="power law", dim=3, largest=8.0, decay=2.0), None)
    assert power.variances.tolist() == [8.0, 2.0, 8 / 9]
    steep = modes_at(State(spectrum="exponential", dim=2, largest=3.0, decay=1.0), None)
    assert steep.variances == pytest.approx([3.0, 3.0 / np.e])
    assert modes_at(State(spectrum="equal", dim=2), None).variances.tolist() == [5.0, 5.0]


def test_autoregressive_threshold_is_that_of_the_whole_covariance():
    state = State(spectrum="data", decoder_variance=0.4)
    words = curves(state, SOURCES["plain"]).words[-1]
    whole = stability(ARVAESpec(1, decoder_variance=0.4), WHOLE["plain"]).critical_beta[0]
    assert words.startswith("An autoregressive decoder, which also sees every earlier coordinate")
    assert words.endswith(f"stable from beta {whole:.4g} on.")


@pytest.mark.parametrize("variance", [0.5, 1.0, 2.0])
def test_what_a_dead_unit_costs_is_the_divergence_of_its_noise(variance):
    """KL(N(0, variance) || N(0, 1)) by quadrature; nothing where it is the prior's, or learned."""
    z = np.linspace(-20, 20, 20_001)
    log_q = -(z**2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    log_p = -(z**2) / 2 - np.log(2 * np.pi) / 2
    cost = trapezoid(np.exp(log_q) * (log_q - log_p), z)  # of a smooth function: to rounding
    words = f"A dead unit of level 1 costs {nats(cost)} nats and says nothing"
    for model in ("vae", "hvae")[: 1 + (variance <= 1)]:  # above it a level 2 copies that noise
        said = " ".join(curves(State(model, encoder="fixed", encoder_variance=variance)).words)
        assert said.count("A dead unit") == said.count(words) == (variance != 1)
    assert "A dead unit" not in " ".join(curves(State()).words)


# --- words --------------------------------------------------------------------------------------


def change(**fields) -> str:
    """The sentence that says what to change."""
    (words,) = [w for w in curves(State(**fields)).words if w.startswith(("To wake", "Every"))]
    return words


def test_words_say_what_wakes_the_next_unit():
    assert change(beta=2.0) == (
        "To wake unit 3, take beta below 1.667, or the decoder variance below 0.8333."
    )


def test_words_say_which_unit_dies_first_where_all_live():
    assert change(beta=0.1, latent_dim=2) == (
        "Every mode that has a unit is carried; unit 2 is the first to die, at beta 2.5, or at "
        "decoder variance 25."
    )


def test_units_beyond_the_modes_are_not_promised():
    assert change(beta=0.1, dim=2).startswith("Every mode that has a unit is carried; unit 2 ")


def test_words_of_a_hierarchy_say_which_level_dies_and_why():
    words = curves(State(model="hvae", beta=3.0, beta_2=3.0, **preset("hvae"))).words
    assert words == (
        "At betas 3 and 3 and decoder variance 1: level 1 has 3 of 8 units active, level 2 has 0 "
        "of 8 units active.",
        "Level 2 dies first, when beta, of level 1, exceeds 2.5: a nat of it costs more than one "
        "of the level below, which lives on.",
        "Level 1 dies when beta, of level 1, exceeds 10: no mode of the data pays for it any "
        "longer.",
        "To wake unit 4 of level 1, take beta below 2.5, all betas in proportion, or the decoder "
        "variance below 0.8333.",
        "A dead unit of level 1 costs 0.097 nats and says nothing: its encoder variance is fixed.",
    )


def test_a_state_without_an_optimum_says_why():
    found = curves(State(model="hvae", beta=2.0, beta_2=1.0))
    assert isinstance(found, Unsolvable)
    assert found.words[0].startswith("There is no optimum: the objective has no minimum: betas[0]")
    assert "fix one of the two encoder variances" in found.words[0]


def test_words_of_a_condition_say_from_which_correlation_on_nothing_is_left():
    words = curves(State(model="cvae", correlation=0.3, condition_dim=16, largest=2.0)).words[-1]
    edge = np.sqrt(1 - 1 / 2.0)  # Dang et al. 2024, Theorem 2, beta s = 1
    assert words == (
        "The condition predicts the strongest mode with correlation 0.3; at beta 1 and decoder "
        f"variance 1 the mode collapses from {edge:.4g} on, so it is alive."
    )


# --- states -------------------------------------------------------------------------------------


def test_every_field_has_one_control_and_the_defaults_are_inside():
    names = [control.name for group in CONTROLS.values() for control in group]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(State))
    State()


def test_presets_are_the_default_specs():
    for model in ("vae", "cvae", "hvae"):
        assert State(model=model, **preset(model)).spec == default_spec(model, 8, 1.0)


def test_specs_have_the_fields_of_the_state():
    state = State(beta=2.0, decoder_variance=0.5, latent_dim=3, prior_variance=4.0)
    assert state.spec == VAESpec(3, beta=2.0, decoder_variance=0.5, prior_variance=4.0)
    state = State(model="hvae", beta=2.0, beta_2=3.0, decoder_variance=0.5, latent_dim=3,
                  latent_dim_2=2, prior_variance=4.0, prior_variance_2=5.0, encoder_2="fixed",
                  encoder_variance_2=0.7)  # fmt: skip
    assert state.spec == HVAESpec(
        (3, 2),
        betas=(2.0, 3.0),
        decoder_variance=0.5,
        prior_variances=(4.0, 5.0),
        encoder_variances=(None, 0.7),
    )


REFUSED = {
    "low": ({"beta": 0}, r"beta=0 must be a number between 0.0001 and 10000"),
    "nan": ({"beta": float("nan")}, "beta=nan must be a number"),
    "word": ({"beta": "1"}, "beta='1' must be a number"),
    "bool": ({"latent_dim": True}, "latent_dim=True must be a number"),
    "many": ({"dim": 10**9}, "dim=1000000000 must be a number between 1 and 64"),
    "half": ({"latent_dim": 1.5}, "latent_dim=1.5 must be a whole number"),
    "choice": ({"model": "gan"}, "model='gan' must be one of vae, cvae, hvae"),
    "list": ({"model": ["vae"]}, "model=\\['vae'\\] must be one of"),
    "unknown": ({"__class__": 1}, "state must be an object with some of model, beta"),
    "not-object": ([1], "state must be an object"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_other_states_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        State.of(fields)


def test_data_are_asked_for_only_where_there_are_some():
    with pytest.raises(ValueError, match="spectrum='data' needs --dataset, --data or --covariance"):
        curves(State(spectrum="data"))


def test_a_condition_that_explains_all_is_refused():
    moments = Moments.from_covariance(np.ones((2, 2)), condition_dim=1)
    with pytest.raises(ValueError, match="the condition of mine explains all of its target"):
        Source.of("mine", moments)


def test_every_slider_can_go_to_both_ends():
    sliders = [c for group in CONTROLS.values() for c in group if isinstance(c, Slider)]
    for slider in sliders:
        for value in (slider.low, slider.high):
            model = slider.models[-1]
            fields = {"model": model, **preset(model), slider.name: value}
            found = curves(State(**fields))
            if isinstance(found, Unsolvable):  # betas that fall upwards between learned variances
                continue
            assert np.isfinite(found.unit_rates).all() and np.isfinite(found.waterlines).all()
