"""What a comparison means: one verdict per claim of the theory, in plain words, with its reason.

Everything is read from the rows and the settings; nothing is computed beyond means and differences.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from linvae.comparison import LINEAR_TOLERANCE, Comparison, Row, Threshold, without_remedy
from linvae.wording import Spread, level_text, number, plain

__all__ = ["Cause", "Level", "Verdict", "by_level", "cause", "threshold_range", "verdicts"]

LINE_TOLERANCE = 0.01  # share by which a line through theory's own points may miss the threshold
SLOPE_TOLERANCE = 0.15  # a fit slope further off than this share comes from under-training
SETTLED = 0.01  # change of log beta above which a control run, or twice its steps, says "time"
DRIFT = 0.2  # relative change of K in the second half of a branch above which it still drifts
IDLE = 0.005  # nats, that noise alone may hold
SKEWNESS = 0.5  # of the leading component, above which a first-order transition is to be expected
NEAR_THRESHOLD = 0.1  # closer to the threshold than this share, training slows down critically
RATE_TOLERANCE = (0.1, 0.05)  # nats, share of the predicted rate: the larger of the two
FEW_SAMPLES = 5.0  # effective samples of a universal threshold, below which it is memory
COUNT_SHARE = 0.9  # of (beta, seed) points whose count of active units is within 1

Level = Literal["agrees", "differs", "note"]
CauseName = Literal["bound", "regression", "features", "time", "skewness", "line", "unknown"]


REMEDY_WORDS = {
    "aggressive": "aggressive training of the encoder",
    "annealing": "KL annealing",
    "aggressive-annealing": "aggressive training with KL annealing",
    "cyclical": "cyclical KL annealing",
    "free-bits": "free bits per unit",
    "total-free-bits": "free bits in total",
    "latent-reconstruction": "the latent reconstruction loss",
    "inverse-lipschitz": "a decoder that keeps latents apart",
    "latent-skip": "a decoder whose every layer reads z",
}
_SAME = (
    "theory: the optimum, and with it the threshold, stays where it is; only the way there is "
    "shorter, so a gain is a failure of the plain training that is mended"
)
_FLOOR = "theory: below the floor a rate has no price, so no beta collapses what it covers"
REMEDY_THEORY = dict.fromkeys(
    ("aggressive", "annealing", "aggressive-annealing", "cyclical"), _SAME
)
REMEDY_THEORY |= dict.fromkeys(("free-bits", "total-free-bits"), _FLOOR)
REMEDY_THEORY |= {
    "inverse-lipschitz": (
        "theory: a unit kept awake by the bound has a rate at every beta, which falls as 1/beta^2, "
        "and costs distortion"
    ),
    "latent-skip": (
        "theory: z fed to every layer of a linear decoder is U z again, so the optimum stays; a "
        "gain is a way there that is shorter"
    ),
}


BLOW_UP_ADVICE = (
    "no optimum looks like this: detach z (--lr-detach both), give the encoder a small share of "
    "the loss (--lr-encoder-share 1e-4) or lower --lr-weight; without that loss, lower the "
    "learning rate"
)


@dataclass(frozen=True)
class Verdict:
    """One claim of the theory held against the observation.

    level: "agrees", "differs", or "note" where the theory makes no binding claim.
    """

    level: Level
    claim: str
    text: str
    why: str = ""


@dataclass(frozen=True)
class Cause:
    """Why a threshold is not the linear one: a name, the number that says so, and a sentence.

    | name       | number                                                              | where |
    |------------|---------------------------------------------------------------------|-------|
    | regression | residual threshold of the collapsed decoder / linear threshold      | below |
    | features   | share of the residual threshold that the collapsed network can use  | below |
    | time       | twice the steps / once, or the share of runs that still drift       | both  |
    | skewness   | of the leading component                                            | above |
    | line       | slope of the fit                                                    | both  |
    | bound      | proven universal threshold                                          | above |
    | unknown    | observed / predicted: nothing recorded explains it                  | both  |
    """

    name: CauseName
    number: float
    text: str


def verdicts(comparison: Comparison) -> list[Verdict]:
    """Thresholds by level and network, their bounds, active units, the rate of linear models."""
    found = [_threshold_verdict(comparison, t) for t in by_level(comparison)]
    found += _bounds_verdict(comparison)
    found += [v for a in comparison.architectures for v in _count_verdict(comparison, a)]
    found += [v for a in comparison.architectures for v in _remedy_verdict(comparison, a)]
    found += [v for a in comparison.architectures for v in _blow_up_verdict(comparison, a)]
    return [*found, *_rate_verdict(comparison)]


def by_level(comparison: Comparison) -> list[Threshold]:
    """Thresholds of all architectures, level by level."""
    return sorted(comparison.thresholds(), key=lambda t: t.level)


def _threshold_verdict(comparison: Comparison, row: Threshold) -> Verdict:
    claim = f"threshold{level_text(comparison, row.level, ' of ')}, {row.architecture}"
    if row.predicted in (0, math.inf):
        return _certain_verdict(comparison, row, claim)
    if math.isnan(row.predicted):
        seen = f"observed {threshold_range(row)}" if row.seeds else "none was estimated"
        text = f"linear theory has no threshold here; {seen}."
        return Verdict("note", claim, text)
    if not row.seeds:
        why = _missed_set_points(comparison, row) or "no control run gave a usable fit"
        text = f"{_predicts(comparison, row)}; no threshold could be estimated from the training."
        return Verdict("differs" if row.architecture == "linear" else "note", claim, text, why)
    judge = _linear_verdict if row.architecture == "linear" else _nonlinear_verdict
    return judge(comparison, row, claim)


def _bounds_verdict(comparison: Comparison) -> Iterator[Verdict]:
    """Linear threshold <= observed <= universal threshold, side by side."""
    bounds = comparison.settings.get("bounds_of_any_network")
    if not bounds:
        return
    claim = f"bounds of {bounds['scope']}"
    first = [t for t in comparison.thresholds() if t.seeds and t.level == 1]
    seen = {t.architecture: t.observed for t in first}
    observed = ", ".join(f"{name} {number(value)}" for name, value in seen.items()) or "none"
    linear, found, proven = (float(bounds[key]) for key in ("linear", "found", "proven"))
    text = (
        f"linear {number(linear)}, observed {observed}, universal between {number(found)} (found) "
        f"and {number(proven)} (proven): above it {_bounded(comparison, bounds['scope'])} by "
        "leaving collapse on these samples."
    )
    if not seen:
        yield Verdict("note", claim, text, "no threshold was observed")
        return
    mixes = bounds["scope"] != "any network"
    covered = [name for name in seen if name == "linear" or not mixes]
    impossible = [name for name in covered if seen[name] > proven]
    if impossible:
        why = (
            f"{', '.join(impossible)} above a proven bound: the run has not settled, or the "
            "straight line misses a curved law"
        )
        yield Verdict("differs", claim, text, why)
        return
    below = [t for t in first if t.architecture in covered and t.ratio < 1 - LINEAR_TOLERANCE]
    reasons = [f"{t.architecture} below: {_reason(comparison, t)}" for t in below]
    yield Verdict("note" if below else "agrees", claim, text, "; ".join([*reasons, _gap(bounds)]))


def _bounded(comparison: Comparison, scope: str) -> str:
    """Who cannot gain by leaving collapse."""
    who = (
        "no network of any architecture gains"
        if scope == "any network"
        else "no decoder that adds a function of z to the regression on the condition, held fixed, "
        "gains (one that trains it too, or mixes both, is not bound)"
    )
    deep = len(comparison.levels) > 1
    return f"(of level 1, the betas in proportion) {who}" if deep else who


def _gap(bounds: Mapping[str, Any]) -> str:
    """What the distance between linear and universal threshold rests on."""
    samples, held_out = float(bounds["effective_samples"]), float(bounds["held_out"])
    error = float(bounds["held_out_standard_error"])
    if held_out - 2 * error > float(bounds["linear"]):
        meaning = "a gap that new samples confirm"
    elif samples < FEW_SAMPLES:
        meaning = "the gap is the memory of single samples"
    else:
        meaning = "the gap is within sampling noise"
    below = held_out < float(bounds["linear"])
    known = "; the linear one, on all samples, knows those it is evaluated on" if below else ""
    return (
        f"the universal value rests on {number(samples, 2)} effective samples; found on one half "
        f"and evaluated on the other it is {number(held_out, 3)} (standard error "
        f"{number(error, 2)}{known}): {meaning}"
    )


def _certain_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    """A level that theory says is always active (predicted inf) or never (0)."""
    always = row.predicted == math.inf
    what = (
        "never collapses: it is active on encoder noise alone, whatever the data"
        if always
        else "is never active: it is collapsed at every beta, whatever the data"
    )
    counts = [r.observed for r in _sweep_rows(comparison, "active_units", row)]
    kept = sum((count >= 1) is always for count in counts)
    start = f"linear theory predicts that{level_text(comparison, row.level, ' ')} {what}"
    if not counts:
        return Verdict("note", claim, f"{start}; not observed.")
    state = "active" if always else "collapsed"
    text = f"{start}; observed {state} in {kept} of {len(counts)} runs of the sweep."
    if kept == len(counts):
        return Verdict("agrees", claim, text)
    why = "near a collapse of the level below, the level learns too slowly; try more steps"
    return Verdict("differs" if row.architecture == "linear" else "note", claim, text, why)


def _linear_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    text = (
        f"{_predicts(comparison, row)}; observed {threshold_range(row)}, linear, {_seeds(row)}, "
        f"{row.ratio:.3f} of the prediction.{_evidence(comparison, row)}"
    )
    agrees = abs(row.ratio - 1) <= LINEAR_TOLERANCE
    why = _missed_set_points(comparison, row) or _bends(row) or _slope_off(row)
    if not (agrees or why):
        why = "no sign of under-training; repeat with more seeds and twice the steps"
    return Verdict("agrees" if agrees else "differs", claim, text, why)


def _nonlinear_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    text = (
        f"locator, empirical: the {row.architecture} network collapses"
        f"{level_text(comparison, row.level, ' on ')} near beta = {threshold_range(row)}, "
        f"{_seeds(row)}, {row.ratio:.3f} of the linear prediction {number(row.predicted)}."
        f"{_evidence(comparison, row)}"
    )
    return Verdict("note", claim, text, _nonlinear_reason(comparison, row))


def _evidence(comparison: Comparison, row: Threshold) -> str:
    """What is certain about a threshold, and what branches and the collapsed network say."""
    parts = (_certified(comparison, row), _bracketed(comparison, row), _energies(comparison, row))
    return "".join(f" {part}" for part in parts if part)


def _certified(comparison: Comparison, row: Threshold) -> str:
    """Certificate, and local threshold where there is one; "" without a certificate."""
    certified = _seen(comparison, "certified_beta", row)
    local = _seen(comparison, "local_beta", row)
    if not certified:
        return ""
    bound, error = max(certified), max(_seen(comparison, "certified_error", row))
    kinds = [e.kind for e in comparison.estimates(row.architecture, row.level)
             if e.method == "certificate"]  # fmt: skip
    certain = "certain" in kinds
    against = (
        "every collapsed network (certain)"
        if certain
        else "the collapsed network of the same training (empirical)"
    )
    too_low = ", so the line ends too low" if certain and bound > row.observed else ""
    unstable = f"; the collapsed one is unstable below {Spread.of(local).text()} (local)"
    return (
        f"A trained network beats {against} up to beta = {number(bound)}{too_low}, Monte-Carlo "
        f"error {number(error, 2)}{unstable if local else ''}."
    )


def _bracketed(comparison: Comparison, row: Threshold) -> str:
    """Where the two branches end; "" without them."""
    lows = _seen(comparison, "bracket_low", row)
    highs = _seen(comparison, "bracket_high", row)
    if not highs:
        return ""
    low = f"leave collapse up to beta = {number(min(lows))}" if lows else "never leave collapse"
    if 0 < len(lows) < len(highs):
        low += f" in {len(lows)} of {len(highs)} seeds"
    high = (
        f"are dead from {number(max(highs))} on"
        if max(highs) < math.inf
        else "are still alive at the highest beta tried"
    )
    drifting = "; still drifting" if _branches_drift(comparison, row) else ""
    return (
        f"Networks that started collapsed {low}, those that started alive {high} "
        f"(empirical{drifting}{_too_short(comparison, row, max(highs))})."
    )


def _too_short(comparison: Comparison, row: Threshold, high: float) -> str:
    """What it means that the alive branch dies where a network is certain to be better."""
    kinds = {e.kind for e in comparison.estimates(row.architecture, row.level)
             if e.method == "certificate"}  # fmt: skip
    certified = max(_seen(comparison, "certified_beta", row), default=-math.inf)
    if kinds != {"certain"} or not high < certified:
        return ""
    return f"; dead below the certified {number(certified)}: the branch was too short"


def _energies(comparison: Comparison, row: Threshold) -> str:
    """Up to where alive is better, and how many transients survive; "" without free energies."""
    better, transient = _by_free_energy(comparison, row)
    if not better and not transient:
        return ""
    parts = []
    if better:
        parts.append(
            f"alive beats collapse of the same training up to beta = {number(max(better))}"
        )
    if transient:
        least, most = (number(end(transient)) for end in (min, max))
        where = f"at {least}" if least == most else f"from {least} to {most}"
        parts.append(f"{len(transient)} runs {where} are alive and worse than it: transients")
    return f"Free energy: {'; '.join(parts)}."


def _by_free_energy(comparison: Comparison, row: Threshold) -> tuple[list[float], list[float]]:
    """Betas of networks that are alive and better than collapse, and alive and worse.

    By more than two Monte-Carlo errors either way.
    """
    better: list[float] = []
    transient: list[float] = []
    for name in ("alive", "collapsed"):
        where = {"architecture": row.architecture, "level": row.level}
        energies = comparison.select(f"{name}_branch_free_energy", **where)
        errors = comparison.select(f"{name}_branch_free_energy_error", **where)
        for free, error in zip(energies, errors, strict=True):
            if free.information_nats < IDLE or abs(free.observed) <= 2 * error.observed:
                continue
            (better if free.observed < 0 else transient).append(free.beta)
    return better, transient


def _branches_drift(comparison: Comparison, row: Threshold) -> bool:
    """Whether a network next to the bracket still moves: a longer run would move the bracket.

    On the collapsed branch one that grows, on the alive branch one that falls.
    """
    for name, direction in (("alive", -1), ("collapsed", 1)):
        rows = comparison.select(
            f"{name}_branch_nats", architecture=row.architecture, level=row.level
        )
        before = {(r.beta, r.seed): r.observed for r in rows if r.index == 2}
        for r in (r for r in rows if r.index == 4):
            earlier = before[r.beta, r.seed]
            moved = direction * (r.observed - earlier)
            if max(r.observed, earlier) >= IDLE and moved > DRIFT * earlier:
                return True
    return False


def _nonlinear_reason(comparison: Comparison, row: Threshold) -> str:
    """Why a nonlinear network may differ; "" where it does not."""
    missed = _missed_set_points(comparison, row)
    if missed or abs(row.ratio - 1) <= LINEAR_TOLERANCE:
        return missed
    return _reason(comparison, row)


def _reason(comparison: Comparison, row: Threshold) -> str:
    found = cause(comparison, row)
    return found.text if found else ""


def cause(comparison: Comparison, row: Threshold) -> Cause | None:
    """Why the observed threshold is outside `LINEAR_TOLERANCE` of the prediction, in one sentence.

    None where it is inside, or nothing was observed. What pulls most comes first.
    """
    if not row.seeds or abs(row.ratio - 1) <= LINEAR_TOLERANCE:
        return None
    if row.ratio > 1:
        return _cause_above(comparison, row)
    found = sorted(_causes_below(comparison, row), key=lambda c: c.number)
    found += [*_line(row), *_time(comparison, row)]
    return _joined(found) if found else _guess_below(comparison, row)


def _joined(found: list[Cause]) -> Cause:
    """The first cause, and what all of them say."""
    return Cause(found[0].name, found[0].number, "; ".join(c.text for c in found))


def _causes_below(comparison: Comparison, row: Threshold) -> Iterator[Cause]:
    """What the collapsed network itself says: its regression; its features, up to their own end.

    A network observed above the local threshold of the collapsed one has got features since.
    """
    residual = Spread.of(_seen(comparison, "residual_beta", row)).mean
    local = Spread.of(_seen(comparison, "local_beta", row)).mean
    if residual / row.predicted < 1 - LINEAR_TOLERANCE:
        share = residual / row.predicted
        yield Cause(
            "regression",
            share,
            "better regression of the target: what the collapsed network leaves of it has a linear "
            f"threshold of {number(residual)}, {share:.3f} of the prediction",
        )
    reached = row.observed <= (1 + LINEAR_TOLERANCE) * local
    if local / residual < 1 - LINEAR_TOLERANCE and reached:
        share = local / residual
        yield Cause(
            "features",
            share,
            f"features: the hidden layers of the collapsed network can use {share:.3f} of what is "
            f"there to learn, so that it is stable from beta = {number(local)} on",
        )


def _time(comparison: Comparison, row: Threshold) -> list[Cause]:
    """What says that the runs were too short: twice the steps, drifting runs."""
    doubled = Spread.of(_seen(comparison, "doubled_steps_beta", row)).mean / row.observed
    if abs(doubled - 1) > SETTLED:
        return [Cause("time", doubled, f"training time: twice the steps give {doubled:.3f} of it")]
    drifts = _seen(comparison, "control_drift", row)
    moving = sum(abs(d) > SETTLED for d in drifts)
    if not moving or abs(doubled - 1) <= SETTLED:
        return []
    text = (
        f"training time: log beta of {moving} of {len(drifts)} control runs still drifts, by up to "
        f"{max(abs(d) for d in drifts):.1%} over the last sixth"
    )
    return [Cause("time", moving / len(drifts), text)]


def _guess_below(comparison: Comparison, row: Threshold) -> Cause:
    """Where nothing that was recorded explains it."""
    if comparison.settings.get("model") == "cvae":
        text = "the network regresses the target on the condition better than the linear theory"
    else:
        text = "the encoder's features and the training time limit what a nonlinear unit picks up"
    return Cause("unknown", row.ratio, text)


def _cause_above(comparison: Comparison, row: Threshold) -> Cause:
    """A bound that is broken, transients, skewness, a line that bends, drift; or nothing known."""
    bounds = comparison.settings.get("bounds_of_any_network") or {}
    proven = float(bounds.get("proven", math.inf)) if row.level == 1 else math.inf
    if bounds.get("scope") == "any network" and row.observed > proven:
        text = f"above {number(proven)}, which no network can pass: not settled, or a bug"
        return Cause("bound", proven, text)
    better, transient = _by_free_energy(comparison, row)
    above = [beta for beta in transient if beta > row.predicted]
    if above and not any(beta > row.predicted for beta in better):
        text = (
            f"training time: {len(above)} networks alive above the prediction are worse than "
            "collapse, none is better: transients"
        )
        return Cause("time", row.ratio, text)
    skewness = comparison.settings.get("leading_skewness")
    if skewness is not None and abs(skewness) > SKEWNESS:
        return Cause("skewness", skewness, _skewed(comparison, row, skewness))
    found = [*_line(row), *_time(comparison, row)]
    text = "no skewness, no bend of the line and no drift that was recorded explains it"
    return _joined(found) if found else Cause("unknown", row.ratio, text)


def _line(row: Threshold) -> list[Cause]:
    """A slope that is not that of the leading component alone."""
    if not abs(row.slope / row.predicted_slope - 1) > SLOPE_TOLERANCE:
        return []
    text = (
        f"a nonlinear unit codes a curve, other components with the leading one, so its line "
        f"({row.slope:.2f} per nat, linear theory {row.predicted_slope:.2f}) bends and its end at "
        "information 0 is less certain"
    )
    return [Cause("line", row.slope, text)]


def _skewed(comparison: Comparison, row: Threshold, skewness: float) -> str:
    text = (
        f"skewed leading component ({skewness:.2f}): a nonlinear network can stay alive above "
        "the linear threshold (first-order transition)"
    )
    shift = comparison.settings.get("skewness_shift")
    if row.level == 1 and shift is not None and math.isfinite(shift):
        text += f", by {shift:+.1%} by the law of small skewness for this component alone"
    if comparison.settings.get("model") == "cvae":
        text += ", and so can one where the residual's spread varies with the condition"
    certified = max(_seen(comparison, "certified_beta", row), default=math.nan)
    if not certified > row.predicted:
        return text
    return f"{text}, and one beats collapse at {certified / row.predicted:.3f} of it"


def _seen(comparison: Comparison, quantity: str, row: Threshold) -> list[float]:
    """Observed values of one architecture and level that are numbers, or infinite."""
    rows = comparison.select(quantity, architecture=row.architecture, level=row.level)
    return [r.observed for r in rows if not math.isnan(r.observed)]


def _missed_set_points(comparison: Comparison, row: Threshold) -> str:
    """How many control runs of a level did not hold their information; "" if all did."""
    runs = comparison.select(
        "factor_at_information", architecture=row.architecture, level=row.level
    )
    missed = sum(math.isnan(run.observed) for run in runs)
    if not missed:
        return ""
    return f"{missed} of {len(runs)} control runs did not reach their set-point; try more steps"


def _bends(row: Threshold) -> str:
    """Whether theory itself says that a line misses the threshold of this level; "" if not."""
    gap = row.predicted_fit / row.predicted - 1
    if not abs(gap) > LINE_TOLERANCE:
        return ""
    return (
        "another level collapses at an information between the set-points, where the law bends: a "
        f"line through theory's own points ends {gap:+.1%} from the threshold; use set-points "
        "closer to 0"
    )


def _slope_off(row: Threshold) -> str:
    """What a fit slope away from that of the linear theory means; "" if it is close."""
    if not abs(row.slope / row.predicted_slope - 1) > SLOPE_TOLERANCE:
        return ""
    return (
        f"the fit slope {row.slope:.2f} per nat is not the {row.predicted_slope:.2f} of the linear "
        "theory, a sign of under-training; try more steps"
    )


def _count_verdict(comparison: Comparison, architecture: str) -> Iterator[Verdict]:
    """Share of runs whose number of active units is within 1 of the predicted one."""
    rows = [
        row
        for row in comparison.select("active_units", architecture=architecture, index=0)
        if math.isfinite(row.predicted) and math.isfinite(row.observed)
    ]
    if not rows:
        return
    gaps = [row.observed - row.predicted for row in rows]
    within = sum(abs(gap) <= 1 for gap in gaps)
    agrees = within >= COUNT_SHARE * len(rows)
    level: Level = "agrees" if agrees else "differs" if architecture == "linear" else "note"
    text = (
        f"the number of active units of the {architecture} network is within 1 of theory in "
        f"{within} of {len(rows)} runs of the sweep ({within / len(rows):.0%})."
    )
    cutoff = comparison.settings.get("active_units_threshold", 0.01)
    why = "" if agrees else _lean(gaps, cutoff)
    yield Verdict(level, f"active units, {architecture}", text, why)


def _remedy_verdict(comparison: Comparison, name: str) -> Iterator[Verdict]:
    """Units, nats and price of a sweep with a remedy beside those of the plain one.

    Units that carry data are those whose posterior mean varies: a latent reconstruction loss gives
    idle units a rate too.
    """
    architecture, remedy = without_remedy(name)
    if not remedy:
        return
    units, nats, distortion = (
        [_mean_over_sweep(comparison, quantity, a) for a in (name, architecture)]
        for quantity in ("active_units", "rate_nats", "distortion_nats")
    )
    more = distortion[0] - distortion[1]
    price = "" if math.isnan(more) else f"; the distortion differs by {number(more, 3)} nats"
    text = (
        f"{REMEDY_WORDS.get(remedy, remedy)}: {number(units[0], 3)} active units on average over "
        f"the sweep, {number(units[1], 3)} without; {number(nats[0], 3)} nats, "
        f"{number(nats[1], 3)} without{price}."
    )
    why = _above_the_optimum(comparison, name, nats[0]) or _remedy_theory(comparison, remedy)
    yield Verdict("note", f"{remedy}, {architecture}", text, why)


def _remedy_theory(comparison: Comparison, remedy: str) -> str:
    """What theory says of a remedy, or ""."""
    if remedy == "latent-reconstruction":
        return _reconstruction_theory(comparison.settings.get("latent_reconstruction") or {})
    return REMEDY_THEORY.get(remedy, "")


def _reconstruction_theory(loss: Mapping[str, Any]) -> str:
    """What theory says of this routing of the loss (`linvae.theory.latent_reconstruction`)."""
    source, detach = loss.get("source", "posterior"), loss.get("detach", "none")
    if source in ("mean", "posterior-to-mean"):
        moved = "lowers" if detach in ("none", "input") else "does not move"
        return (
            f"theory: with this target the loss {moved} the thresholds of the collapsed point: a "
            "collapsed encoder has nothing to give back"
        )
    if (detach != "none" and source == "posterior") or loss.get("encoder_share", 1.0) != 1:
        return (
            "theory: this routing of the gradient minimises nothing; it raises the thresholds of "
            "the collapsed point, less than the whole gradient does"
        )
    return (
        "theory: a unit copies z through a second mode, of little variance, at little cost; where "
        "the data have directions without variance no threshold moves at the optimum, and what is "
        "gained beyond it training has not undone; an active unit need not carry anything"
    )


def _blow_up_verdict(comparison: Comparison, name: str) -> Iterator[Verdict]:
    """Runs of a sweep whose latent scale blew up, and the way out."""
    rows = comparison.select("blown_up", architecture=name)
    blown = [row for row in rows if row.observed > 0]
    if not blown:
        return
    text = (
        f"the latent scale of {len(blown)} of {len(rows)} runs of the {name} network blew up on "
        "the way: their rate cost more than ten times what collapse does."
    )
    yield Verdict("differs", f"latent scale, {name}", text, BLOW_UP_ADVICE)


def _above_the_optimum(comparison: Comparison, name: str, nats: float) -> str:
    """Why a linear sweep holds more than its optimum, which the remedy leaves as it is; or ""."""
    architecture, remedy = without_remedy(name)
    optimal = _mean_over_sweep(comparison, "rate_nats", name, "predicted")
    most = optimal + max(RATE_TOLERANCE[0], RATE_TOLERANCE[1] * optimal)
    if architecture != "linear" or REMEDY_THEORY.get(remedy) != _SAME or not nats > most:
        return ""
    reason = (
        _rate_lean(nats - optimal)
        if remedy == "aggressive"
        else "what is above was held by smaller betas on the way and is not undone yet; try more "
        "steps"
    )
    return (
        f"the optimum has {number(optimal, 3)} nats on average, with the remedy or without: "
        f"{reason}"
    )


def _mean_over_sweep(
    comparison: Comparison, quantity: str, architecture: str, column: str = "observed"
) -> float:
    """Mean over levels summed, betas and seeds of what a sweep observed, or was predicted."""
    rows = comparison.select(quantity, architecture=architecture, index=0)
    seen = [row for row in rows if math.isfinite(row.observed)]
    runs = {(row.beta, row.seed) for row in seen}
    return sum(getattr(row, column) for row in seen) / len(runs) if runs else math.nan


def _lean(gaps: Sequence[float], cutoff: float) -> str:
    """Which way, and what it says; `cutoff`: variance of the mean above which a unit is active."""
    if statistics.fmean(gaps) > 0:
        return (
            "more units than predicted: the posterior means of units that should be idle still "
            f"have a variance above {cutoff:g}, so they have not settled; try more steps"
        )
    return "fewer units than predicted: weak modes are still being learned; try more steps"


def _rate_lean(gap: float) -> str:
    if gap > 0:
        return (
            "more nats than predicted: units still share modes, for the axes of the latent turn "
            "slowly, or idle units carry noise; try more steps"
        )
    return "fewer nats than predicted: weak modes are still being learned; try more steps"


def _rate_verdict(comparison: Comparison) -> Iterator[Verdict]:
    """Largest difference of the linear rate, mean over seeds, away from the threshold."""
    gaps = []
    for level in comparison.levels:
        edge = comparison.critical_beta(level)
        for beta, rows in comparison.sweep("rate_nats", "linear", level).items():
            seen, predicted = Spread.of(r.observed for r in rows).mean, rows[0].predicted
            near = edge > 0 and abs(beta / edge - 1) <= NEAR_THRESHOLD
            if not near and math.isfinite(seen) and math.isfinite(predicted):
                gaps.append((abs(seen - predicted), seen, predicted, beta, level))
    if not gaps:
        return
    gap, seen, predicted, beta, level = max(gaps)
    nats, share = RATE_TOLERANCE
    agrees = all(g[0] <= max(nats, share * g[2]) for g in gaps)
    text = (
        f"away from the threshold the rate of the linear network is at most {number(gap, 2)} nats "
        f"from theory at {len(gaps)} betas; worst{level_text(comparison, level, ' of ')} at "
        f"beta = {plain(beta, 4)}: {number(seen, 3)} observed, {number(predicted, 3)} predicted."
    )
    why = "" if agrees else _rate_lean(seen - predicted)
    yield Verdict("agrees" if agrees else "differs", "rate, linear", text, why)


def _sweep_rows(comparison: Comparison, quantity: str, row: Threshold) -> list[Row]:
    """Rows of the sweep with a finite observation."""
    rows = comparison.select(quantity, architecture=row.architecture, level=row.level, index=0)
    return [r for r in rows if math.isfinite(r.observed)]


def _predicts(comparison: Comparison, row: Threshold) -> str:
    settings = comparison.settings
    variance = settings.get("decoder_variance")
    variance = plain(variance) if isinstance(variance, (int, float)) else str(variance)
    total = "collapse" if level_text(comparison, row.level, " of ") else "total collapse"
    return (
        f"linear theory predicts {total}{level_text(comparison, row.level, ' of ')} of "
        f"{settings.get('dataset', 'the data')} at beta = {number(row.predicted)} "
        f"(decoder variance {variance})"
    )


def threshold_range(row: Threshold) -> str:
    """Observed threshold: mean and range of the seeds."""
    return Spread(row.observed, row.low, row.high, row.seeds).text() if row.seeds else "-"


def _seeds(row: Threshold) -> str:
    return f"{row.seeds} seed" + "s" * (row.seeds != 1)
