"""docs/latent_reconstruction.md: tables of `analysis/latent_reconstruction.py`, and verdicts."""

from __future__ import annotations

import statistics
from typing import Any

from analysis.nonlinear_thresholds import markdown

Rows = list[dict[str, Any]]

NAMES = {
    "vae": "VAE",
    "beta 0.2": "beta x 0.2",
    "lr 0.1": "LR, alpha 0.1",
    "lr 1": "LR, alpha 1",
    "lr 1, prior": "LR, alpha 1, z from the prior",
    "lr 1, detached": "LR, alpha 1, z detached, encoder x 1e-4",
    "annealing": "annealing",
    "lagging": "aggressive (lagging)",
    "lidvae": "inverse-Lipschitz decoder",
    "skip": "skip decoder",
}
COLUMNS = {  # of the table: key of the row, digits, what it is
    "active units": ("active_share", 2),
    "KL": ("kl", 2),
    "MI": ("mi", 2),
    "NLL": ("nll", 1),
    "distortion": ("distortion", 1),
    "collapsed samples": ("collapsed_share", 2),
    "stretch": ("lipschitz", 2),
    "least stretch": ("inverse_lipschitz", 3),
    "identity": ("identifiability", 2),
    "Fréchet": ("frechet_distance", 1),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "coverage": ("coverage", 2),
    "FID": ("fid", 1),
    "KID": ("kid", 4),
}
PAGE = """# Remedies against collapse on images: beta, other decoders, latent reconstruction

Written by `python -m analysis.latent_reconstruction --page` from
`analysis/latent_reconstruction.json`; means over seeds with their range, measured on images held
out, nats per image. Decoder variance 1/2, as in the authors' code; LR is the loss of Song, Kim, Lee
2025, alpha half of our gamma; its weight rises linearly, over the first half of the training of the
small networks, over all of it with the deep ones, as published.

- Active units: share of units whose posterior mean has a variance above 0.01; in brackets what
  linear theory predicts (`linvae.theory.vae`, `linvae.theory.mixed_units`).
- NLL by importance sampling; MI by the aggregate posterior, at most the KL. A rate without
  information is possible: with z drawn from q the loss shrinks the variance of idle units.
- Collapsed samples: share of images with a KL below 0.1 nats. Stretch: largest and least local
  stretch of the decoder over prior draws, data units per latent unit. Identity: 1 less the error of
  decode and encode, over the prior's variance.
- Fréchet distance, precision, recall and coverage of samples are in the features of a small
  classifier trained on the set itself (an autoencoder where there are no labels): **not FID**, and
  comparable within a table only. A collapsed model has precision 1 and recall 0. FID and KID stand
  where a file of Inception was given.
- Members whose latent scale blew up on the way are counted, and left out of the means.
- NLL of models with many units that carry nothing at a rate is too high: their proposals miss the
  prior there, and nearly all images have too few effective draws.
"""


def page(document: dict[str, Any]) -> str:
    """Every table with what it shows and what it was measured on."""
    found, predicted = document["rows"], document["predictions"]
    parts = [PAGE]
    for data, preset in dict.fromkeys((row["data"], row["preset"]) for row in found):
        mine = [row for row in found if (row["data"], row["preset"]) == (data, preset)]
        theory = [p for p in predicted if (p["data"], p["preset"]) == (data, preset)]
        parts.append(f"## {data}, {preset} preset\n\n{document['notes'][f'{data} {preset}']}.\n")
        for beta in sorted({row["beta"] for row in mine}):
            rows = [row for row in mine if row["beta"] == beta]
            parts.append(f"### beta = {beta:g}\n\n{verdict(rows)}\n\n{table(rows, theory)}\n")
    return "\n".join(parts)


def table(rows: Rows, theory: Rows) -> str:
    """One row per remedy, at one beta."""
    shown = {k: v for k, v in COLUMNS.items() if any(row.get(v[0]) is not None for row in rows)}
    lines = [["remedy", *shown], ["---"] * (1 + len(shown))]
    for remedy in dict.fromkeys(row["remedy"] for row in rows):
        mine = [row for row in rows if row["remedy"] == remedy]
        kept = whole(mine)
        cells = [spread([row.get(key) for row in kept], digits) for key, digits in shown.values()]
        cells[0] += predicted_share(theory, remedy, mine[0]["beta"])
        blown = len(mine) - len(kept)
        name = NAMES[remedy] + (f" ({blown} of {len(mine)} blew up)" if blown else "")
        lines.append([name, *cells])
    return markdown(lines)


def whole(rows: Rows) -> Rows:
    """Those whose latent scale did not blow up."""
    return [row for row in rows if row["blown_up_nats"] is None]


def predicted_share(theory: Rows, remedy: str, beta: float) -> str:
    """ " [0.25]", or "" where nothing is predicted."""
    found = [p for p in theory if (p["remedy"], p["beta"]) == (remedy, beta)]
    return f" [{found[0]['active_share']:.2f}]" if found else ""


def spread(values: list[float | None], digits: int) -> str:
    """Mean (least to most), "-" without values."""
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    low, high = (f"{v:.{digits}f}" for v in (min(known), max(known)))
    mean = f"{statistics.fmean(known):.{digits}f}"
    return mean if low == high else f"{mean} ({low} to {high})"


def verdict(rows: Rows) -> str:
    """What the loss does to units, information and likelihood, seed by seed; who is best."""
    by = {
        (remedy, row["seed"]): row
        for remedy in ("vae", "lr 1")
        for row in whole(rows)
        if row["remedy"] == remedy
    }
    seeds = sorted({seed for _, seed in by})
    pairs = [(by["vae", s], by["lr 1", s]) for s in seeds if {("vae", s), ("lr 1", s)} <= set(by)]
    if not pairs:
        return ""

    def mean(i: int, key: str) -> float:
        return statistics.fmean(pair[i][key] for pair in pairs)

    def gap(key: str) -> str:
        gaps = [own[key] - plain[key] for plain, own in pairs]
        return f"{statistics.fmean(gaps):+.2f} ({min(gaps):+.2f} to {max(gaps):+.2f})"

    return (
        f"{mean(0, 'active_share'):.2f} of the units of the VAE are active, "
        f"{mean(1, 'active_share'):.2f} with LR at alpha 1. The loss changes the information by "
        f"{gap('mi')} nats, the distortion by {gap('distortion')} and the NLL by {gap('nll')}. "
        f"{best(rows)}"
    )


def best(rows: Rows) -> str:
    """The row of lowest NLL."""
    names = dict.fromkeys(row["remedy"] for row in rows)
    every = {name: [row for row in rows if row["remedy"] == name] for name in names}
    nll = {
        name: statistics.fmean(row["nll"] for row in mine)
        for name, mine in every.items()
        if whole(mine) == mine and all(row["nll"] is not None for row in mine)
    }
    lowest = min(nll, key=lambda name: nll[name])
    return f"The lowest NLL is that of {NAMES[lowest]}, {nll[lowest]:.1f}."
