"""docs/local_collapse.md: rows of `analysis/mixture_study.py`, the published ones, a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from analysis.nonlinear_thresholds import markdown
from analysis.reconstruction_price import summary
from linvae.spec import LatentReconstruction
from linvae.theory.latent_reconstruction import collapsed_encoder_variance
from linvae.wording import nats, number, plain
from paper_checks.song2025 import CELLS, ENOUGH, STUDY, THEIRS

Rows = list[dict[str, Any]]
Setting = tuple[float, float, str]  # beta, alpha, what is detached
Changes = dict[Setting, float]

PUBLISHED_ALPHAS = {0.0: 0, 0.1: 1, 0.4: 4}  # where they stand in a row of STUDY
PUBLISHED_CELLS = {0.0: 0, 0.01: 1, 0.1: 2}  # and of CELLS
EPSILON = 0.1  # nats, of local collapse
PRELIMINARY = """

**Preliminary: so short a training says nothing yet of the published claims.**"""

PAGE = """# Local collapse: eight clusters in the plane, published and here

Written by `python -m analysis.mixture_study --page` from `analysis/mixture_study.json`: {steps}
steps{short}, {seeds} seeds, medians with their range. Published (Song, Kim, Lee 2025, result files
of their code): medians of four seeds, cells of one. Theirs and ours differ in their
clusters.{warning}

- KL, MI: rate and mutual information of all data, nats; MI is at most log n = {log_n:.2f}. The KL
  above it is KL(q(z)||p(z)): latents off their prior, which say nothing of the data.
- L: max(l_95, 1/l_5) of the decoder's stretch over random pairs of latents, as published, and
  max(L, 1/l) from its Jacobian.
- z-cells, cells, samples: shares with a KL below {epsilon} nats of 256 equal shares of the prior,
  decoded and encoded again; of the squares of a 16 x 16 grid with data; of the data.
- back: score of codes of the prior, and of the posterior, that are decoded and encoded again, 1 for
  an inverse.
- alpha 0.4, detached: z is a constant for the loss, as in their code since August 2025."""

PRICE = """## Predicted and observed price

`python -m analysis.reconstruction_price`: Gaussian data of spectrum 4, 2, 1, 0.5 and one mode by
itself, gamma from 0.02 to 2, z from the prior and from q, three seeds.

![Thresholds, rates and price of the loss, linear and MLP](reconstruction_price.png)

(`python -m figures --only reconstruction_price`; lines: the linear optimum.)"""


def page(document: dict[str, Any], prices: dict[str, Any]) -> str:
    """What was measured, what holds, why the KL alone says little, and the price of the loss."""
    found = document["rows"]
    steps = document["steps"]
    head = PAGE.format(
        steps=f"{steps:,}",
        short="" if steps >= THEIRS else f" of the {THEIRS:,} published",
        warning="" if steps >= ENOUGH else PRELIMINARY,
        seeds=len({row["seed"] for row in found}),
        log_n=math.log(10_000),
        epsilon=EPSILON,
    )
    parts = [head, table(found), "## What holds", verdict(found), "## Why the KL alone misleads"]
    return "\n\n".join([*parts, misleading(found), PRICE, summary(prices)]) + "\n"


# --- the table ------------------------------------------------------------------------------------

COLUMNS = {
    "KL": "rate_nats",
    "MI": "information_nats",
    "L as published": "published_bi_lipschitz",
    "L, Jacobian": "bi_lipschitz",
    "z-cells": "share_of_latent_cells",
    "cells": "share_of_data_cells",
    "samples": "share_of_samples",
    "back, prior": "prior_identifiability",
    "back, posterior": "posterior_identifiability",
}


def table(found: Rows) -> str:
    """Markdown: a line for every setting, published medians beside ours."""
    header = (
        "beta", "alpha", *COLUMNS, "blown up", "published KL", "published L", "published z-cells",
    )  # fmt: skip
    lines: list[Sequence[str]] = [header, ("---",) * len(header)]
    for beta, alpha, detach in _settings(found):
        own = _of(found, beta, alpha, detach)
        blown = sum(row["blown_up_at"] is not None for row in own)
        lines.append(
            (
                f"{beta:g}",
                f"{alpha:g}" + (", detached" if detach == "both" else ""),
                *(_median_text(own, key) for key in COLUMNS.values()),
                f"{blown} of {len(own)}",
                *_published(beta, alpha if detach == "none" else math.nan),
            )
        )
    return markdown(lines)


def _published(beta: float, alpha: float) -> tuple[str, str, str]:
    """KL, L, share of z-cells."""
    place = PUBLISHED_ALPHAS.get(alpha)
    kl, stretch = ("-", "-") if place is None else map(plain, STUDY[beta][place])
    cells = CELLS.get(beta)
    where = PUBLISHED_CELLS.get(alpha)
    return kl, stretch, "-" if cells is None or where is None else f"{cells[where]:.2f}"


def _settings(found: Rows) -> list[Setting]:
    return list(dict.fromkeys((row["beta"], row["alpha"], row["detach"]) for row in found))


def _of(found: Rows, beta: float, alpha: float, detach: str = "none") -> Rows:
    place = (beta, alpha, detach)
    return [row for row in found if (row["beta"], row["alpha"], row["detach"]) == place]


def _values(own: Rows, key: str) -> list[float]:
    """Finite and, of what is not, infinity."""
    return [math.inf if row[key] is None else row[key] for row in own]


def _median_text(own: Rows, key: str) -> str:
    seen = _values(own, key)
    middle, low, high = (nats(f(seen)) for f in (statistics.median, min, max))
    return middle if low == high else f"{middle} ({low} to {high})"


def median(found: Rows, beta: float, alpha: float, key: str, detach: str = "none") -> float:
    """Over seeds."""
    return statistics.median(_values(_of(found, beta, alpha, detach), key))


# --- in words -------------------------------------------------------------------------------------


def verdict(found: Rows) -> str:
    """One line for every claim: L falls, KL rises, MI, cells, blow-ups."""
    stretch, kl, mi = (
        _against_plain(found, key, lambda own, plain: own / plain)
        for key in ("published_bi_lipschitz", "rate_nats", "information_nats")
    )
    cells, samples = (
        _against_plain(found, key, lambda own, plain: own - plain)
        for key in ("share_of_latent_cells", "share_of_samples")
    )
    said = [
        _line("L falls with the loss", stretch, 1, "times that at alpha 0", falls=True),
        _line("The KL rises", kl, 1, "times that at alpha 0"),
        _line("The mutual information rises", mi, 1, "times that at alpha 0"),
        _line("Fewer z-cells are collapsed", cells, 0, "of all cells", falls=True),
        _line("Fewer samples are collapsed", samples, 0, "of all samples", falls=True),
    ]
    return "\n".join([*said, _blow_ups(found)])


def _against_plain(found: Rows, key: str, compare: Callable[[float, float], float]) -> Changes:
    """Of every setting with the loss: its median against that without."""
    return {
        setting: compare(median(found, beta, alpha, key, detach), median(found, beta, 0.0, key))
        for setting in _settings(found)
        for beta, alpha, detach in [setting]
        if alpha
    }


def _line(claim: str, changes: Changes, neutral: float, unit: str, *, falls: bool = False) -> str:
    """Holds in all settings, in some or in none, with the range."""
    good = {s: (v < neutral if falls else v > neutral) for s, v in changes.items()}
    low, high = (nats(f(changes.values())) for f in (min, max))
    if set(changes.values()) == {neutral}:
        return f"- {claim}: no change in any setting."
    told = f"{claim}: in {sum(good.values())} of {len(good)} settings ({low} to {high} {unit})"
    bad = [_name(setting) for setting, fine in good.items() if not fine]
    return f"- {told}" + (f"; not at {', '.join(bad)}" if 0 < len(bad) < len(good) else "") + "."


def _name(setting: Setting) -> str:
    beta, alpha, detach = setting
    return f"beta {beta:g} alpha {alpha:g}" + (" detached" if detach == "both" else "")


def _blow_ups(found: Rows) -> str:
    lost = [row for row in found if row["blown_up_at"] is not None]
    most = max(_values(found, "rate_nats"))
    return (
        f"- Latent scales that blow up: {len(lost)} of {len(found)} members; the largest KL is "
        f"{number(most, 3)} nats (published: runs of 1e14 to 1e21)."
    )


MISLEADING = """With z drawn from q and its gradient attached, the loss pulls the encoder variance
of a unit that carries nothing from eta^2 to eta^2 beta/(beta + gamma), gamma = 2 alpha, eta = 1
(`linvae.theory.latent_reconstruction`): a smaller z is easier to give back. Such a unit has a rate
without information. Two of them, the whole latent, have at alpha {alpha:g}

{rates}

of which the cut-off of {epsilon} nats calls {below} collapsed: **a cell of a model that is wholly
collapsed can count as alive**, and a share of cells that falls with alpha is no proof of use. With
z detached the variance stays eta^2.

Here KL less MI is {without} nats without the loss, {attached} with it, and {detached} with it and z
detached."""


def misleading(found: Rows) -> str:
    """The rate of units that carry nothing, from theory, and KL less MI of the rows."""
    alpha = max(row["alpha"] for row in found)
    rates = {beta: 2 * collapsed_rate(beta, alpha) for beta in _betas(found)}
    below = [f"{beta:g}" for beta, rate in rates.items() if rate < EPSILON]
    gaps = {
        setting: median(found, *setting[:2], "rate_nats", setting[2])
        - median(found, *setting[:2], "information_nats", setting[2])
        for setting in _settings(found)
    }
    return MISLEADING.format(
        alpha=alpha,
        rates="\n".join(f"- {nats(rate)} nats at beta {beta:g}," for beta, rate in rates.items()),
        below=f"beta {', '.join(below)}" if below else "none",
        epsilon=EPSILON,
        without=_range([gap for (_, a, _), gap in gaps.items() if not a]),
        attached=_range([gap for (_, a, d), gap in gaps.items() if a and d == "none"]),
        detached=_range([gap for (_, a, d), gap in gaps.items() if a and d == "both"]),
    )


def _betas(found: Rows) -> list[float]:
    return list(dict.fromkeys(row["beta"] for row in found))


def collapsed_rate(beta: float, alpha: float) -> float:
    """KL of a unit without information, nats, z from q and nothing detached."""
    loss = LatentReconstruction(2 * alpha)
    v = float(collapsed_encoder_variance(loss, beta=beta, prior_variance=1.0))
    return (v - 1 - math.log(v)) / 2


def _range(values: Sequence[float]) -> str:
    low, high = nats(min(values)), nats(max(values))
    return low if low == high else f"{low} to {high}"
