"""Specifications: every error with its text, broadcasting, and that no field is ignored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import (
    ARVAESpec,
    CVAESpec,
    HVAESpec,
    LatentReconstruction,
    VAESpec,
    default_spec,
    model_name,
)
from linvae.theory import objective, solve

NOT_POSITIVE = {
    "zero": 0.0,
    "negative": -1.0,
    "nan": float("nan"),
    "infinite": float("inf"),
    "bool": True,
    "text": "1.0",
    "none": None,
    "list": [1.0],
}
bad_number = pytest.mark.parametrize("value", NOT_POSITIVE.values(), ids=NOT_POSITIVE.keys())
one_level = pytest.mark.parametrize("kind", [VAESpec, CVAESpec], ids=lambda k: k.__name__)


def _message(text: str, where: str) -> str:
    return rf"{text} must be a finite number > 0 in {where}$"


@bad_number
@pytest.mark.parametrize("name", ["beta", "prior_variance"])
@one_level
def test_one_level_number_must_be_positive(kind, name, value):
    with pytest.raises(ValueError, match=_message(rf"{name}=.*", kind.__name__)):
        kind(2, **{name: value})


@bad_number
@one_level
def test_decoder_variance_must_be_positive_or_learned(kind, value):
    text = r"decoder_variance=.* must be a finite number > 0( or 'learned')? in " + kind.__name__
    with pytest.raises(ValueError, match=text):
        kind(2, decoder_variance=value)


@one_level
def test_misspelt_learned_is_named(kind):
    with pytest.raises(ValueError, match=r"'lerned' must be a finite number > 0 or 'learned' in"):
        kind(2, decoder_variance="lerned")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True], ids=str)
@one_level
def test_fixed_encoder_variance_must_be_positive(kind, value):
    with pytest.raises(ValueError, match=_message("encoder_variance=.*", kind.__name__)):
        kind(2, encoder_variance=value)
    with pytest.raises(ValueError, match=_message(r"encoder_variance\[1\]=.*", kind.__name__)):
        kind(2, encoder_variance=[1.0, value])


@pytest.mark.parametrize("length", [0, 1, 3])
@one_level
def test_diagonal_encoder_variance_needs_one_entry_per_unit(kind, length):
    text = rf"encoder_variance has {length} entries but latent_dim=2 in {kind.__name__}: give one"
    with pytest.raises(ValueError, match=text):
        kind(2, encoder_variance=[0.5] * length)


@pytest.mark.parametrize("encoder_variance", [0.5, (0.5, 0.6)], ids=str)
@one_level
def test_learned_decoder_variance_needs_a_learned_encoder_variance(kind, encoder_variance):
    text = rf"decoder_variance='learned' needs encoder_variance=None in {kind.__name__}, got .*0.5"
    with pytest.raises(ValueError, match=text):
        kind(2, decoder_variance="learned", encoder_variance=encoder_variance)


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "2", None, True, float("nan")], ids=str)
@one_level
def test_latent_dim_must_be_a_positive_integer(kind, value):
    text = rf"latent_dim=.* must be an integer >= 1 in {kind.__name__}"
    with pytest.raises(ValueError, match=text):
        kind(value)


@pytest.mark.parametrize("value", ["condition", None, ""], ids=str)
def test_encoder_sees_both_or_target(value):
    with pytest.raises(ValueError, match=r"encoder_sees=.* must be 'both' or 'target' in CVAESpec"):
        CVAESpec(2, encoder_sees=value)


def test_likelihood_must_be_known_and_has_no_decoder_variance():
    with pytest.raises(ValueError, match="likelihood='normal' must be one of gaussian, bernoulli"):
        VAESpec(2, likelihood="normal")
    with pytest.raises(ValueError, match=r"decoder_variance=0\.5 has no meaning with likelihood="):
        VAESpec(2, likelihood="poisson", decoder_variance=0.5)
    with pytest.raises(ValueError, match="likelihood='poisson' must be 'gaussian' in CVAESpec"):
        CVAESpec(2, likelihood="poisson")


def test_zero_of_any_type_is_no_penalty():
    for zero in (0, 0.0, np.float32(0), np.int64(0)):
        assert not VAESpec(1, weight_decay=zero).penalised


def test_mask_is_kept_as_the_columns_of_every_row():
    spec = ARVAESpec(2, order=[[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert spec.order == ((), (0,), (1,))
    assert spec.scale_betas(2.0).order == spec.order
    assert not spec.is_full(3)
    assert ARVAESpec(2).is_full(3)
    assert ARVAESpec(2, order=2).is_full(3)
    assert [list(columns) for columns in ARVAESpec(2, order=1).seen(3)] == [[], [0], [1]]


# --- hierarchies -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, None, [], ()], ids=str)
def test_widths_must_be_a_sequence(value):
    with pytest.raises(ValueError, match=r"latent_dims=.* must be a sequence with one width per"):
        HVAESpec(value)


@pytest.mark.parametrize("value", [0, -2, 1.5, "3", True], ids=str)
def test_width_of_a_level_is_named(value):
    text = r"latent_dims\[1\]=.* must be an integer >= 1 in HVAESpec"
    with pytest.raises(ValueError, match=text):
        HVAESpec([2, value])


@pytest.mark.parametrize("name", ["betas", "prior_variances", "encoder_variances"])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_one_entry_per_level(name, length):
    text = rf"{name} has {length} entries but latent_dims has 2 levels in HVAESpec: give one per"
    with pytest.raises(ValueError, match=text):
        HVAESpec([2, 2], **{name: [1.0] * length})


@pytest.mark.parametrize("name", ["betas", "prior_variances", "encoder_variances"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, "1"], ids=str)
def test_number_of_a_level_must_be_positive(name, value):
    with pytest.raises(ValueError, match=_message(rf"{name}\[1\]=.*", "HVAESpec")):
        HVAESpec([2, 2], **{name: [1.0, value]})


@pytest.mark.parametrize("name", ["betas", "prior_variances"])
def test_none_is_for_encoder_variances_only(name):
    with pytest.raises(ValueError, match=_message(rf"{name}\[0\]=None", "HVAESpec")):
        HVAESpec([2, 2], **{name: [None, 1.0]})


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), True, None], ids=str)
def test_hierarchy_decoder_variance_must_be_positive(value):
    with pytest.raises(ValueError, match=_message("decoder_variance=.*", "HVAESpec")):
        HVAESpec([2, 2], decoder_variance=value)


def test_hierarchy_has_no_learned_decoder_variance():
    with pytest.raises(ValueError, match="only VAESpec and CVAESpec have a closed form"):
        HVAESpec([2, 2], decoder_variance="learned")


# --- what is stored ----------------------------------------------------------------------------


def test_scalars_are_repeated_over_the_levels():
    spec = HVAESpec([3, 2, 1], betas=0.5, prior_variances=2)
    assert spec.latent_dims == (3, 2, 1)
    assert spec.betas == (0.5, 0.5, 0.5)
    assert spec.prior_variances == (2.0, 2.0, 2.0)
    assert spec.encoder_variances == (None, None, None)
    assert HVAESpec([3, 2], encoder_variances=[None, 0.3]).encoder_variances == (None, 0.3)


def test_sequences_become_tuples_so_that_specs_hash_and_compare():
    spec = VAESpec(2, encoder_variance=np.array([0.5, 0.25]))
    assert spec.encoder_variance == (0.5, 0.25)
    assert hash(spec) == hash(VAESpec(2, encoder_variance=[0.5, 0.25]))
    hierarchy = HVAESpec(np.array([2, 1]), betas=np.array([1.0, 2.0]))
    assert hierarchy == HVAESpec([2, 1], betas=(1, 2))
    assert {type(k) for k in hierarchy.latent_dims} == {int}


@one_level
def test_one_level_is_a_chain_of_length_one(kind):
    spec = kind(3, beta=2.0, prior_variance=0.5, encoder_variance=0.2)
    chain = (spec.latent_dims, spec.betas, spec.prior_variances, spec.encoder_variances)
    assert chain == ((3,), (2.0,), (0.5,), (0.2,))


@pytest.mark.parametrize("spec", [VAESpec(2), HVAESpec([2, 1])], ids=["vae", "hvae"])
def test_specs_are_frozen(spec):
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.decoder_variance = 2.0


def test_fields_other_than_the_width_are_keywords():
    with pytest.raises(TypeError):
        VAESpec(2, 1.0)
    with pytest.raises(TypeError):
        HVAESpec([2, 1], 1.0)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (VAESpec(2, beta=1.5, encoder_variance=(0.1, 0.2)), (4.5,)),
        (CVAESpec(2, beta=0.5, decoder_variance="learned"), (1.5,)),
        (HVAESpec([2, 1], betas=[1.0, 2.0], encoder_variances=[None, 0.4]), (3.0, 6.0)),
    ],
    ids=["vae", "cvae", "hvae"],
)
def test_scale_betas_multiplies_every_beta_and_nothing_else(spec, expected):
    scaled = spec.scale_betas(3.0)
    assert type(scaled) is type(spec)
    assert scaled.betas == expected
    assert scaled.scale_betas(1 / 3) == spec


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")], ids=str)
def test_scale_betas_keeps_betas_positive(factor):
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        HVAESpec([2, 1]).scale_betas(factor)


@pytest.mark.parametrize(
    "spec",
    [
        VAESpec(2, beta=1.5, decoder_variance=0.3),
        VAESpec(2, beta=1.5, decoder_variance=0.3, encoder_variance=0.4),
        VAESpec(2, beta=1.5, decoder_variance=0.3, encoder_variance=(0.9, 0.2)),
        HVAESpec([2, 3], betas=[0.4, 0.7], encoder_variances=[0.3, 0.2]),
        HVAESpec([2, 2], betas=[0.4, 0.7], encoder_variances=[0.3, None]),
    ],
    ids=["learned", "fixed", "diagonal", "hvae-fixed", "hvae-mixed"],
)
def test_with_one_unit_keeps_the_mode_that_collapses_last(spec):
    moments = Moments.from_covariance([[3.0, 0.5], [0.5, 1.0]])
    one = spec.with_one_unit()
    assert set(one.latent_dims) == {1}
    critical = solve(one, moments).level_critical_betas[:, 0]
    np.testing.assert_allclose(
        critical, solve(spec, moments).level_critical_betas[:, 0], rtol=1e-14
    )


def test_markovian_hierarchy_shares_the_decoder_variance():
    spec = HVAESpec.markovian(
        [4, 3, 2], decoder_variance=0.25, prior_variance=0.5, betas=2.0,
        encoder_variances=[0.3, None, None],
    )  # fmt: skip
    assert spec == HVAESpec(
        [4, 3, 2], betas=2.0, decoder_variance=0.25, prior_variances=[0.25, 0.25, 0.5],
        encoder_variances=[0.3, None, None],
    )  # fmt: skip
    assert HVAESpec.markovian([2]) == HVAESpec([2])


# --- no field is ignored -----------------------------------------------------------------------


def _covariance() -> np.ndarray:
    factor = np.random.default_rng(0).normal(size=(5, 5))
    return factor @ factor.T


PLAIN = Moments.from_covariance(_covariance())
JOINT = Moments.from_covariance(_covariance(), condition_dim=2)
VAE = VAESpec(2, beta=1.2, decoder_variance=0.3, prior_variance=1.5, encoder_variance=0.4)
CVAE = CVAESpec(2, beta=1.2, decoder_variance=0.3, prior_variance=1.5, encoder_variance=0.4)
HVAE = HVAESpec(
    [3, 2], betas=[0.6, 1.1], decoder_variance=0.3, prior_variances=[1.5, 0.8],
    encoder_variances=[0.4, 0.2],
)  # fmt: skip
ONE_LEVEL_CHANGES = [
    {"latent_dim": 1},
    {"beta": 1.3},
    {"decoder_variance": 0.2},
    {"decoder_variance": "learned", "encoder_variance": None},
    {"prior_variance": 1.4},
    {"encoder_variance": 0.5},
    {"encoder_variance": (0.4, 0.5)},
    {"encoder_variance": None},
]
HIERARCHY_CHANGES = [
    {"latent_dims": (2, 2)},
    {"latent_dims": (3, 1)},
    {"betas": (0.7, 1.1)},
    {"betas": (0.6, 1.0)},
    {"decoder_variance": 0.2},
    {"prior_variances": (1.4, 0.8)},
    {"prior_variances": (1.5, 0.7)},
    {"encoder_variances": (0.5, 0.2)},
    {"encoder_variances": (0.4, 0.3)},
    {"encoder_variances": (None, 0.2)},
    {"encoder_variances": (0.4, None)},
]
CHANGES = [
    *((f"vae-{change}", VAE, PLAIN, change) for change in ONE_LEVEL_CHANGES),
    *((f"general-{change}", VAE, JOINT, change) for change in ONE_LEVEL_CHANGES),
    *((f"cvae-{change}", CVAE, JOINT, change) for change in ONE_LEVEL_CHANGES),
    *((f"hvae-{change}", HVAE, PLAIN, change) for change in HIERARCHY_CHANGES),
    *((f"chvae-{change}", HVAE, JOINT, change) for change in HIERARCHY_CHANGES),
]


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case[0].replace(" ", ""))
def test_every_field_changes_the_solution(case):
    _, spec, moments, change = case
    before, after = solve(spec, moments), solve(dataclasses.replace(spec, **change), moments)
    assert abs(after.objective - before.objective) > 1e-4


SAME_WEIGHTS = [
    ("vae-beta", VAE, PLAIN, {"beta": 1.3}),
    ("vae-decoder", VAE, PLAIN, {"decoder_variance": 0.2}),
    ("vae-prior", VAE, PLAIN, {"prior_variance": 1.4}),
    ("cvae-beta", CVAE, JOINT, {"beta": 1.3}),
    ("cvae-decoder", CVAE, JOINT, {"decoder_variance": 0.2}),
    ("cvae-prior", CVAE, JOINT, {"prior_variance": 1.4}),
    ("hvae-beta-1", HVAE, PLAIN, {"betas": (0.7, 1.1)}),
    ("hvae-beta-2", HVAE, PLAIN, {"betas": (0.6, 1.0)}),
    ("hvae-decoder", HVAE, PLAIN, {"decoder_variance": 0.2}),
    ("hvae-prior-1", HVAE, PLAIN, {"prior_variances": (1.4, 0.8)}),
    ("hvae-prior-2", HVAE, PLAIN, {"prior_variances": (1.5, 0.7)}),
]


@pytest.mark.parametrize("case", SAME_WEIGHTS, ids=lambda case: case[0])
def test_every_number_changes_the_objective_of_given_weights(case):
    _, spec, moments, change = case
    weights = solve(spec, moments).weights
    before = objective(spec, moments, weights).objective
    after = objective(dataclasses.replace(spec, **change), moments, weights).objective
    assert after - before != pytest.approx(0, abs=1e-4)


def test_specs_with_and_without_a_condition_differ():
    """The three readings of the same joint moments."""
    values = [solve(spec, JOINT).objective for spec in (VAE, CVAE)]
    assert abs(values[0] - values[1]) > 0.1


def test_widths_from_a_generator_are_read_once():
    assert HVAESpec(k for k in (3, 2)).latent_dims == (3, 2)
    assert HVAESpec.markovian(k for k in (3, 2)).latent_dims == (3, 2)


@pytest.mark.parametrize("build", [HVAESpec, HVAESpec.markovian])
def test_one_number_is_no_hierarchy(build):
    with pytest.raises(ValueError, match="latent_dims=3 must be a sequence with one width per"):
        build(3)


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("weight", -1, "a finite number >= 0"),
        ("encoder_share", float("nan"), "a finite number >= 0"),
        ("source", "encoder", "one of prior, posterior, mean, posterior-to-mean"),
        ("detach", True, "one of none, input, target, both"),
    ],
)
def test_latent_reconstruction_names_what_it_refuses(field, value, bound):
    with pytest.raises(ValueError, match=f"{field}={value!r} must be {bound} in LatentRec"):
        LatentReconstruction(**{"weight": 1.0, field: value})


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_of_numpy_are_numbers(kind):
    spec = VAESpec(2, beta=kind(2), decoder_variance=kind(1), weight_decay=kind(0))
    assert spec == VAESpec(2, beta=2.0)
    assert all(type(v) is float for v in (spec.beta, spec.decoder_variance, spec.weight_decay))


@pytest.mark.parametrize("field", ["beta", "decoder_variance", "prior_variance", "weight_decay"])
@pytest.mark.parametrize("value", [True, np.True_, np.array(True)], ids=["python", "numpy", "0-d"])
def test_truth_values_are_not_numbers(field, value):
    with pytest.raises(ValueError, match=f"{field}=.*True.* must be a finite number"):
        VAESpec(2, **{field: value})


def test_model_names_are_those_of_the_command_lines():
    for name in ("vae", "cvae", "hvae"):
        assert model_name(default_spec(name, 2, 0.5)) == name
    with pytest.raises(ValueError, match=r"spec=ARVAESpec.* must be a VAESpec, CVAESpec or HVAESp"):
        model_name(ARVAESpec(2))


@pytest.mark.parametrize("kind", ["python", "numpy", "torch"])
def test_no_number_loses_its_imaginary_part(kind):
    own = {"python": complex, "numpy": np.complex128}
    value = own[kind](2 + 1j) if kind in own else pytest.importorskip("torch").tensor(2 + 1j)
    with pytest.raises(ValueError, match="must be a finite number > 0"):
        VAESpec(2, beta=value)
