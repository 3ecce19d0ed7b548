"""The version of this package, for every layer that writes it down."""

__version__ = "0.1.0"
