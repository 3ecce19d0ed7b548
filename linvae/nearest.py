"""The nearest of what is known, for messages about what is not."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'NAME'?`, empty where nothing is near; what `word` begins comes first.

    Options stand without quotes.
    """
    import difflib  # here: `--help` needs none

    names = list(known)
    begun = sorted((name for name in names if word and name.startswith(word)), key=len)
    near = begun[:2] or difflib.get_close_matches(word, names, n=1)
    shown = [name if name.startswith("-") else repr(name) for name in near]
    return f"; did you mean {' or '.join(shown)}?" if near else ""
