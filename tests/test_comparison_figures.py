"""The figures of a comparison's report: what they draw, their files, and how a browser shows the page."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from comparison_data import METHODS, comparison_data, small, thirty_labels
from matplotlib.figure import Figure

from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.figures import Chart, charts, inline
from eightball_ppo.comparison.report.write import write_report
from eightball_ppo.report.style import outline, plot_theme, row_name, styles

FIGURES = {"score_kl", "curves_episodes", "curves_grader_calls", "coverage", "gold", "labels", "noise"}
FIGURES |= {"reliability", "risk_coverage"}
LABELS = ("<b>$x^{$</b>", "a|b", "No")


@pytest.fixture(scope="module")
def data() -> ComparisonData:
    """Noise, a threshold, and a label that is markup and mathematics."""
    methods = ("sft", "distill", "ppo", "rloo", "exact")
    conditions = (("", None), ("0.3", None))
    return comparison_data(methods=methods, thresholds=(0.99,), seeds=2, conditions=conditions, labels=LABELS)


@pytest.fixture(scope="module")
def made(data: ComparisonData) -> dict[str, Chart]:
    return {chart.name: chart for chart in charts(data)}


@pytest.fixture(scope="module")
def report(data: ComparisonData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_report(data, directory)
    return directory


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty labels, some with long names."""
    directory = tmp_path_factory.mktemp("many")
    write_report(thirty_labels(), directory)
    return directory


@pytest.mark.slow
def test_every_figure_is_written_as_png_svg_and_parquet(
    report: Path, data: ComparisonData, made: dict[str, Chart]
) -> None:
    assert set(made) == FIGURES
    files = {file.name for file in (report / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "parquet")}
    for name, chart in made.items():
        numbers = pd.read_parquet(report / "figures" / f"{name}.parquet")
        pd.testing.assert_frame_equal(numbers, chart.frame.reset_index(drop=True), check_dtype=False)
        assert (report / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        svg = (report / "figures" / f"{name}.svg").read_text()
        assert "<script" not in svg and "<b>" not in svg and "system-ui" in svg
    assert "&lt;b&gt;$x^{$&lt;/b&gt;" in (report / "figures" / "labels.svg").read_text()
    page, text = ((report / name).read_text() for name in ("report.html", "report.md"))
    assert all(f'id="{name}"' in page for name in made)
    assert re.findall(r"\(figures/(\w+)\.png\)", text) == list(made)


def drawn(chart: Chart, panel: str) -> Any:
    """The axes of one panel."""
    axis = Figure().subplots()
    chart.draw(axis, chart.frame[chart.frame["panel"] == panel], plot_theme(chart.styles, dark=False))
    return axis


def test_points_and_lines_are_those_of_the_frame(made: dict[str, Chart]) -> None:
    for name, x, y in (("score_kl", "kl", "expected_score"), ("gold", "expected_score", "gold_accuracy")):
        axis = drawn(made[name], "held-out questions")
        rows = made[name].frame.query("panel == 'held-out questions' and name == 'ppo'")
        points = np.concatenate([dots.get_offsets() for dots in axis.collections if dots.get_label() == "ppo"])
        assert sorted(map(tuple, points)) == sorted(rows[[x, y]].itertuples(index=False, name=None))
    axis = drawn(made["score_kl"], "training questions")
    line = next(line for line in axis.lines if line.get_label() == "frontier")
    curve = made["score_kl"].frame.query("panel == 'training questions' and kind == 'frontier'")
    assert curve["kl"].is_monotonic_increasing
    assert np.array_equal(line.get_xydata(), curve[["kl", "expected_score"]])
    for name, x in (("curves_episodes", "episode"), ("curves_grader_calls", "grader_calls")):
        lines = {line.get_label(): line for line in drawn(made[name], "beta 0.1").lines}
        mean = made[name].frame.query("panel == 'beta 0.1' and name == 'ppo' and kind == 'mean'")
        assert np.array_equal(lines["ppo"].get_xydata(), mean[[x, "optimum_fraction"]])
        assert len(set(lines["distill"].get_ydata())) == 1 and lines["distill"].get_linestyle() == "--"
    axis = drawn(made["noise"], "gold accuracy, beta 0.1")
    heights = next(line.get_ydata() for line in axis.lines if line.get_label() == "exact")
    bars = made["noise"].frame.query("panel == 'gold accuracy, beta 0.1' and name == 'exact'")
    assert list(heights) == list(bars["estimate"])
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0", "0.3"]


def test_the_mean_curve_is_the_mean_of_the_seeds(made: dict[str, Chart]) -> None:
    frame = made["curves_episodes"].frame.query("panel == 'beta 0.1' and name == 'ppo'")
    seeds = frame[frame["kind"] == "seed"].groupby("episode")["optimum_fraction"].mean()
    mean = frame[frame["kind"] == "mean"].set_index("episode")["optimum_fraction"]
    pd.testing.assert_series_equal(seeds, mean, check_names=False)


def test_the_budget_figure_has_an_interval_or_the_range_of_the_seeds() -> None:
    made = small(seeds=2, gold=True, conditions=(("", 1200), ("", None), ("0.2", None), ("", 300)))
    chart = {chart.name: chart for chart in charts(made)}["budget"]
    assert [panel for panel, _ in chart.panels()] == ["gold accuracy, beta 0.1", "objective, beta 0.1"]
    axis = drawn(chart, "objective, beta 0.1")
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["300", "1,200", "no limit"]
    no_intervals = charts(replace(made, intervals=pd.DataFrame()))
    row = next(chart for chart in no_intervals if chart.name == "budget").frame.query("name == 'ppo'").iloc[-1]
    values = made.results.query("name == 'ppo' and split == 'heldout' and noise == '' and budget.isna()")["objective"]
    assert (row["low"], row["high"], row["level"]) == (values.min(), values.max(), "no limit")


def test_every_method_has_a_marker_and_a_name_that_no_other_has() -> None:
    found = styles([*METHODS, "new", "distill@0.9", "distill@0.99"])
    assert len({style.marker for style in found.values()}) == len(found) == 15
    assert next(iter(found)) == "exact" and list(found)[-1] == "sft"
    assert found["distill@0.9"].light == found["distill"].light
    assert len({outline(style.marker) for style in found.values()}) == len(found)
    assert (
        row_name("distill", 0.990) == "distill@0.99" and row_name("ppo", None) == row_name("ppo", float("nan")) == "ppo"
    )


def test_figures_without_data_are_left_out() -> None:
    made = small()
    assert {chart.name for chart in charts(made)} == {
        *("score_kl", "curves_episodes", "curves_grader_calls", "coverage", "labels")
    }
    empty: dict[str, Any] = dict.fromkeys(("intervals", "coverage", "frontier"), pd.DataFrame())
    flat = replace(
        made,
        results=made.results.assign(optimum_fraction=None),
        curves=made.curves.assign(optimum_fraction=np.nan),
        **empty,
    )
    found = {chart.name: chart for chart in charts(flat)}
    assert set(found) == {"score_kl", "curves_episodes", "curves_grader_calls", "labels"}
    assert "expected_score" in found["curves_episodes"].frame and inline(found["score_kl"])


SEEN = """() => {
  document.querySelectorAll('details').forEach(one => { one.open = true });
  const faults = [];
  for (const one of document.querySelectorAll('img, svg')) {
    const box = one.getBoundingClientRect();
    const shown = one.checkVisibility({checkOpacity: true, checkVisibilityCSS: true});
    const loaded = one.tagName !== 'IMG' || (one.complete && one.naturalWidth > 0);
    if (!shown || !loaded || box.width < 8 || box.height < 8) faults.push(one.outerHTML.slice(0, 200));
  }
  for (const one of document.querySelectorAll('main *')) {
    const right = one.getBoundingClientRect().right;
    if (right > innerWidth + 0.5 && !one.closest('.scroll, pre')) faults.push(one.outerHTML.slice(0, 200));
  }
  return {faults, width: document.documentElement.scrollWidth, images: document.images.length,
          colour: getComputedStyle(document.body).backgroundColor,
          sources: [...document.images].map(one => one.currentSrc)};
}"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("which", ["report", "many"])
def test_a_browser_shows_all_of_it(which: str, width: int, theme: str, browser: Any, request: Any) -> None:
    file = request.getfixturevalue(which) / "report.html"
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    console: list[str] = []
    requested: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    seen = page.evaluate(SEEN)
    page.close()
    assert not console and not seen["faults"]
    assert [url for url in requested if not url.startswith("data:")] == [file.as_uri()]
    assert seen["width"] <= width and seen["images"] >= 4
    text = file.read_text()
    shown = text.index(seen["sources"][0])
    assert text[:shown].endswith(f'{"srcset" if theme == "dark" else "src"}="')
    assert seen["colour"] == ("rgb(246, 247, 249)" if theme == "light" else "rgb(18, 23, 29)")
