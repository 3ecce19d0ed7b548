"""What a diagnosis is and says: units, modes, one sentence, one table, one picture.

The verdicts are those of the table in `linvae.diagnosis`; each has its own advice here.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from linvae.notebook import html_table
from linvae.plots import LOOKS, QUIET, THEORY, Drawing, new_figure
from linvae.spec import VAESpec
from linvae.theory import Solution
from linvae.verdicts import RATE_TOLERANCE, REMEDY_WORDS
from linvae.wording import nats, number, plain

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ALIVE",
    "ALIVE_AS_PREDICTED",
    "BEYOND",
    "COLLAPSED_AS_PREDICTED",
    "OFF_OPTIMUM",
    "OPTIMISATION",
    "Diagnosis",
    "Evidence",
    "ModeDiagnosis",
    "UnitDiagnosis",
]

Evidence = Literal["pays", "costs", "even", "unknown"]

COLLAPSED_AS_PREDICTED = "collapsed as theory predicts"
OPTIMISATION = "collapsed below the threshold: optimisation"
ALIVE_AS_PREDICTED = "alive in both"
OFF_OPTIMUM = "alive, not at the optimum"
BEYOND = "alive beyond the linear theory"
SETTINGS = "beta, decoder variance and the scale of the data"
ALIVE = 0.01  # nats, the cutoff of active units in `linvae.metrics.observe`


@dataclass(frozen=True)
class ModeDiagnosis:
    """One mode of the data that has a unit at the linear optimum; nats without beta.

    | field                     | meaning                                             | unit   |
    |---------------------------|-----------------------------------------------------|--------|
    | mode                      | from 1, by descending variance                      | -      |
    | variance                  | theta^2                                             | data^2 |
    | predicted_nats            | information at the linear optimum                   | nats   |
    | held_nats                 | what a linear decoder reads of it off all units     | nats   |
    | tolerance_nats            | of the difference                                   | nats   |
    | missing                   | True where it is in no unit and should be           | -      |
    | critical_beta             | above it the mode collapses                         | -      |
    | critical_decoder_variance | the same, all else fixed                            | data^2 |
    | escape_time               | of plain descent from small weights, in steps times | time   |
    |                           | learning rate; NaN: not known                       |        |
    | aggressive_escape_time    | the same with the encoder at its best response      | time   |
    """

    mode: int
    variance: float
    predicted_nats: float
    held_nats: float
    tolerance_nats: float
    missing: bool
    critical_beta: float
    critical_decoder_variance: float
    escape_time: float
    aggressive_escape_time: float


@dataclass(frozen=True)
class UnitDiagnosis:
    """One unit; rates in nats without beta, less that of an idle unit.

    | field                     | meaning                                             | unit   |
    |---------------------------|-----------------------------------------------------|--------|
    | unit                      | of the encoder, from 1 (a principal axis where the  | -      |
    |                           | encoder variance is fixed)                          |        |
    | mode                      | the one that it carries, or should, from 1          | -      |
    | mode_missing              | True where no unit holds that mode                  | -      |
    | predicted_nats            | of the mode, at the linear optimum                  | nats   |
    | observed_nats             | mean over the data                                  | nats   |
    | standard_error            | of `observed_nats`                                  | nats   |
    | tolerance_nats            | t_j of the module                                   | nats   |
    | critical_beta and the     | of the mode, as in `ModeDiagnosis`                  |        |
    | three after it            |                                                     |        |
    | evidence                  | whether the code of all units "pays", "costs", is   | -      |
    |                           | "even" with the linear optimum, or "unknown"        |        |
    | verdict, advice           | words, and what to do                               |        |
    """

    unit: int
    mode: int
    mode_missing: bool
    predicted_nats: float
    observed_nats: float
    standard_error: float
    tolerance_nats: float
    critical_beta: float
    critical_decoder_variance: float
    escape_time: float
    aggressive_escape_time: float
    evidence: Evidence
    verdict: str

    @property
    def advice(self) -> str:
        """What to do about the unit."""
        return _ADVICE[self.verdict](self)


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """Units by descending observed rate, the modes, and what they say together.

    `linear`: the linear optimum. `objective_nats`: that of the network, to hold against
    `linear.objective`, and its Monte-Carlo error; NaN without a decoder. `fitting_beta`: at which
    the linear optimum has the rates of all units, where it has not at the given one; NaN: at none.
    """

    units: tuple[UnitDiagnosis, ...]
    modes: tuple[ModeDiagnosis, ...]
    spec: VAESpec
    n_samples: int
    objective_nats: float
    objective_error: float
    linear: Solution
    fitting_beta: float = math.nan

    @property
    def verdict(self) -> str:
        """Of the unit that matters most: "alive in both" where there is nothing else to say."""
        found = {unit.verdict for unit in self.units}
        order = (OPTIMISATION, BEYOND, OFF_OPTIMUM, COLLAPSED_AS_PREDICTED, ALIVE_AS_PREDICTED)
        return next(v for v in order if v in found)

    @property
    def missing_modes(self) -> tuple[ModeDiagnosis, ...]:
        """Modes that no linear decoder reads off the units, although theory keeps them alive."""
        return tuple(mode for mode in self.modes if mode.missing)

    @property
    def predicted_rate(self) -> float:
        """Sum over units, nats."""
        return math.fsum(unit.predicted_nats for unit in self.units)

    @property
    def observed_rate(self) -> float:
        """Sum over units, nats."""
        return math.fsum(unit.observed_nats for unit in self.units)

    @property
    def predicted_active_units(self) -> int:
        """Units that the linear optimum has above `ALIVE` nats."""
        return sum(unit.predicted_nats > ALIVE for unit in self.units)

    @property
    def observed_active_units(self) -> int:
        """Units of the network above `ALIVE` nats."""
        return sum(unit.observed_nats > ALIVE for unit in self.units)

    @property
    def sentence(self) -> str:
        """The verdict with its numbers and the way out."""
        counts = Counter(unit.verdict for unit in self.units)
        found = ", ".join(f"{counts[v]} {v}" for v in _ADVICE if v in counts)
        return (
            f"{self.verdict[0].upper()}{self.verdict[1:]}. Of {len(self.units)} units at beta = "
            f"{plain(self.spec.beta)}, decoder variance {plain(self.linear.decoder_variance)}: "
            f"{found}; "
            f"{nats(self.observed_rate)} nats, {self.observed_active_units} active, against "
            f"{nats(self.predicted_rate)}, {self.predicted_active_units} active, at the linear "
            f"optimum{self._objectives()}. {self._missing()}{self._settings()}{self._way_out()}."
        )

    def _way_out(self) -> str:
        """Advice for the first unit of the verdict; where theory keeps several dead, for all."""
        units = [unit for unit in self.units if unit.verdict == self.verdict]
        first = max(units, key=lambda u: u.critical_beta) if self._predicted_dead else units[0]
        words = f"Unit {first.unit}: {first.advice}"
        last = min(units, key=lambda u: u.critical_beta)
        if not self._predicted_dead or last is first or not last.critical_beta > 0:
            return words
        return f"{words}; to wake all {len(units)}, below {_threshold(last)}"

    @property
    def _predicted_dead(self) -> bool:
        return self.verdict == COLLAPSED_AS_PREDICTED

    def _settings(self) -> str:
        """Another product of beta and decoder variance that explains all rates, where one does."""
        if math.isnan(self.fitting_beta):
            return ""
        s = self.linear.decoder_variance
        return (
            f"All rates are those of beta * decoder variance = {number(self.fitting_beta * s, 3)}, "
            f"not {number(self.spec.beta * s, 3)}: was it trained with that? "
        )

    def _missing(self) -> str:
        """Which modes, where training is to blame; a curved code may hold them all the same."""
        if not self.missing_modes or self.verdict not in (OPTIMISATION, OFF_OPTIMUM):
            return ""
        modes = [
            f"{m.mode} ({nats(m.held_nats)} of {nats(m.predicted_nats)} nats, alive up to beta = "
            f"{number(m.critical_beta)})"
            for m in self.missing_modes
        ]
        return f"Missing {'mode' if len(modes) == 1 else 'modes'}: {', '.join(modes)}. "

    def _objectives(self) -> str:
        if math.isnan(self.objective_nats):
            return ""
        return (
            f", objective {number(self.objective_nats)} (error {number(self.objective_error, 2)}) "
            f"against {number(self.linear.objective)} (lower is better)"
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per unit, by descending observed rate."""
        return [
            {"rank": rank + 1} | asdict(unit) | {"advice": unit.advice}
            for rank, unit in enumerate(self.units)
        ]

    def __repr__(self) -> str:
        """The sentence; `table` and `to_rows` have the numbers."""
        return f"Diagnosis({self.sentence!r})"

    def _repr_html_(self) -> str:
        """The units as a table, in notebooks."""
        shown = ("unit", "mode", "predicted_nats", "observed_nats", "standard_error", "verdict")
        rows = [{name: row[name] for name in shown} for row in self.to_rows()]
        return html_table(self.sentence, rows)

    def table(self) -> Table:
        """The units as a table of rich."""
        from rich.table import Table

        shown = Table(title=self.verdict)
        for name in ("unit", "mode", "predicted, nats", "observed, nats", "critical beta"):
            shown.add_column(name, justify="right")
        shown.add_column("verdict")
        for u in self.units:
            seen = f"{nats(u.observed_nats)} ± {nats(u.standard_error)}"
            critical = number(u.critical_beta)
            shown.add_row(
                str(u.unit), str(u.mode), nats(u.predicted_nats), seen, critical, u.verdict
            )
        return shown

    def draw(self) -> Drawing:
        """Observed against predicted rate of every unit, and the band that agrees."""
        with new_figure(1, size=(6.4, 5.2)) as (figure, (axes,)):
            top = max(max(u.predicted_nats, u.observed_nats) for u in self.units)
            end = 1.08 * max(top, 2 * RATE_TOLERANCE[0])
            axes.plot((0, end), (0, end), color=THEORY, label="theory: observed = predicted")
            axes.axhline(ALIVE, color=QUIET, lw=0.8, ls=":", label=f"active above {ALIVE} nats")
            for verdict, (colour, marker, _) in zip(_ADVICE, LOOKS, strict=False):
                units = [u for u in self.units if u.verdict == verdict]
                if units:
                    axes.errorbar(
                        [u.predicted_nats for u in units],
                        [u.observed_nats for u in units],
                        yerr=[u.tolerance_nats for u in units],
                        color=colour, marker=marker, ls="none", lw=0.8, label=verdict,
                    )  # fmt: skip
            axes.set_xlim(-0.04 * end, end)
            axes.set_ylim(-0.04 * end, end)
            axes.set_xlabel("predicted KL of the unit, nats (linear optimum)")
            axes.set_ylabel("observed KL of the unit, nats (bars: tolerance)")
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return Drawing(figure, f"Observed against predicted KL per unit. {self.sentence}")


# --- advice -------------------------------------------------------------------------------------


def _change_price(u: UnitDiagnosis) -> str:
    if not u.critical_beta > 0:
        return "no variance is left for it at any beta: use fewer latent units"
    where = _threshold(u)
    if u.predicted_nats > 0:
        return f"its threshold, {where}, is so near that its rate is within the tolerance; go below"
    return f"to wake it go below {where}"


def _threshold(u: UnitDiagnosis) -> str:
    return (
        f"beta = {number(u.critical_beta)} or decoder variance = "
        f"{number(u.critical_decoder_variance)}"
    )


def _change_training(u: UnitDiagnosis) -> str:
    ways = f"{REMEDY_WORDS['aggressive']} or {REMEDY_WORDS['annealing']}"
    state = "is in no unit" if u.mode_missing else "is held by others in part, not by a unit alone"
    start = (
        f"mode {u.mode}, which theory keeps alive up to beta = {number(u.critical_beta)}, {state}: "
        f"train longer, or {ways}"
    )
    if math.isnan(u.escape_time):
        return start
    return (
        f"{start}; from weights of 1e-3 plain descent leaves collapse after steps * learning rate ="
        f" {number(u.escape_time, 3)}, aggressive training after "
        f"{number(u.aggressive_escape_time, 3)}"
    )


def _keep(u: UnitDiagnosis) -> str:
    return f"stays alive up to beta = {number(u.critical_beta)}"


def _settle(u: UnitDiagnosis) -> str:
    start = (
        f"holds {nats(u.observed_nats)} nats where mode {u.mode} has {nats(u.predicted_nats)} at "
        "the linear optimum"
    )
    if u.evidence == "costs" and u.observed_nats > u.predicted_nats:
        return (
            f"{start}, and its nats do not pay: train longer, or {SETTINGS} are not those of the "
            "training"
        )
    return (
        f"{start}: units that still grow or turn towards the modes (train longer), a code of "
        f"another shape, or {SETTINGS} are not those of the training"
    )


def _curved(u: UnitDiagnosis) -> str:
    known = u.evidence == "pays"
    if u.observed_nats < u.predicted_nats:
        return f"collapsed, but {'curved' if known else 'other'} units hold its nats"
    start = (
        f"holds {nats(u.observed_nats)} nats where a linear model holds {nats(u.predicted_nats)}"
    )
    if known:
        return (
            f"{start}, and they pay: curved structure, which linvae.universal_threshold bounds, if "
            f"{SETTINGS} are those of the training"
        )
    why = (
        "its objective is that of the linear optimum"
        if u.evidence == "even"
        else "cannot tell without decoder (give it)"
    )
    return f"{start}: curved structure, or a network that is not at its optimum; {why}"


_ADVICE = {  # in the order of the sentence
    ALIVE_AS_PREDICTED: _keep,
    COLLAPSED_AS_PREDICTED: _change_price,
    OPTIMISATION: _change_training,
    BEYOND: _curved,
    OFF_OPTIMUM: _settle,
}
