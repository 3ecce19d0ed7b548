"""Every theory figure, one module each: `python -m figures [--only NAME] [--out DIR]`.

A module has `rows()`, which calls public functions of linvae or reads rows kept under analysis/,
and `draw(rows)`, which gives a matplotlib figure and computes nothing. One that moves has
`frames(rows)` too, which gives its figure again for every frame of an animation.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

__all__ = ["NAMES", "figure_module", "write_figure"]

NAMES = (
    "beta_sweep",
    "correlation",
    "hierarchy_phases",
    "hierarchy_levels",
    "rate_distortion",
    "autoregressive",
    "decoder_reach",
    "escape_time",
    "escape_rates",
    "latent_reconstruction",
    "reconstruction_price",
    "bernoulli",
    "thresholds",
    "finite_samples",
    "weight_decay",
    "skewness",
    "shift",
    "posterior_means",
    "lagging",
)


def figure_module(name: str) -> ModuleType:
    """The module of a figure; ValueError for an unknown name."""
    if name not in NAMES:
        raise ValueError(f"figure {name!r} must be one of {', '.join(NAMES)}")
    return import_module(f"figures.{name}")


def write_figure(name: str, folder: Path) -> list[Path]:
    """Compute the rows of a figure, draw it, and write NAME.csv, .png, .pdf; .gif if it moves."""
    import matplotlib as mpl

    from figures.style import STYLE, csv_text, save_animation
    from linvae.comparison import write_text
    from linvae.plots import save_figure

    module = figure_module(name)
    rows = module.rows()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}{suffix}" for suffix in (".csv", ".png", ".pdf")]
    write_text(paths[0], csv_text(rows))
    with mpl.rc_context(STYLE):
        figure = module.draw(rows)
        for path in paths[1:]:
            save_figure(figure, path)
        if hasattr(module, "frames"):
            paths.append(folder / f"{name}.gif")
            save_animation(module.frames(rows), paths[-1])
    return paths
