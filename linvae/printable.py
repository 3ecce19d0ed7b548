"""Text of strangers for a terminal: names of files and members, what a server answers."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""The same text with what a terminal obeys, or shows as nothing, written as escapes.

    Control characters but for line ends and tabs, marks of the direction of writing and bytes that
    are no text: "\\x1b" and "\\u202e" instead of what they do.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
