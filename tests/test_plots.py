"""The curves of a run show what it logged."""

from pathlib import Path
from typing import Any

import pytest

from eightball_ppo.report import plots

EXACT = {f"exact/{name}": 0.5 for name in ("expected_score", "kl", "entropy", "optimum_fraction")}
SAMPLED = {"objective/scores": 1.0, "objective/kl": 0.1, "objective/entropy": 0.9, "loss/value_avg": 2.0}


@pytest.mark.parametrize(
    ("method", "row", "last"),
    [
        ("ppo", {**SAMPLED, "episode": 8}, "Value loss"),
        ("rloo", {"episode": 8, "loss": 0.1}, "Policy loss"),
        ("grpo", {"episode": 8, "loss": 0.1}, "Policy loss"),
        ("exact", {"loss": 0.1}, "Loss, -J / beta"),
        ("distill_soft", {"loss": 0.1}, "Cross-entropy"),
        ("best_of_n", {}, "Share of the optimum"),
    ],
)
def test_no_panel_is_empty_and_the_loss_has_its_name(
    method: str, row: dict[str, Any], last: str, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"stage": method, "step": step, **EXACT, **row} for step in (1, 2)]
    panels = plots.panels_of(rows, method)
    assert panels[-1][0] == last and len(panels) == (4 if method == "best_of_n" else 5)
    assert all(set(panel[1:]) != {None} for panel in panels)
    plots.plot_curves(rows, tmp_path / "curves.png", method)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_metric_that_was_never_logged_has_no_panel(tmp_path: Path) -> None:
    rows = [{"stage": "exact", "step": 1, "loss": 1.0, "exact/kl": 0.1, "exact/optimum_fraction": None}]
    assert [panel[0] for panel in plots.panels_of(rows, "exact")] == ["KL to the reference, nats", "Loss, -J / beta"]
    plots.plot_curves([], tmp_path / "curves.png", "exact")
    assert (tmp_path / "curves.png").exists()
