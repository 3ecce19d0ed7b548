"""The explorer: `state` says what the sliders mean, `curves` solves, `page` draws, `server` serves.

`state` and `curves` know no web library, and nothing else here holds a formula.
"""
