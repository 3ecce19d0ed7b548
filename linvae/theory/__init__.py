"""Closed-form optima: `solve` (global optimum) and `objective` (exact, any weights).

Dispatch only; the mathematics is in one file per theorem family: `modes` (what there is to
explain), `elbo` (the objective), `vae` (one level), `penalised` (one level with a latent
reconstruction loss or weight decay), `latent_reconstruction` and `mixed_units` (that loss in every
routing of its gradient, and for any number of units), `target_encoder` (a conditional encoder that
does not see the condition), `hvae` (hierarchies), `stability` (collapsed points).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory.arguments import check_pair, check_result, in_doubles
from linvae.theory.elbo import (
    Chain,
    ObjectiveTerms,
    objective,
    penalty_terms,
    refuse_other_likelihoods,
)
from linvae.theory.hvae import solve_hierarchy
from linvae.theory.modes import Modes, mode_decomposition
from linvae.theory.penalised import solve_penalised
from linvae.theory.solution import ModeStates, Solution, UnboundedObjectiveError
from linvae.theory.target_encoder import solve_target_encoder
from linvae.theory.vae import solve_one_level

__all__ = ["ObjectiveTerms", "Solution", "UnboundedObjectiveError", "objective", "solve"]

Array = npt.NDArray[np.float64]


@in_doubles
def solve(spec: LinearSpec, moments: Moments, *, allow_unbounded: bool = False) -> Solution:
    """The global optimum of the linear model `spec` on `moments`.

    Raises UnboundedObjectiveError where there is none, unless `allow_unbounded`: then the
    solution has status "unbounded", objective -inf and NaN arrays. Raises ValueError where the
    global optimum is not known; the message says which call answers instead.
    Formulas, symbols, units and sources: the module of each model, `linvae.spec` and
    `linvae.theory.solution`. Equality that a test checks: `objective(spec, moments,
    solve(spec, moments).weights).objective == solve(spec, moments).objective`.
    """
    check_pair(spec, moments)
    if isinstance(spec, HVAESpec):
        states = solve_hierarchy(spec, modes := mode_decomposition(spec, moments), allow_unbounded)
    else:
        assert isinstance(spec, VAESpec)
        refuse_other_likelihoods(spec, "solve")
        modes = mode_decomposition(spec, moments)
        _refuse_unknown_optimum(spec, moments, modes)
        if isinstance(spec, CVAESpec) and spec.encoder_sees == "target":
            return solve_target_encoder(spec, moments)
        if spec.penalised:
            states = solve_penalised(spec, modes)
        else:
            states = solve_one_level(spec, modes, allow_unbounded)
    if states.status == "unbounded":
        return _unbounded_solution(states)
    return _solution(spec, moments, modes, states)


def _refuse_unknown_optimum(spec: VAESpec, moments: Moments, modes: Modes) -> None:
    """ValueError, by name, for the models whose global optimum is not known."""
    way_out = "use stability(spec, moments) for the threshold of the collapsed point"
    learned_s = spec.decoder_variance == "learned"
    if isinstance(spec, CVAESpec) and spec.encoder_sees == "target" and learned_s:
        raise ValueError(
            "encoder_sees='target' has no known global optimum with decoder_variance='learned': "
            "give the value it has at the collapsed point, the residual variance per dimension"
        )
    if spec.penalised and moments.condition_dim > 0:
        raise ValueError(
            f"latent_reconstruction={spec.latent_reconstruction}, weight_decay={spec.weight_decay} "
            f"have no known global optimum with a condition: {way_out}"
        )
    if not isinstance(spec, ARVAESpec) or spec.order == 0:
        return
    if not spec.is_full(moments.target_dim) or spec.penalised:
        raise ValueError(
            "ARVAESpec has a known global optimum only with order=None or 0 and without "
            f"penalties: {way_out}"
        )
    active = int(np.sum(modes.variances > spec.beta * float(spec.decoder_variance)))
    if spec.latent_dim < active:
        raise ValueError(
            f"latent_dim={spec.latent_dim} is below the {active} innovations above beta * "
            f"decoder_variance: the optimum of ARVAESpec is not known there; use latent_dim >= "
            f"{active}, or {way_out}"
        )


def _solution(spec: LinearSpec, moments: Moments, modes: Modes, states: ModeStates) -> Solution:
    r, m, s = states.noise_fractions, states.second_moments, states.decoder_variance
    theta2 = np.zeros(r.shape[1])
    theta2[: len(modes.variances)] = modes.variances
    chain, mode_errors = _chain(moments, modes, states, theta2)
    squared_error = modes.unexplained + float(np.sum(mode_errors))
    distortion = moments.target_dim / 2 * np.log(2 * np.pi * s) + squared_error / (2 * s)
    mode_rates = _mode_rates(spec, r, m)
    rates = mode_rates.sum(axis=1)
    critical_betas = states.critical_scale * spec.betas[0]
    weights = chain.to_weights(spec, moments)
    penalty = penalty_terms(spec, moments, chain) if isinstance(spec, VAESpec) else 0.0
    total = float(distortion + np.dot(spec.betas, rates)) + penalty
    check_result("the objective", total)
    return Solution(
        objective=total,
        distortion=float(distortion),
        rates=rates,
        mode_variances=theta2,
        decoder_variance=s,
        noise_fractions=r,
        encoder_variances=r * m,
        mode_rates=mode_rates,
        critical_beta=critical_betas[0],
        level_critical_betas=critical_betas,
        critical_decoder_variance=_critical_decoder_variance(spec, states),
        weights=weights,
        status=states.status,
        penalty=penalty,
        squared_error=squared_error,
    )


def _critical_decoder_variance(spec: LinearSpec, states: ModeStates) -> Array:
    """Scaling s is scaling every beta, unless a penalty acts."""
    scaled = states.critical_scale[0] * states.decoder_variance
    penalised = isinstance(spec, VAESpec) and spec.penalised
    return np.full_like(scaled, np.nan) if penalised else scaled


def _mode_rates(spec: LinearSpec, r: Array, m: Array) -> Array:
    """1/2 (m_l r_{l+1}/eta_l^2 - 1 - log(sigma_l^2/eta_l^2)), (levels, modes); 0 without a unit."""
    above = np.concatenate([r[1:], np.ones((1, r.shape[1]))])
    eta2 = np.array(spec.prior_variances)[:, None]
    m = np.where(np.isnan(m), eta2, m)  # no unit for the mode: the prior itself, r = 1, rate 0
    rates: Array = (m * above / eta2 - 1 - np.log(r * m / eta2)) / 2
    return rates


def _chain(
    moments: Moments, modes: Modes, states: ModeStates, theta2: Array
) -> tuple[Chain, Array]:
    """Optimal matrices, w_l^2 = m_l (1 - r_l)/m_{l-1} and u_l = w_l m_{l-1}/m_l, m_0 = theta^2.

    And the squared error of every mode: theta^2 r_1, or that of a decoder weight held by a penalty.
    """
    r, m = states.noise_fractions, states.second_moments
    W, U, Sigma, mode_errors = [], [], [], theta2 * r[0]
    below, units_below = theta2, np.arange(moments.target_dim)
    for level, units in enumerate(states.units):
        k, k_below = len(units), len(units_below)
        n = min(k, k_below)
        gain = np.sqrt(m[level, :n] * (1 - r[level, :n]))
        scale = np.sqrt(below[:n])
        w = np.divide(gain, scale, out=np.zeros(n), where=gain > 0)
        u = gain * scale / m[level, :n]
        if states.decoder_gains is not None:
            u = states.decoder_gains[:n]
            noise = (r * m)[level, :n]
            mode_errors[:n] = theta2[:n] * (1 - u * w) ** 2 + u**2 * noise
        W.append(_place(w, units[:n], units_below[:n], (k, k_below)))
        U.append(_place(u, units_below[:n], units[:n], (k_below, k)))
        Sigma.append(_place((r * m)[level, :k], units, units, (k, k)))
        below, units_below = m[level], units
    chain = Chain(
        encoder=_rotate_rows(W[0], modes.readout),
        skip=modes.skip,
        W=tuple(W[1:]),
        U=(_rotate_rows(U[0].T, modes.basis.T).T, *U[1:]),
        Sigma=tuple(Sigma),
        s=states.decoder_variance,
    )
    return chain, mode_errors


def _rotate_rows(diagonal: Array, rows: Array) -> Array:
    """diagonal @ rows, where `diagonal` has at most one entry per row: no cubic cost."""
    values = diagonal.sum(axis=1)
    rotated: Array = values[:, None] * rows[np.abs(diagonal).argmax(axis=1)]
    return rotated


def _place(
    values: Array,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    shape: tuple[int, int],
) -> Array:
    matrix = np.zeros(shape)
    matrix[rows, columns] = values
    return matrix


def _unbounded_solution(states: ModeStates) -> Solution:
    nothing = np.full_like(states.noise_fractions, np.nan)
    return Solution(
        objective=-np.inf,
        distortion=np.nan,
        rates=nothing[:, 0],
        mode_variances=nothing[0],
        decoder_variance=states.decoder_variance,
        noise_fractions=nothing,
        encoder_variances=nothing,
        mode_rates=nothing,
        critical_beta=nothing[0],
        level_critical_betas=nothing,
        critical_decoder_variance=nothing[0],
        weights={},
        status="unbounded",
    )
