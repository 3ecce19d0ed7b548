"""docs/thresholds.md says what the measured JSON says."""

from __future__ import annotations

from analysis.threshold_table import PAGE, README, linear_table, page, readme, short_table


def test_page_is_that_of_the_json():
    """Stale: python -m analysis.threshold_table."""
    assert PAGE.read_text(encoding="utf-8") == page()
    assert README.read_text(encoding="utf-8") == readme()


def _row(model: str, optimizer: str, *ratios: float) -> dict:
    return {
        "data": "spectrum 1", "model": model, "level": 1, "optimizer": optimizer,
        "observed_over_predicted": list(ratios), "slopes_per_nat": [-2.0] * len(ratios),
        "runs_per_seed": [6] * len(ratios),
    }  # fmt: skip


def test_linear_seeds_are_counted_and_misses_named():
    rows = [_row("vae", "adam", 1.0, 0.99), _row("vae", "adam", 1.019, 0.97), _row("vae", "sgd", 1)]
    lines = list(linear_table(rows))
    assert "| vae | 1 | adam | 2 | 4 | 3 | 0.970 | 1.019 |" in lines
    assert "| vae | 1 | sgd | 1 | 1 | 1 | 1.000 | 1.000 |" in lines
    misses = [line for line in lines if line.startswith("\n- ")]
    assert misses == [
        "\n- spectrum 1, vae, level 1, adam: 1.019, 0.970; slopes -2.000, -2.000 per nat."
    ]
    assert list(linear_table(rows[2:]))[-1] == "\nNone outside."
    lines = list(linear_table([_row("vae", "sgd", 1.0, float("nan"))]))  # a seed without a line
    assert "| vae | 1 | sgd | 1 | 2 | 1 | 1.000 | 1.000 |" in lines
    assert "sgd: 1.000, nan; slopes" in lines[-1]


def test_seeds_trained_again_are_counted():
    rows = [
        _row("vae", "sgd", 1.0, 1.0) | {"runs_per_seed": [6, 12], "largest_drifts": [0.0, 0.02]},
        _row("vae", "adam", 1.0),
    ]
    text = " ".join(linear_table(rows))
    assert "1 of 3 seeds were trained again. 1 of 2 rows were measured before drift counted" in text


def test_short_table_names_the_cause_of_what_is_far_off():
    def row(model: str, level: int, mean: float | None, data: str, network: str) -> dict:
        return {
            "data": data, "model": model, "level": level, "architecture": network,
            "locator": [mean, mean, mean], "cause": {"name": "line"},
            "sha256": "", "steps": 10, "batch_size": 8, "n_seeds": 3,
        }  # fmt: skip

    rows = [
        row("vae", 1, 0.96, "digits", "mlp"),
        row("hvae", 1, 1.06, "digits", "mlp"),
        row("hvae", 2, None, "digits", "mlp"),
        row("vae", 1, 0.97, "mnist", "mlp"),
        row("cvae", 1, 0.7, "mnist", "mlp"),
        row("cvae", 1, 0.7, "mnist", "conv") | {"image_size": 14},
        row("vae", 1, 0.98, "digits", "conv"),
    ]
    further = [
        rows[1] | {"cause": "line", "verdict": "not shown"},
        rows[4] | {"cause": "line", "verdict": "not shown"},
        rows[4] | {"cause": "regression", "verdict": "shown"},
    ]
    assert short_table(rows, further).splitlines()[2:] == [
        "| digits | mlp | 0.960 (0.960-0.960) | - | 1.060 (1.060-1.060) line? | - |",
        "| digits | conv | 0.980 (0.980-0.980) | - | - | - |",
        "| mnist | mlp | 0.970 (0.970-0.970) | 0.700 (0.700-0.700) regression | - | - |",
        "| mnist, 14 px | conv | - | 0.700 (0.700-0.700) line? | - | - |",
    ]
