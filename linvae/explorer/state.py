"""What the controls of the explorer say: their values, their ranges, and the spec that they make.

| field                                | meaning                                     | unit      |
|--------------------------------------|---------------------------------------------|-----------|
| beta, beta_2                         | weight of the KL of each level              | -         |
| decoder_variance                     | variance s of p(y|z_1)                      | data^2    |
| prior_variance, prior_variance_2     | variance of p(z_1|z_2) or p(z_1); of p(z_2) | latent^2  |
| encoder, encoder_2                   | encoder variance, "learned" or "fixed"      |           |
| encoder_variance, encoder_variance_2 | its value where it is fixed                 | latent^2  |
| latent_dim, latent_dim_2             | number of units of each level               | -         |
| spectrum                             | "data", or a synthetic one                  |           |
| dim, largest, decay                  | of a synthetic spectrum                     | -, data^2 |
| correlation, condition_dim           | of a synthetic condition                    | -         |

Fields that end in _2 are those of level 2, which hvae alone has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from linvae.spec import CVAESpec, HVAESpec, VAESpec, default_spec

__all__ = ["CONTROLS", "MODELS", "SPECTRA", "Choice", "Slider", "State", "preset"]

MODELS = ("vae", "cvae", "hvae")
SPECTRA = ("power law", "exponential", "equal")  # besides "data"
LARGEST_WIDTH = 32
LARGEST_DIM = 64


@dataclass(frozen=True)
class Slider:
    """A number: from `low` to `high` in steps, or logarithmically.

    `models` and `spectrum`: where it has an effect.
    `needs`: field and value without which it has none.
    """

    name: str
    label: str
    low: float
    high: float
    step: float | None = None
    models: tuple[str, ...] = MODELS
    spectrum: tuple[str, ...] = ("data", *SPECTRA)
    needs: tuple[str, str] | None = None

    @property
    def is_log(self) -> bool:
        """True where the slider moves the logarithm."""
        return self.step is None

    def check(self, value: object) -> float | int:
        """`value` as a number; ValueError outside of the range."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
        if not self.low <= number <= self.high:  # also catches NaN
            raise ValueError(
                f"{self.name}={value!r} must be a number between {self.low:g} and {self.high:g}"
            )
        if self.step is None or self.step != int(self.step):
            return number
        if number != int(number):
            raise ValueError(f"{self.name}={value!r} must be a whole number")
        return int(number)


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    name: str
    label: str
    options: tuple[str, ...]
    models: tuple[str, ...] = MODELS

    def check(self, value: object) -> str:
        """`value`; ValueError where it is not one of the options."""
        if value not in self.options:
            raise ValueError(f"{self.name}={value!r} must be one of {', '.join(self.options)}")
        return str(value)


TWO = ("hvae",)
VARIANCE = (1e-3, 1e3)
CONTROLS: dict[str, tuple[Slider | Choice, ...]] = {
    "Model": (
        Choice("model", "Model", MODELS),
        Slider("beta", "beta", 1e-4, 1e4),
        Slider("beta_2", "beta, level 2", 1e-4, 1e4, models=TWO),
        Slider("decoder_variance", "Decoder variance, data units²", 1e-4, 1e3),
        Slider("latent_dim", "Latent units", 1, LARGEST_WIDTH, 1),
        Slider("latent_dim_2", "Latent units, level 2", 1, LARGEST_WIDTH, 1, models=TWO),
    ),
    "Latent variances": (
        Slider("prior_variance", "Prior variance, latent units²", *VARIANCE),
        Slider("prior_variance_2", "Prior variance, level 2", *VARIANCE, models=TWO),
        Choice("encoder", "Encoder variance", ("learned", "fixed")),
        Slider(
            "encoder_variance",
            "Fixed encoder variance, latent units²",
            *VARIANCE,
            needs=("encoder", "fixed"),
        ),
        Choice("encoder_2", "Encoder variance, level 2", ("learned", "fixed"), TWO),
        Slider(
            "encoder_variance_2",
            "Fixed encoder variance, level 2",
            *VARIANCE,
            models=TWO,
            needs=("encoder_2", "fixed"),
        ),
    ),
    "Data": (
        Choice("spectrum", "Spectrum", ("data", *SPECTRA)),
        Slider("dim", "Dimensions", 1, LARGEST_DIM, 1, spectrum=SPECTRA),
        Slider("largest", "Largest variance, data units²", 1e-3, 1e3, spectrum=SPECTRA),
        Slider("decay", "Decay", 0.0, 3.0, 0.05, spectrum=SPECTRA[:2]),
        Slider(
            "correlation",
            "Correlation of condition and modes",
            0.0,
            0.99,
            0.01,
            models=("cvae",),
        ),
        Slider("condition_dim", "Modes that the condition knows", 1, 16, 1, models=("cvae",)),
    ),
}
_BY_NAME = {control.name: control for group in CONTROLS.values() for control in group}


@dataclass(frozen=True)
class State:
    """The value of every control; units in the module's table. ValueError outside of the ranges."""

    model: str = "vae"
    beta: float = 1.0
    beta_2: float = 1.0
    decoder_variance: float = 1.0
    latent_dim: int = 8
    latent_dim_2: int = 8
    prior_variance: float = 1.0
    prior_variance_2: float = 1.0
    encoder: str = "learned"
    encoder_variance: float = 0.5
    encoder_2: str = "learned"
    encoder_variance_2: float = 0.5
    spectrum: str = "power law"
    dim: int = 16
    largest: float = 5.0
    decay: float = 1.0
    correlation: float = 0.5
    condition_dim: int = 4

    def __post_init__(self) -> None:
        """Check every field against its control."""
        for name, control in _BY_NAME.items():
            object.__setattr__(self, name, control.check(getattr(self, name)))

    @classmethod
    def of(cls, fields: object) -> State:
        """The state of an object of JSON; fields that it lacks have their defaults."""
        if not isinstance(fields, dict) or set(fields) - set(_BY_NAME):
            raise ValueError(f"state must be an object with some of {', '.join(_BY_NAME)}")
        return cls(**fields)

    @property
    def spec(self) -> VAESpec | CVAESpec | HVAESpec:
        """The model, in the words of `linvae.spec`."""
        first = self.encoder_variance if self.encoder == "fixed" else None
        if self.model == "hvae":
            second = self.encoder_variance_2 if self.encoder_2 == "fixed" else None
            return HVAESpec(
                (self.latent_dim, self.latent_dim_2),
                betas=(self.beta, self.beta_2),
                decoder_variance=self.decoder_variance,
                prior_variances=(self.prior_variance, self.prior_variance_2),
                encoder_variances=(first, second),
            )
        kind = CVAESpec if self.model == "cvae" else VAESpec
        return kind(
            self.latent_dim,
            beta=self.beta,
            decoder_variance=self.decoder_variance,
            prior_variance=self.prior_variance,
            encoder_variance=first,
        )


def preset(model: str) -> dict[str, Any]:
    """Fields that choosing `model` sets: the encoder variances of its default spec."""
    spec = default_spec(model, State.latent_dim, State.decoder_variance)
    fields: dict[str, Any] = {}
    for level, value in enumerate(spec.encoder_variances):
        end = "" if level == 0 else "_2"
        fields[f"encoder{end}"] = "learned" if value is None else "fixed"
        if value is not None:
            fields[f"encoder_variance{end}"] = value
    return fields
