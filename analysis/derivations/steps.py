"""What the derivations share: the record of their steps, Gaussian expectations, the symbols.

A derivation starts from the objective of its model, written as the expectation of log densities,
and lists steps. A step either shows an expression or checks one; a check that does not hold raises
`DerivationError` and names the step. Nothing is checked numerically here.

| symbol | meaning                             | symbol | meaning                           |
|--------|-------------------------------------|--------|-----------------------------------|
| theta  | theta^2 = variance of the mode      | beta   | weight of the KL divergence       |
| u      | decoder weight, mean u z            | s      | decoder variance                  |
| w      | encoder weight, mean w y            | eta    | eta^2 = prior variance            |
| v      | encoder variance where it is learned| sigma  | sigma^2 = encoder variance, fixed |

Letters of the papers inside (standard deviations theta, eta, sigma), variances in every result.
All expectations are over centred variables, in nats per sample.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import sympy as sp

beta, s, eta, theta, sigma, v = sp.symbols("beta s eta theta sigma v", positive=True)
u, w, y, e = sp.symbols("u w y e", real=True)
gap = sp.Symbol("gap", positive=True)  # theta^2 = threshold * (1 + gap): any active mode

Covariances = Mapping[sp.Symbol | tuple[sp.Symbol, sp.Symbol], sp.Expr | int]


class DerivationError(Exception):
    """A step does not hold; the message names the derivation, the step and what is left over."""


@dataclass(frozen=True)
class Step:
    """One line of a derivation: what is said, the expression, and whether it was checked."""

    statement: str
    expression: object
    checked: bool

    def __str__(self) -> str:
        """Statement and expression, wrapped."""
        mark = "checked" if self.checked else "       "
        text = _text(self.expression)
        lines = textwrap.wrap(text, 100, break_long_words=False) if "\n" not in text else [text]
        return "\n".join([f"[{mark}] {self.statement}", *(f"{'':12}{line}" for line in lines)])


@dataclass
class Derivation:
    """The steps of one theorem family, and what they arrive at (`results`, by name)."""

    title: str
    source: str
    steps: list[Step] = field(default_factory=list)
    results: dict[str, sp.Expr] = field(default_factory=dict)

    def show(self, statement: str, expression: sp.Expr) -> sp.Expr:
        """Note an expression and return it."""
        self.steps.append(Step(statement, expression, checked=False))
        return expression

    def equal(self, statement: str, derived: sp.Expr, claimed: sp.Expr, name: str = "") -> sp.Expr:
        """Check that what was derived is what the theorem says; return it in the theorem's form."""
        if not _is_zero(_difference(derived, claimed)):
            self._fail(statement, f"derived {_text(derived)}, claimed {_text(claimed)}")
        self.steps.append(Step(statement, claimed, checked=True))
        if name:
            self.results[name] = claimed
        return claimed

    def positive(self, statement: str, expression: sp.Expr) -> sp.Expr:
        """Check that an expression is positive wherever its symbols are what they are."""
        simple = sp.factor(expression)
        if not simple.is_positive:
            simple = sp.factor(sp.simplify(expression))
        if not simple.is_positive and not sp.expand(simple).is_positive:
            self._fail(statement, f"{_text(simple)} is not known to be positive")
        self.steps.append(Step(statement, simple, checked=True))
        return simple

    def root(self, statement: str, equation: sp.Expr, unknown: sp.Symbol) -> sp.Expr:
        """The only zero of `equation` in the range of `unknown`."""
        return self.solution(statement, [equation], [unknown])[unknown]

    def solution(
        self, statement: str, equations: Sequence[sp.Expr], unknowns: Sequence[sp.Symbol]
    ) -> dict[sp.Symbol, sp.Expr]:
        """The only common zero of `equations`, in the range of the unknowns."""
        try:
            found = sp.solve(equations, unknowns, dict=True)
        except NotImplementedError as error:
            self._fail(statement, str(error))
        if len(found) != 1 or set(found[0]) != set(unknowns):
            names = ", ".join(map(str, unknowns))
            self._fail(statement, f"expected one solution for {names}, found {found}")
        solution = {name: _shortest(value) for name, value in found[0].items()}
        for name, value in solution.items():
            self.steps.append(Step(statement, sp.Eq(name, value, evaluate=False), checked=False))
        return solution

    def _fail(self, statement: str, reason: str) -> NoReturn:
        raise DerivationError(f"{self.title}: step '{statement}' does not hold: {reason}")

    def __str__(self) -> str:
        """Title and all steps."""
        head = f"{self.title} ({self.source})"
        return "\n".join([head, "=" * len(head), *map(str, self.steps)])


def log_normal(x: sp.Expr, mean: sp.Expr, variance: sp.Expr) -> sp.Expr:
    """log N(x; mean, variance)."""
    return -sp.log(2 * sp.pi * variance) / 2 - (x - mean) ** 2 / (2 * variance)


def expectation(expression: sp.Expr, covariances: Covariances) -> sp.Expr:
    """E of a polynomial of degree 2 in centred variables; pairs that are not given: uncorrelated.

    Raises DerivationError for a higher degree, where second moments do not suffice.
    """
    moment = {(k if isinstance(k, tuple) else (k, k)): c for k, c in covariances.items()}
    variables = sorted({x for pair in moment for x in pair}, key=str)
    polynomial = sp.Poly(sp.expand(expression), *variables)
    if polynomial.total_degree() > 2:
        raise DerivationError(f"degree {polynomial.total_degree()} needs more than second moments")
    total = sp.Integer(0)
    for powers, coefficient in polynomial.terms():
        factors = [x for x, power in zip(variables, powers, strict=True) for _ in range(power)]
        if not factors:
            total += coefficient
        elif len(factors) == 2:
            pair = (factors[0], factors[1])
            total += coefficient * moment.get(pair, moment.get(pair[::-1], 0))
    return total


def gradient_at(
    F: sp.Expr, variables: Sequence[sp.Symbol], point: Mapping[sp.Symbol, sp.Expr]
) -> sp.Matrix:
    """First derivatives at a point, simplified."""
    return sp.Matrix([_short(sp.diff(F, x).subs(point)) for x in variables])


def hessian_at(
    F: sp.Expr, variables: Sequence[sp.Symbol], point: Mapping[sp.Symbol, sp.Expr]
) -> sp.Matrix:
    """Second derivatives at a point, simplified."""
    return sp.hessian(F, variables).subs(point).applyfunc(_short)


def tidy(expression: sp.Expr) -> sp.Expr:
    """Logarithms expanded and left alone, everything else simplified: short to read."""
    terms = sp.Add.make_args(sp.expand(sp.expand_log(expression, force=True)))
    logarithms = [term for term in terms if term.has(sp.log)]
    rest = _short(sp.Add(*(t for t in terms if not t.has(sp.log))))
    return sp.Add(*logarithms) + rest


def _short(expression: sp.Expr) -> sp.Expr:
    """Common denominator, factored; `simplify` only where roots or logarithms are involved."""
    if expression.has(sp.log) or expression.atoms(sp.Pow) - _integer_powers(expression):
        return sp.simplify(expression)
    return sp.factor(expression)


def _integer_powers(expression: sp.Expr) -> set[sp.Pow]:
    return {power for power in expression.atoms(sp.Pow) if power.exp.is_Integer}


def _shortest(expression: sp.Expr) -> sp.Expr:
    return min((sp.simplify(expression), sp.factor(expression)), key=sp.count_ops)


def _difference(derived: sp.Expr | sp.Matrix, claimed: sp.Expr | sp.Matrix) -> list[sp.Expr]:
    """Entries of derived - claimed (one of a scalar)."""
    rest = derived - claimed
    return list(rest) if isinstance(rest, sp.MatrixBase) else [sp.expand_log(sp.sympify(rest))]


def _is_zero(entries: list[sp.Expr]) -> bool:
    """Cheap forms first: `simplify` only where they do not settle it."""
    return all(
        x == 0 or sp.expand(x) == 0 or sp.cancel(x) == 0 or sp.simplify(sp.expand(x)) == 0
        for x in entries
    )


def _text(expression: object) -> str:
    if isinstance(expression, sp.MatrixBase) and expression.cols == 1:
        return str(list(expression))
    if isinstance(expression, sp.MatrixBase):
        return "\n            ".join(str(list(row)) for row in expression.tolist())
    if isinstance(expression, sp.Equality):
        return f"{expression.lhs} = {expression.rhs}"
    return sp.sstr(expression)
