"""docs/lagging.md: the tables of `analysis/lagging.py`, what they show, and the published ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from analysis.nonlinear_thresholds import markdown

Rows = list[dict[str, Any]]

ALONE = "decoder alone"
TRUTH = "the generator itself"
COLLAPSED = 0.5  # nats of KL, below which a model is called so
PUBLISHED_TABLE = {  # submission: NLL, KL, MI; relative time
    "yahoo": {
        "vae": (328.8, 0.0, 0.0, 1.00), "annealing": (328.6, 0.0, 0.0, None),
        "beta 0.2": (333.1, 18.7, 3.4, None), "beta 0.4": (328.5, 3.8, 2.2, None),
        "beta 0.6": (328.6, 0.1, 0.1, None), "beta 0.8": (328.8, 0.0, 0.0, None),
        "aggressive": (328.0, 5.4, 3.0, 2.20), "aggressive + annealing": (326.6, 6.7, 3.2, None),
        ALONE: (328.1, None, None, None),
    },
    "yelp": {
        "vae": (358.2, 0.0, 0.0, 1.00), "annealing": (358.1, 0.0, 0.0, None),
        "beta 0.2": (360.4, 11.3, 3.3, None), "beta 0.4": (358.8, 4.0, 1.8, None),
        "beta 0.6": (358.1, 0.1, 0.1, None), "beta 0.8": (357.9, 0.0, 0.0, None),
        "aggressive": (357.0, 3.8, 2.6, 3.73), "aggressive + annealing": (355.9, 3.7, 2.3, None),
        ALONE: (357.3, None, None, None),
    },
    "omniglot": {
        "vae": (89.41, 1.5, 1.4, 1.00), "annealing": (89.20, 2.1, 1.9, None),
        "beta 0.2": (105.19, 69.1, 3.9, None), "beta 0.4": (95.89, 28.0, 3.9, None),
        "beta 0.6": (92.16, 20.4, 3.9, None), "beta 0.8": (89.27, 9.6, 3.9, None),
        "aggressive": (89.03, 2.5, 2.2, 2.19), "aggressive + annealing": (89.12, 2.5, 2.2, None),
        ALONE: (89.76, None, None, None),
    },
}  # fmt: skip

ORDER = [*PUBLISHED_TABLE["omniglot"], TRUTH]  # rows of a table

PAGE = """# Lagging inference networks: the published comparison, ours beside it

Written by `python -m analysis.lagging --page` from `analysis/lagging.json`; figures in nats per
image or sentence, means over seeds with their range, on the test part. The published columns (He
et al. 2019, submission, one run) are of the whole sets and the published networks.

- NLL by importance sampling; MI in batches of the training's size, so at most the logarithm of that
  but for noise, and in large ones; AU: units whose posterior mean has a variance above 0.01.
- Parameters and rates are those of the best validated objective at KL weight 1, as published, also
  where the remedy is a smaller weight: those rows stop early, and KL need not fall with beta.
- Time: until the last of all seeds stops, over the VAE's, on a machine with other work on it, so
  good to a third.
- Decoder alone: of sentences an LSTM language model; of images the same network at a KL weight of
  1000, which says nothing about the image but may use its latent as noise.
- The generator itself: of the synthetic corpus, what its true model has on the same sentences.

![The KL on the way, and NLL against KL in the end](lagging.png)

(`python -m figures --only lagging`.) A straight rise of the KL on its logarithmic scale is an
escape from collapse at a rate, as in linear models, where aggressive training makes it faster and
leaves the optimum where it is (`linvae.theory.dynamics`)."""


def page(document: dict[str, Any]) -> str:
    """Every table with what it shows and what it was measured on."""
    found = document["rows"]
    cases = dict.fromkeys((row["data"], row["preset"]) for row in found)
    parts = [PAGE]
    for data, preset in cases:
        note = document["notes"][f"{data} {preset}"]
        shown = [f"## {data}, {preset} preset", verdict(found, data, preset), f"{note}."]
        parts += [*filter(None, shown), table(found, data, preset)]
    return "\n\n".join(parts) + "\n"


def verdict(found: Rows, data: str, preset: str) -> str:
    """Who is collapsed, and what information costs or brings; "" without two seeds of both."""
    mine = [row for row in found if (row["data"], row["preset"]) == (data, preset)]
    vae, lagging = (
        {row["seed"]: row for row in mine if row["remedy"] == name}
        for name in ("vae", "aggressive")
    )
    seeds = sorted(set(vae) & set(lagging))
    if len(seeds) < 2:
        return ""
    pairs = [(vae[seed], lagging[seed]) for seed in seeds]
    way = _way([before["path"] for before, _ in pairs]) if _mean(pairs, 0, "kl") < COLLAPSED else ""
    return " ".join(filter(None, [_information(pairs), _price(pairs), _best(mine), way]))


Pairs = Sequence[tuple[dict[str, Any], dict[str, Any]]]  # VAE and aggressive, seed by seed


def _mean(pairs: Pairs, i: int, key: str) -> float:
    return statistics.fmean(pair[i][key] for pair in pairs)


def _information(pairs: Pairs) -> str:
    kl, mi, own_kl, own_mi = (
        _number(_mean(pairs, i, key)) for i in (0, 1) for key in ("kl", "mi_large")
    )
    state = "is collapsed" if _mean(pairs, 0, "kl") < COLLAPSED else "is not collapsed"
    return (
        f"The VAE {state}: KL {kl}, MI {mi} nats. Trained aggressively it has KL {own_kl}, MI "
        f"{own_mi}."
    )


def _price(pairs: Pairs) -> str:
    gains = [own["nll"] - before["nll"] for before, own in pairs]
    n, gain = len(gains), statistics.fmean(gains)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(gains) / n**0.5
    before, own = pairs[0]
    resolved = "" if abs(gain) > half else ", which does not tell them apart"
    return (
        f"Its NLL is {round(gain, 2) + 0.0:+.2f} nats from the VAE's (95 % interval of the mean "
        f"over {n} seeds {gain - half:+.2f} to {gain + half:+.2f}{resolved}), its time "
        f"{own['seconds'] / before['seconds']:.1f} of the VAE's (published: 2.2, 3.7 and 2.2 on "
        "Yahoo, Yelp and Omniglot)."
    )


def _best(mine: Rows) -> str:
    """The row of lowest NLL, and the decoder alone."""
    names = dict.fromkeys(row["remedy"] for row in mine if row["remedy"] != TRUTH)
    nll = {
        name: statistics.fmean(row["nll"] for row in mine if row["remedy"] == name)
        for name in names
    }
    best = min(nll, key=lambda name: nll[name])
    alone = f" ({ALONE}: {nll[ALONE]:.2f})" if ALONE in nll and best != ALONE else ""
    return f"The lowest NLL of the table is that of {best}, {nll[best]:.2f}{alone}."


def _way(paths: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Whether VAEs are leaving collapse: the slope of log KL in the second half."""
    found = [1000 * _slope([at for at in one if 2 * at[0] >= one[-1][0]]) for one in paths]
    slopes = f"{statistics.fmean(found):+.1f} ({min(found):+.1f} to {max(found):+.1f})"
    if min(found) > 0:
        says = "it rises in all seeds: they are leaving collapse, slowly"
    elif max(found) <= 0:
        says = "it falls in all seeds: nothing leads out of collapse in so many steps"
    else:
        says = "it rises in some seeds and falls in others"
    return (
        f"In the second half of the VAE's training the logarithm of its KL changes by {slopes} per "
        f"1000 steps: {says}."
    )


def _slope(path: Sequence[tuple[int, float]]) -> float:
    """Of log rate against steps, least squares."""
    steps, rates = np.array(path).T
    return float(np.polyfit(steps, np.log(np.maximum(rates, 1e-6)), 1)[0])


def table(found: Rows, data: str, preset: str) -> str:
    """Markdown: means over seeds with their range, the published ones beside them."""
    header = (
        "remedy", "NLL", "-ELBO", "KL", "MI", "MI, large batches", "AU", "time",
        "encoder steps per decoder step",
        "published NLL", "published KL", "published MI", "published time",
    )  # fmt: skip
    mine = [row for row in found if (row["data"], row["preset"]) == (data, preset)]
    base = [row["seconds"] for row in mine if row["remedy"] == "vae"]
    lines: list[Sequence[str]] = [header, ("---",) * len(header)]
    for name in sorted({row["remedy"] for row in mine}, key=ORDER.index):
        own = [row for row in mine if row["remedy"] == name]
        time = own[0]["seconds"] / base[0] if base and "seconds" in own[0] else None
        inner = [
            row["encoder_steps"] / row["decoder_steps"] for row in own if "encoder_steps" in row
        ]
        published = PUBLISHED_TABLE.get(data, {}).get(name, (None,) * 4)
        lines.append(
            (
                name,
                *(_spread([row[key] for row in own if key in row]) for key in COLUMNS),
                "-" if time is None else f"{time:.2f}",
                _spread(inner),
                *("-" if value is None else str(value) for value in published),
            )
        )  # fmt: skip
    return markdown(lines)


COLUMNS = ("nll", "nelbo", "kl", "mi", "mi_large", "active_units")


def _spread(values: Iterable[float]) -> str:
    seen = list(values)
    if len(seen) < 2:
        return _number(seen[0]) if seen else "-"
    mean, low, high = (_number(f(seen)) for f in (statistics.fmean, min, max))
    return f"{mean} ({low} to {high})"


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # 0.0: no sign of zero
