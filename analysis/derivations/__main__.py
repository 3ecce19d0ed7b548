"""Derive and print: `python -m analysis.derivations [NAME ...]`, all families without a name.

Exit code 0: every step holds; 1: a step failed (named on standard error, the rest still runs).
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

from analysis.derivations import FAMILIES
from analysis.derivations.steps import DerivationError


def main(arguments: list[str] | None = None) -> int:
    """Run the named derivations; the number of failures decides the exit code."""
    parser = argparse.ArgumentParser(prog="python -m analysis.derivations", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(FAMILIES)}")
    names = parser.parse_args(arguments).names
    unknown = [name for name in names if name not in FAMILIES]
    if unknown:
        parser.error(f"unknown family {unknown[0]!r}: choose from {', '.join(FAMILIES)}")
    failures = 0
    for name in names or FAMILIES:
        start = time.perf_counter()
        try:
            derivation = importlib.import_module(f"analysis.derivations.{name}").derive()
        except DerivationError as error:
            failures += 1
            print(f"FAILED {name}: {error}", file=sys.stderr)
            continue
        checked = sum(step.checked for step in derivation.steps)
        print(derivation)
        print(f"{name}: {checked} steps checked, {time.perf_counter() - start:.1f} s\n", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
