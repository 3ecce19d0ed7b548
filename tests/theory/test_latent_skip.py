"""Deep linear decoders whose layers read z: escape from collapse against the exact Hessian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.theory.dynamics import escape_rates
from linvae.theory.latent_skip import deep_escape_rates, hidden_gain

F64 = torch.float64


def draw(seed: int, depth: int, *, std: float, skip: bool):
    """Hidden layers of one unit: V_1 .. V_(p-1) and, with skips, S_2 .. S_(p-1)."""
    rng, widths = np.random.default_rng(seed), (1, 3, 2, 4)[:depth]
    layers = [std * rng.normal(size=pair) for pair in zip(widths[1:], widths, strict=False)]
    feeds = [std * rng.normal(size=(len(V), 1)) for V in layers[1:]] if skip else []
    return layers, feeds


def fastest_escape(theta2, layers, feeds, beta, s, eta2):
    """Largest eigenvalue of minus the Hessian of the objective over every matrix, at collapse."""
    d, C = len(theta2), torch.diag(torch.tensor(theta2, dtype=F64))
    hidden = [torch.tensor(m, dtype=F64) for m in (*layers, *feeds)]
    shapes = [m.shape for m in hidden] + [(d, len(layers[-1])), (1, d), (1,)]
    start = torch.cat(
        [m.ravel() for m in hidden] + [torch.zeros(d * len(layers[-1]) + d, dtype=F64)]
    )
    start = torch.cat([start, torch.tensor([np.log(eta2)], dtype=F64)])

    def objective(vector):
        parts = torch.split(vector, [int(np.prod(shape)) for shape in shapes])
        *inner, last, W, log_v = [p.view(shape) for p, shape in zip(parts, shapes, strict=True)]
        h = inner[0]
        for i in range(1, len(layers)):
            h = inner[i] @ h + (inner[len(layers) + i - 1] if feeds else 0)
        U, v = last @ h, log_v.exp()
        error = torch.eye(d, dtype=F64) - U @ W
        mse = torch.trace(error @ C @ error.T) + (U.square() * v).sum()
        rate = ((torch.trace(W @ C @ W.T) + v) / eta2 - 1 - (v / eta2).log()).sum() / 2
        return mse / (2 * s) + beta * rate

    hessian = torch.autograd.functional.hessian(objective, start)
    return -float(torch.linalg.eigvalsh(hessian)[0])


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_rate_is_that_of_the_hessian(seed, depth, skip):
    """The fastest mode, for small hidden weights and for large ones."""
    theta2, beta, s, eta2 = [2.0, 1.3, 0.4], 0.9, 0.6, 1.7
    for std in (0.2, 1.5):
        layers, feeds = draw(seed, depth, std=std, skip=skip)
        expected = fastest_escape(theta2, layers, feeds, beta, s, eta2)
        found = deep_escape_rates(
            theta2, gain=hidden_gain(layers, feeds), beta=beta, decoder_variance=s,
            prior_variance=eta2,
        )  # fmt: skip
        # eigenvalues of a matrix with entries of order 1 to 100, to rounding
        assert found.max() == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_one_matrix_is_the_plain_model():
    for update in ("joint", "aggressive"):
        given = {"beta": 0.7, "decoder_variance": 0.5, "prior_variance": 1.3, "update": update}
        np.testing.assert_allclose(
            deep_escape_rates([2.0, 0.2], gain=1.0, **given), escape_rates([2.0, 0.2], **given),
            rtol=1e-14,
        )  # fmt: skip


def test_skips_make_escape_independent_of_depth_where_weights_are_small():
    """All weights a: g is the sum over paths, and the wait of a plain decoder a^(-2(p-2))."""
    a, rates = 1e-3, {}
    for depth in (2, 3, 4):
        layers = [[[a]]] * (depth - 1)
        for skip in (True, False):
            gain = hidden_gain(layers, [[[a]]] * (depth - 2) if skip else ())
            rates[depth, skip] = float(deep_escape_rates(2.0, gain=gain)[0])
            paths = sum(a**m for m in range(1, depth)) if skip else a ** (depth - 1)
            assert gain == pytest.approx(paths**2, rel=1e-12)
        # growth is proportional to g^2 up to g^2 eta^4/(beta s), and g to a up to 2 a
        waits = rates[depth, True] / rates[depth, False]
        assert waits == pytest.approx(a ** (-2 * (depth - 2)), rel=6 * a)
    assert rates[4, True] == pytest.approx(rates[2, True], rel=3 * a)


def test_without_a_price_everything_escapes():
    assert np.all(deep_escape_rates([2.0, 0.1], gain=0.5, beta=0.0) > 0)


def test_threshold_does_not_move():
    for gain in (1e-4, 1.0, 30.0):
        at = [
            deep_escape_rates(2.0, gain=gain, beta=f * 4.0, decoder_variance=0.5)[0]
            for f in (0.999, 1.001)
        ]
        assert at[0] > 0 > at[1]


REFUSED = {
    "none": (((), ()), "0 layers and 0 feeds in hidden_gain"),
    "feeds": (([[[1.0]], [[1.0]]], [[[1.0]]] * 2), "2 layers and 2 feeds in hidden_gain: give at"),
    "columns": (([[[1.0, 2.0]]], ()), r"layers\[0\] has shape \(1, 2\) but must have 1 columns"),
    "shape": (([[[1.0]], [[1.0]]], [[[1.0], [2.0]]]), r"feeds\[0\] has shape \(2, 1\) but must"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_layers_that_do_not_fit_are_refused(case):
    arguments, message = case
    with pytest.raises(ValueError, match=message):
        hidden_gain(*arguments)
    with pytest.raises(ValueError, match="gain=0 must be finite and > 0 in deep_escape_rates"):
        deep_escape_rates(1.0, gain=0)
