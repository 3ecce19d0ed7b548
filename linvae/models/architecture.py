"""What the networks of a stack are made of: names, sizes, checked once."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES = ("linear", "mlp")


@dataclass(frozen=True)
class Architecture:
    """Kind and sizes of the networks f (encoders) and g (decoders) of every member of a stack.

    | field  | meaning                                                  | kinds |
    |--------|----------------------------------------------------------|-------|
    | name   | key of `ARCHITECTURES`                                   | all   |
    | hidden | units of each hidden layer                               | mlp   |
    """

    name: str = "linear"
    hidden: int = 64

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible sizes."""
        if self.name not in ARCHITECTURES:
            raise ValueError(f"architecture={self.name!r} must be one of {ARCHITECTURES}")
        if not isinstance(self.hidden, int) or self.hidden < 1:
            raise ValueError(f"hidden={self.hidden!r} must be an integer >= 1 in Architecture")

    @classmethod
    def of(cls, value: str | Architecture) -> Architecture:
        """An architecture itself, or the one of that name with default sizes."""
        return value if isinstance(value, Architecture) else cls(value)
