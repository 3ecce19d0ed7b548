"""Model specifications: the only home of defaults, symbols and their validation.

One frozen record describes a model; `linvae.theory` reads it to predict and `linvae.models` reads
it to build the network, so the two cannot describe different models.

| symbol  | field               | meaning                                | shape        | unit     |
|---------|---------------------|----------------------------------------|--------------|----------|
| k_l     | latent_dim(s)       | number of latent units of level l      | int or (L,)  | -        |
| beta_l  | beta(s)             | weight of the KL divergence of level l | scalar, (L,) | -        |
| s       | decoder_variance    | variance of p(y|z_1); "learned"        | scalar       | data^2   |
| eta_l^2 | prior_variance(s)   | variance of p(z_l|z_{l+1}), or p(z_L)  | scalar, (L,) | latent^2 |
| Sigma_l | encoder_variance(s) | covariance of q(z_l|z_{l-1})           | scalar, (k,) | latent^2 |
| gamma   | latent_reconstruction | weight of that loss, per latent^2    | scalar       | nats     |
| kappa   | weight_decay        | weight of the squared norms of W and U | scalar       | nats     |

The objective that all of them share is minimised, in nats per sample:
`objective = distortion + sum_l beta_l * rate_l + penalty`, the negative ELBO when every beta is 1
and there is no penalty. `penalty = gamma/2 E|W dec(z) - z|^2 + kappa/2 (|W|^2 + |U|^2)`, z from the
prior, dec(z) the decoder's mean and W dec(z) the encoder's mean there.

Every specification raises ValueError for a field outside its range, naming field, value, bound and
class. Equality that a test checks: the objective of `linvae.solve` is at most that of any weights,
and `scale_betas(a).scale_betas(b)` is `scale_betas(a b)`.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "LATENT_SOURCES",
    "LIKELIHOODS",
    "ARVAESpec",
    "CVAESpec",
    "HVAESpec",
    "LatentReconstruction",
    "LinearSpec",
    "VAESpec",
]

LIKELIHOODS = ("gaussian", "bernoulli", "poisson", "multinomial")
Likelihood = Literal["gaussian", "bernoulli", "poisson", "multinomial"]
LATENT_SOURCES = ("prior", "posterior", "mean", "posterior-to-mean")
LatentSource = Literal["prior", "posterior", "mean", "posterior-to-mean"]
Detached = Literal["none", "input", "target", "both"]
DecoderVariance = float | Literal["learned"]
EncoderVariance = float | tuple[float, ...] | None


@dataclass(frozen=True)
class LatentReconstruction:
    """The latent reconstruction loss, weight/2 E|mu(dec(z)) - t|^2, and what its gradient reaches.

    mu the encoder's mean, dec the decoder's mean; z is decoded, t is what should come back:

    | source              | z            | t            | in the authors' code |
    |---------------------|--------------|--------------|----------------------|
    | "prior"             | N(0, eta^2 I)| z            | pz, of variance e    |
    | "posterior"         | drawn from q | z            | Ex, the default      |
    | "mean"              | mean of q    | z            | -                    |
    | "posterior-to-mean" | drawn from q | mean of q    | qzx                  |

    `weight`: gamma, nats per latent units^2, twice the alpha of the paper, 0.1. `detach`: through
    which of z (the decoder's "input") and t (the "target") no gradient goes. `encoder_share`:
    factor on the gradient with respect to the encoder's parameters, on all its ways; published 1
    and 1e-4.
    Source: Song, Kim, Lee 2025. Raises ValueError for anything else.
    """

    weight: float = 0.2
    source: LatentSource = "posterior"
    detach: Detached = "none"
    encoder_share: float = 1.0

    def __post_init__(self) -> None:
        """Validate every field."""
        where = type(self).__name__
        for name in ("weight", "encoder_share"):
            _set(self, **{name: _not_negative(name, getattr(self, name), where)})
        for name, known in (("source", LATENT_SOURCES), ("detach", get_args(Detached))):
            if not _is_one_of(getattr(self, name), known):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(known)} in {where}"
                )


class LinearSpec(Protocol):
    """What every specification offers: the model seen as a chain of levels z_1 ... z_L.

    A model with one level is a chain of length one; all tuples have one entry per level.
    An encoder variance is None (learned), a float (isotropic) or a tuple (diagonal).
    """

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """Number of units of each level."""

    @property
    def betas(self) -> tuple[float, ...]:
        """KL weight of each level."""

    @property
    def decoder_variance(self) -> DecoderVariance:
        """Variance s of p(y | z_1), or "learned"."""

    @property
    def prior_variances(self) -> tuple[float, ...]:
        """Variance eta_l^2 of p(z_l | z_{l+1}) of each level."""

    @property
    def encoder_variances(self) -> tuple[EncoderVariance, ...]:
        """Fixed encoder variance of each level, None where it is learned."""

    def scale_betas(self, factor: float) -> Self:
        """The same model with every beta multiplied by `factor`."""

    def with_one_unit(self) -> Self:
        """The same model with one latent unit per level, the one that collapses last."""


@dataclass(frozen=True, repr=False)
class VAESpec:
    """Linear VAE with one latent level.

    q(z|x) = N(W x, Sigma), p(y|z) = N(U z, s I), p(z) = N(0, eta^2 I).

    The target y is the input x, unless the moments have a condition: then the encoder sees the
    condition only and the decoder predicts the target from z only (the general latent variable
    model of Wang & Ziyin 2022). Sources of the plain model: Tipping & Bishop 1999; Lucas et al.
    2019.

    `encoder_variance`: None = Sigma learned, a float = Sigma fixed to that multiple of I, a
    sequence of `latent_dim` floats = Sigma fixed to that diagonal.
    `decoder_variance="learned"` goes with a learned encoder variance only.
    `latent_reconstruction` (gamma) and `weight_decay` (kappa): see the module's objective.
    `likelihood`: p(y|z) of the exponential family with natural parameter U z + constant; anything
    but "gaussian" has no decoder variance, and only its collapsed point is understood
    (`linvae.stability`).
    """

    latent_dim: int
    _: dataclasses.KW_ONLY
    beta: float = 1.0
    decoder_variance: DecoderVariance = 1.0
    prior_variance: float = 1.0
    encoder_variance: EncoderVariance = None
    latent_reconstruction: float = 0.0
    weight_decay: float = 0.0
    likelihood: Likelihood = "gaussian"

    def __post_init__(self) -> None:
        """Validate every field and normalise sequences to tuples."""
        where = type(self).__name__
        _set(self, latent_dim=_dimension("latent_dim", self.latent_dim, where))
        _set(self, beta=_positive("beta", self.beta, where))
        _set(self, prior_variance=_positive("prior_variance", self.prior_variance, where))
        _set(self, decoder_variance=_decoder_variance(self.decoder_variance, where))
        _set(self, encoder_variance=self._checked_encoder_variance(where))
        for name in ("latent_reconstruction", "weight_decay"):
            _set(self, **{name: _not_negative(name, getattr(self, name), where)})
        self._check_penalties(where)
        self._check_likelihood(where)

    def _check_penalties(self, where: str) -> None:
        if self.penalised and self.decoder_variance == "learned":
            raise ValueError(
                f"decoder_variance='learned' needs latent_reconstruction=0 and weight_decay=0 in "
                f"{where}, got {self.latent_reconstruction} and {self.weight_decay}: no closed "
                "form is known for them together; fix decoder_variance to a number"
            )

    def _check_likelihood(self, where: str) -> None:
        if not _is_one_of(self.likelihood, LIKELIHOODS):
            raise ValueError(
                f"likelihood={self.likelihood!r} must be one of {', '.join(LIKELIHOODS)} in {where}"
            )
        if self.likelihood != "gaussian" and self.decoder_variance != 1.0:
            raise ValueError(
                f"decoder_variance={self.decoder_variance!r} has no meaning with "
                f"likelihood={self.likelihood!r} in {where}: leave it at 1.0"
            )

    def _checked_encoder_variance(self, where: str) -> EncoderVariance:
        value = self.encoder_variance
        if value is None:
            return None
        if self.decoder_variance == "learned":
            raise ValueError(
                f"decoder_variance='learned' needs encoder_variance=None in {where}, "
                f"got encoder_variance={value!r}: no closed form is known for the pair; "
                "fix decoder_variance to a number"
            )
        given = _entries(value)
        if given is None:
            return _positive("encoder_variance", value, where)
        entries = tuple(_positive(f"encoder_variance[{i}]", v, where) for i, v in enumerate(given))
        if len(entries) != self.latent_dim:
            raise ValueError(
                f"encoder_variance has {len(entries)} entries but latent_dim={self.latent_dim} "
                f"in {where}: give one variance per latent unit, or a single float"
            )
        return entries

    def __repr__(self) -> str:
        """The fields of the plain model, and the others where they are set."""
        plain = ("latent_dim", "beta", "decoder_variance", "prior_variance", "encoder_variance")
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name in plain or getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    def penalised(self) -> bool:
        """True with a latent reconstruction loss or weight decay."""
        return self.latent_reconstruction > 0 or self.weight_decay > 0

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """(latent_dim,)."""
        return (self.latent_dim,)

    @property
    def betas(self) -> tuple[float, ...]:
        """(beta,)."""
        return (self.beta,)

    @property
    def prior_variances(self) -> tuple[float, ...]:
        """(prior_variance,)."""
        return (self.prior_variance,)

    @property
    def encoder_variances(self) -> tuple[EncoderVariance, ...]:
        """(encoder_variance,)."""
        return (self.encoder_variance,)

    def scale_betas(self, factor: float) -> Self:
        """The same model with beta multiplied by `factor`."""
        return dataclasses.replace(self, beta=self.beta * factor)

    def with_one_unit(self) -> Self:
        """The same model with one latent unit, that of the smallest fixed variance."""
        fixed = self.encoder_variance
        smallest = min(fixed) if isinstance(fixed, tuple) else fixed
        return dataclasses.replace(self, latent_dim=1, encoder_variance=smallest)


@dataclass(frozen=True, repr=False)
class CVAESpec(VAESpec):
    """Linear conditional VAE: target y, condition x.

    q(z|x,y) = N(W1 x + W2 y, Sigma), p(y|x,z) = N(U1 z + U2 x, s I), p(z) = N(0, eta^2 I)
    (Dang et al. 2024, section 4.1). Fields as in `VAESpec`.

    `encoder_sees="both"` is the published model. With "target", W1 = 0 is fixed: collapse comes
    earlier, and the optimum is known for one unit or a scalar target
    (`linvae.theory.target_encoder`).
    """

    encoder_sees: Literal["both", "target"] = dataclasses.field(default="both", kw_only=True)

    def __post_init__(self) -> None:
        """Validate as `VAESpec`, and `encoder_sees`; the likelihood must be Gaussian."""
        super().__post_init__()
        _require_gaussian(self.likelihood, "CVAESpec")
        if not _is_one_of(self.encoder_sees, ("both", "target")):
            raise ValueError(
                f"encoder_sees={self.encoder_sees!r} must be 'both' or 'target' in CVAESpec"
            )


@dataclass(frozen=True, repr=False)
class ARVAESpec(VAESpec):
    """Linear VAE with an autoregressive decoder.

    q(z|y) = N(W y, Sigma), p(y_t|y_<t, z) = N(u_t z + b_t y_<t, s), p(z) = N(0, eta^2 I).
    Fields as in `VAESpec`, with learned Sigma and fixed s.

    `order` says which coordinates the decoder sees when it predicts y_t: None = all before t, an
    integer m = the last m, or a mask (d, d), row t true where y_t sees the coordinate, strictly
    lower triangular. The optimum is known at full order; elsewhere only the collapsed point is.
    Source: ours.
    """

    order: int | tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Validate as `VAESpec`, and `order`; a mask becomes the tuple of columns of every row."""
        super().__post_init__()
        _require_gaussian(self.likelihood, "ARVAESpec")
        if self.encoder_variance is not None or self.decoder_variance == "learned":
            raise ValueError(
                f"ARVAESpec needs encoder_variance=None and a fixed decoder_variance, got "
                f"{self.encoder_variance!r} and {self.decoder_variance!r}: no closed form is known"
            )
        _set(self, order=_order(self.order))

    def is_full(self, dim: int) -> bool:
        """True where every coordinate sees all before it."""
        return all(len(columns) == t for t, columns in enumerate(self.seen(dim)))

    def seen(self, dim: int) -> list[range] | list[tuple[int, ...]]:
        """The coordinates that each of `dim` coordinates sees, row by row."""
        if isinstance(self.order, tuple):
            if len(self.order) != dim:
                raise ValueError(
                    f"order is a mask of {len(self.order)} rows but the target has {dim} dimensions"
                )
            return list(self.order)
        width = dim if self.order is None else self.order
        return [range(max(0, t - width), t) for t in range(dim)]


@dataclass(frozen=True, init=False)
class HVAESpec:
    """Linear hierarchical VAE, a Markov chain of L levels of any widths.

    q(z_l|z_{l-1}) = N(W_l z_{l-1}, Sigma_l), p(z_{l-1}|z_l) = N(U_l z_l, eta_{l-1}^2 I),
    z_0 = y with decoder variance s = eta_0^2, p(z_L) = N(0, eta_L^2 I).

    On moments with a condition x it is the conditional hierarchy: q(z_1|x,y) and p(y|x,z_1) see
    x too. `betas` and `prior_variances`: a float for all levels, or one per level.
    `encoder_variances`: None = all learned, or one entry per level, each None (learned) or a
    float (fixed, isotropic).
    """

    latent_dims: tuple[int, ...]
    betas: tuple[float, ...]
    decoder_variance: float
    prior_variances: tuple[float, ...]
    encoder_variances: tuple[float | None, ...]

    def __init__(
        self,
        latent_dims: Sequence[int],
        *,
        betas: float | Sequence[float] = 1.0,
        decoder_variance: float = 1.0,
        prior_variances: float | Sequence[float] = 1.0,
        encoder_variances: Sequence[float | None] | None = None,
    ) -> None:
        """Validate every field; scalars are repeated over the levels."""
        where = "HVAESpec"
        dims = _dimensions(latent_dims, where)
        if isinstance(decoder_variance, str):
            raise ValueError(
                f"decoder_variance={decoder_variance!r} must be a finite number > 0 in {where}: "
                "only VAESpec and CVAESpec have a closed form for 'learned'"
            )
        variances = (None,) * len(dims) if encoder_variances is None else encoder_variances
        _set(
            self,
            latent_dims=dims,
            betas=_per_level("betas", betas, len(dims), where),
            decoder_variance=_positive("decoder_variance", decoder_variance, where),
            prior_variances=_per_level("prior_variances", prior_variances, len(dims), where),
            encoder_variances=_per_level("encoder_variances", variances, len(dims), where),
        )

    @classmethod
    def markovian(
        cls,
        latent_dims: Sequence[int],
        *,
        decoder_variance: float = 1.0,
        prior_variance: float = 1.0,
        betas: float | Sequence[float] = 1.0,
        encoder_variances: Sequence[float | None] | None = None,
    ) -> HVAESpec:
        """The published hierarchy (Dang et al. 2024, section 4.2).

        p(z_1|z_2), like p(y|z_1), has the decoder variance eta_dec^2; only the last prior has
        eta_enc^2: `prior_variances = (decoder_variance, ..., decoder_variance, prior_variance)`.
        """
        dims = _dimensions(latent_dims, "HVAESpec.markovian")
        lower = (decoder_variance,) * (len(dims) - 1)
        return cls(
            dims,
            betas=betas,
            decoder_variance=decoder_variance,
            prior_variances=(*lower, prior_variance),
            encoder_variances=encoder_variances,
        )

    def scale_betas(self, factor: float) -> Self:
        """The same model with every beta multiplied by `factor`."""
        return self._with(betas=tuple(b * factor for b in self.betas))

    def with_one_unit(self) -> Self:
        """The same hierarchy with one unit per level."""
        return self._with(latent_dims=(1,) * len(self.latent_dims))

    def _with(self, **changes: Any) -> Self:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self)(**(fields | changes))


def default_spec(model: str, latent_dim: int, decoder_variance: float) -> LinearSpec:
    """The spec that `--model` of the command lines stands for.

    hvae: two levels as published (p(z_1|z_2) has the decoder variance), the encoder variance of
    level 1 fixed at half the decoder variance, that of level 2 learned: then the two levels
    collapse at different betas, a factor 4 apart.
    """
    if model == "vae":
        return VAESpec(latent_dim, decoder_variance=decoder_variance)
    if model == "cvae":
        return CVAESpec(latent_dim, decoder_variance=decoder_variance)
    if model == "hvae":
        return HVAESpec.markovian(
            (latent_dim, latent_dim),
            decoder_variance=decoder_variance,
            encoder_variances=(decoder_variance / 2, None),
        )
    raise ValueError(f"model={model!r} must be one of vae, cvae, hvae")


def model_name(spec: LinearSpec) -> str:
    """The `--model` that a spec is one of. Raises ValueError for those the command lines lack."""
    names = {VAESpec: "vae", CVAESpec: "cvae", HVAESpec: "hvae"}
    name = names.get(type(spec))
    if name is None:
        raise ValueError(f"spec={spec!r} must be a VAESpec, CVAESpec or HVAESpec")
    return name


def _set(spec: object, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(spec, name, value)


def _positive(name: str, value: Any, where: str) -> float:
    try:
        number = float(value) if _is_number(value) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}={value!r} must be a finite number > 0 in {where}")
    return number


def _is_one_of(value: Any, known: Sequence[str]) -> bool:
    """False for arrays too, which compare entry by entry."""
    return isinstance(value, str) and value in known


def _entries(value: Any) -> tuple[Any, ...] | None:
    """The entries of a sequence; None for one value, an array without dimensions among them."""
    try:
        return tuple(value)
    except TypeError:
        return None


def _is_number(value: Any) -> bool:
    """False for text, truth values and complex numbers, those of NumPy and torch too."""
    kind = str(getattr(value, "dtype", ""))
    return not isinstance(value, (bool, str)) and "bool" not in kind and "complex" not in kind


def _not_negative(name: str, value: Any, where: str) -> float:
    try:
        zero = _is_number(value) and float(value) == 0
        return 0.0 if zero else _positive(name, value, where)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name}={value!r} must be a finite number >= 0 in {where}") from None


def _require_gaussian(likelihood: str, where: str) -> None:
    if likelihood != "gaussian":
        raise ValueError(
            f"likelihood={likelihood!r} must be 'gaussian' in {where}: use VAESpec for the others"
        )


def _order(value: Any) -> int | tuple[tuple[int, ...], ...] | None:
    """An order as given, a mask as the columns of every row."""
    if value is None:
        return None
    rows, order = _entries(value), _whole(value)
    if rows is not None:
        return _mask(rows)
    if order is None or order < 0:
        raise _no_order(value)
    return order


def _mask(value: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    """The columns of every row, of a mask or as they come back here."""
    try:
        rows = [tuple(row) for row in value]
        if rows and rows[0]:  # a mask; as columns, the first row is empty
            wrong = any(len(row) != len(rows) for row in rows)
            seen = [tuple(i for i, seen in enumerate(row) if seen) for row in rows]
        else:
            wrong, seen = False, [tuple(sorted({operator.index(i) for i in row})) for row in rows]
    except (TypeError, ValueError):
        raise _no_order(value) from None
    if wrong:
        raise ValueError(f"order: the mask must be square, got {len(rows)} rows in ARVAESpec")
    late = [t for t, row in enumerate(seen) if any(not 0 <= i < t for i in row)]
    if late:
        raise ValueError(
            f"order: row {late[0]} of the mask sees coordinate {max(seen[late[0]])}, but y_t may "
            "see earlier coordinates only: make the mask strictly lower triangular"
        )
    return tuple(seen)


def _no_order(value: Any) -> ValueError:
    return ValueError(f"order={value!r} must be None, an integer >= 0 or a mask in ARVAESpec")


def _whole(value: Any) -> int | None:
    """An integer, NumPy's and torch's too; None for anything else, truth values among them."""
    try:
        return operator.index(value) if _is_number(value) else None
    except TypeError:
        return None


def _dimension(name: str, value: Any, where: str) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise ValueError(f"{name}={value!r} must be an integer >= 1 in {where}")
    return number


def _dimensions(values: Any, where: str) -> tuple[int, ...]:
    dims = _entries(values)
    if not dims:
        raise ValueError(
            f"latent_dims={values!r} must be a sequence with one width per level "
            f"(at least one level) in {where}"
        )
    return tuple(_dimension(f"latent_dims[{i}]", d, where) for i, d in enumerate(dims))


def _decoder_variance(value: Any, where: str) -> DecoderVariance:
    if _is_one_of(value, ("learned",)):
        return "learned"
    if isinstance(value, str):
        raise ValueError(
            f"decoder_variance={value!r} must be a finite number > 0 or 'learned' in {where}"
        )
    return _positive("decoder_variance", value, where)


def _per_level(name: str, value: Any, n_levels: int, where: str) -> tuple[Any, ...]:
    entries = _entries(value)
    if entries is None:
        entries = (value,) * n_levels
    if len(entries) != n_levels:
        raise ValueError(
            f"{name} has {len(entries)} entries but latent_dims has {n_levels} levels in {where}: "
            "give one per level"
        )
    learned_allowed = name == "encoder_variances"
    return tuple(
        None if v is None and learned_allowed else _positive(f"{name}[{i}]", v, where)
        for i, v in enumerate(entries)
    )
