"""The report of a comparison: what its tables, figures, HTML and Markdown say, and that a browser shows all of it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from comparison_data import METHODS, comparison_data, small, thirty_labels
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from conftest import CHROMIUM, REPOSITORY
from eightball_ppo.comparison.report import page as report_page
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.figures import Chart, charts, inline
from eightball_ppo.comparison.report.tables import Condition, block, blocks, conditions, flips, pair_groups
from eightball_ppo.comparison.report.write import write_report
from eightball_ppo.report.markdown import escaped
from eightball_ppo.report.style import outline, plot_theme, row_name, styles

EVIL = '<script>alert("Q")</script> | a `b` $x^{$ =1+1 [c](http://evil.example) @me *so* __x__ <img src=x>\n# head'
LINE = " ".join(EVIL.split())
LABELS = ("<b>$x^{$</b>", "a|b", "No")
FIGURES = {"score_kl", "curves_episodes", "curves_grader_calls", "coverage", "gold", "labels", "noise"}


def hole(method: str, seed: int, why: str, beta: float = 0.5) -> dict[str, Any]:
    return {"method": method, "threshold": None, "seed": seed, "beta": beta, "noise": 0.0, "budget": None, "why": why}


HOLES = [hole("ppo", 1, EVIL), *(hole("rloo", seed, "the loss is not finite") for seed in range(2))]


@pytest.fixture(scope="module")
def data() -> ComparisonData:
    """Hostile words wherever words come from data, runs that failed, noise and budgets."""
    made = comparison_data(
        methods=("sft", "distill", "ppo", "rloo", "exact"),
        thresholds=(0.99,),
        seeds=2,
        conditions=((0.0, None), (0.3, None)),
        labels=LABELS,
        failed_runs=HOLES,
        headline=[EVIL, "PPO's lead over distill@0.99 cannot be told from chance."],
        settings={EVIL: EVIL, "none": None, "betas": [0.1, 0.5]},
        environment={"python": EVIL},
        command=f"python scripts/compare.py \\\n  ```</code></pre>{LINE}",
        grader=EVIL,
        dataset=EVIL,
    )
    words = {"question": EVIL, "gold_label": LABELS[0], "before": LABELS[0], "after": LABELS[1]}
    return replace(
        made,
        flips=made.flips.assign(**words),
        results=made.results.assign(run_dir=EVIL),
        pairs=made.pairs.assign(sentence=EVIL),
    )


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


class Page(HTMLParser):
    """Tags, attributes and the text of table cells; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "source", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


# --- tables


def test_methods_are_sorted_and_the_reference_is_last(data: ComparisonData) -> None:
    for one in blocks(data, Condition()):
        names = [row["name"] for row in one["rows"]]
        fractions = [row["optimum_fraction"].estimate for row in one["rows"] if row["seeds"]]
        assert names[-1] == "sft" and set(names) == {"sft", "distill", "distill@0.99", "ppo", "rloo", "exact"}
        assert fractions[:-1] == sorted(fractions[:-1], reverse=True)
        assert one["gold"] == (one["split"] == "heldout")
        assert all(0 <= end <= 100 for row in one["rows"] if row["bar"] for end in row["bar"].values())
    assert conditions(data) == [Condition(), Condition(0.3)]
    row = block(data, Condition(), 0.1, "heldout")["rows"][0]
    own = data.intervals.query("metric == 'gold_accuracy' and beta == 0.1 and split == 'heldout' and noise == 0")
    own = own[own["name"] == row["name"]]
    assert tuple(row["gold_accuracy"]) == tuple(own[["estimate", "low", "high"]].iloc[0])
    runs = data.results.query("beta == 0.1 and split == 'heldout' and noise == 0 and name == @row['name']")
    assert row["kl"] == pytest.approx(runs["kl"].mean())


def test_holes_are_shown_with_their_reasons(data: ComparisonData, report: Path) -> None:
    shown = block(data, Condition(), 0.5, "heldout")
    rows = {row["name"]: row for row in shown["rows"]}
    assert rows["ppo"]["note"] == "1 of 2 seeds" and rows["rloo"]["note"] == "0 of 2 seeds"
    assert rows["rloo"]["kl"] is None and shown["rows"][-2]["name"] == "rloo" and not rows["exact"]["note"]
    assert sorted(shown["reasons"]) == sorted([LINE, "the loss is not finite"])
    assert [shown["reasons"][ref - 1] for ref in rows["rloo"]["refs"]] == ["the loss is not finite"]
    assert not block(data, Condition(), 0.1, "heldout")["reasons"]
    page, text = ((report / name).read_text() for name in ("report.html", "report.md"))
    assert page.count("the loss is not finite") == 2 and "1 of 2 seeds" in page and "3 runs failed" in page
    assert "| `rloo` (0 of 2 seeds, [1]) | \u2013 | \u2013 |" in text.replace("[2]", "[1]")
    targets = {attributes["id"] for _, attributes in Page(page).tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in Page(page).tags if tag == "a"]
    assert all(link and link.removeprefix("#") in targets for link in links)


def test_a_method_that_is_nowhere_but_in_holes_has_a_row() -> None:
    made = small(failed_runs=[hole("grpo", 0, "no")])
    whole = replace(made, failed_runs=[hole("grpo", 0, "no", beta=0.1), hole("ppo", 0, "never ran", beta=0.2)])
    shown = block(whole, Condition(), 0.1, "train")
    assert [row["name"] for row in shown["rows"]][-2:] == ["grpo", "sft"] and shown["rows"][-2]["seeds"] == 0
    assert {row["name"] for row in block(whole, Condition(), 0.2, "train")["rows"]} == {"ppo"}
    assert "never ran" in report_page.render_html(whole, [])


def test_pairs_and_flips(data: ComparisonData) -> None:
    groups = pair_groups(data)
    assert groups[0]["title"] == "share of the optimum, beta 0.1, training questions"
    assert sum(len(group["rows"]) for group in groups) == len(data.pairs)
    for group in groups:
        assert [row["p_holm"] for row in group["rows"]] == sorted(row["p_holm"] for row in group["rows"])
    found = flips(data)
    assert len(found) == 30 and found[0]["change"] == data.flips["change"].max()
    assert [row["change"] for row in found] == sorted((row["change"] for row in found), reverse=True)


def test_sentences_tell_ppo_against_distillation_first() -> None:
    told = report_page._view(comparison_data(seeds=2))["sentences"]
    assert len(told) == 8 and all({"ppo", "distill"} <= set(words.split()) for words in told[:2])
    assert {words.partition(":")[0] for words in told[:2]} == {f"Beta {b}, held-out questions" for b in (0.1, 0.5)}
    fixed = report_page._view(comparison_data(methods=("sft", "ppo", "exact"), thresholds=(0.9,)))["sentences"]
    assert all("distill@0.9" in words and "ppo" in words for words in fixed[:2])


def test_a_long_headline_is_folded() -> None:
    made = small(headline=[f"sentence {place}." for place in range(20)])
    page, text = report_page.render_html(made, []), report_page.render_markdown(made, [])
    assert "<summary>8 more</summary>" in page and all(f"sentence {place}." in page for place in range(20))
    assert "<summary>8 more sentences</summary>" in text and all(f"- sentence {place}." in text for place in range(20))


# --- words that come from data


def test_nothing_of_the_data_becomes_markup(report: Path, data: ComparisonData) -> None:
    text = (report / "report.html").read_text()
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not {"script", "b", "object", "iframe", "style>"} & names and "&lt;script&gt;alert(" in text
    for tag, attributes in page.tags:
        sources = [attributes[name] for name in ("src", "srcset") if name in attributes]
        assert all(source and source.startswith("data:image/svg+xml;base64,") for source in sources), tag
        assert not [name for name in attributes if name.startswith("on")]
        assert tag != "img" or attributes["alt"]
        assert tag != "link" or attributes["href"] == "data:,"
    runs = len(data.results) // 2
    assert page.cells.count(EVIL) == 30 + runs + 3  # flips, directories, a setting's name and value, the environment
    assert set(LABELS) <= set(page.cells)


def test_markdown_tables_survive_the_data(report: Path) -> None:
    text = (report / "report.md").read_text()
    page = Page(MarkdownIt("commonmark").enable("table").render(text))
    names = {tag for tag, _ in page.tags}
    assert not {"script", "b", "a", "em>"} & names
    assert page.cells.count(LINE) == 30 + 3  # the flips, a setting's name and value, and a line of the environment
    assert LABELS[1] in page.cells and LABELS[0] in page.cells and "distill@0.99" in page.cells
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert images == [f"figures/{name}.png" for name in list_of_figures(report)]
    lines = text.splitlines()
    for line, above in zip(lines[1:], lines, strict=False):  # every row is as wide as the one above it
        if line.startswith("|") and above.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", above)), line
    assert "\n````bash\npython scripts/compare.py" in text and text.endswith("\n````\n")
    assert "`distill@0.99` cannot be told" in text and "PPO's lead" in text


def list_of_figures(report: Path) -> list[str]:
    """The figures in the order of the HTML page."""
    ids = [attributes.get("id") for _, attributes in Page((report / "report.html").read_text()).tags]
    return [name for name in ids if name in FIGURES]


@pytest.mark.parametrize(
    "text", ["# x", "- x", "+ x", "1. x", "> x", "=x", "___", "a\\|b", "a_b _c_", "<!-- x", "&lt;"]
)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    html = MarkdownIt("commonmark").enable("table").render(f"| h |\n|---|\n| {escaped(text)} |")
    assert Page(html).cells == ["h", text]
    html = MarkdownIt("commonmark").render(f"- {escaped(text)}")
    assert [tag for tag, _ in Page(html).tags] == ["ul", "li"]


# --- figures


def test_figures_are_files_and_parquet_holds_what_is_drawn(report: Path, data: ComparisonData) -> None:
    made = {chart.name: chart for chart in charts(data)}
    assert set(made) == FIGURES and list(made) == list_of_figures(report)
    files = {file.name for file in (report / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "parquet")}
    for chart in made.values():
        numbers = pd.read_parquet(report / "figures" / f"{chart.name}.parquet")
        pd.testing.assert_frame_equal(numbers, chart.frame.reset_index(drop=True), check_dtype=False)
        assert (report / "figures" / f"{chart.name}.png").read_bytes()[:4] == b"\x89PNG"
        svg = (report / "figures" / f"{chart.name}.svg").read_text()
        assert "<script" not in svg and "<b>" not in svg and "system-ui" in svg
    assert "&lt;b&gt;$x^{$&lt;/b&gt;" in (report / "figures" / "labels.svg").read_text()


def drawn(chart: Chart, panel: str, frame: pd.DataFrame) -> Any:
    axis = Figure().subplots()
    chart.draw(axis, frame[frame["panel"] == panel], plot_theme(chart.styles, dark=False))
    return axis


def test_points_and_lines_are_those_of_the_parquet_file(report: Path, data: ComparisonData) -> None:
    made = {chart.name: chart for chart in charts(data)}
    numbers = {name: pd.read_parquet(report / "figures" / f"{name}.parquet") for name in made}
    for name, x, y in (("score_kl", "kl", "expected_score"), ("gold", "expected_score", "gold_accuracy")):
        axis = drawn(made[name], "held-out questions", numbers[name])
        rows = numbers[name].query("panel == 'held-out questions' and name == 'ppo'")
        points = np.concatenate([own.get_offsets() for own in axis.collections if own.get_label() == "ppo"])
        assert sorted(map(tuple, points)) == sorted(rows[[x, y]].itertuples(index=False, name=None))
    axis = drawn(made["score_kl"], "training questions", numbers["score_kl"])
    line = next(own for own in axis.lines if own.get_label() == "frontier")
    curve = numbers["score_kl"].query("panel == 'training questions' and kind == 'frontier'")
    assert np.array_equal(line.get_xydata(), curve[["kl", "expected_score"]])
    for name, x in (("curves_episodes", "episode"), ("curves_grader_calls", "grader_calls")):
        lines = {own.get_label(): own for own in drawn(made[name], "beta 0.1", numbers[name]).lines}
        mean = numbers[name].query("panel == 'beta 0.1' and name == 'ppo' and kind == 'mean'")
        assert np.array_equal(lines["ppo"].get_xydata(), mean[[x, "optimum_fraction"]])
        assert len(set(lines["distill"].get_ydata())) == 1 and lines["distill"].get_linestyle() == "--"
    axis = drawn(made["noise"], "gold accuracy, beta 0.1", numbers["noise"])
    heights = next(own.get_ydata() for own in axis.lines if own.get_label() == "exact")
    assert list(heights) == list(
        numbers["noise"].query("panel == 'gold accuracy, beta 0.1' and name == 'exact'")["estimate"]
    )
    assert [own.get_text() for own in axis.get_xticklabels()] == ["0", "0.3"]


def test_the_frontier_is_above_the_runs_and_the_mean_is_the_mean(data: ComparisonData) -> None:
    made = {chart.name: chart for chart in charts(data)}
    frame = made["score_kl"].frame.query("panel == 'training questions'")
    curve, runs = (frame[frame["kind"] == kind] for kind in ("frontier", "run"))
    assert curve["kl"].is_monotonic_increasing and set(frame[frame["kind"] == "beta"]["beta"]) == {0.1, 0.5}
    assert (np.interp(runs["kl"], curve["kl"], curve["expected_score"]) >= runs["expected_score"] - 0.06).all()
    frame = made["curves_episodes"].frame.query("panel == 'beta 0.1' and name == 'ppo'")
    seeds = frame[frame["kind"] == "seed"].groupby("episode")["optimum_fraction"].mean()
    mean = frame[frame["kind"] == "mean"].set_index("episode")["optimum_fraction"]
    pd.testing.assert_series_equal(seeds, mean, check_names=False)


def test_a_figure_of_budgets() -> None:
    made = small(seeds=2, gold=True, conditions=((0.0, 1200), (0.0, None), (0.2, None), (0.0, 300)))
    chart = {chart.name: chart for chart in charts(made)}["budget"]
    assert [panel for panel, _ in chart.panels()] == ["gold accuracy, beta 0.1", "objective, beta 0.1"]
    axis = drawn(chart, "objective, beta 0.1", chart.frame)
    assert [own.get_text() for own in axis.get_xticklabels()] == ["300", "1,200", "no limit"]
    unknown = replace(made, intervals=pd.DataFrame())  # then from the lowest to the highest seed
    own = next(chart for chart in charts(unknown) if chart.name == "budget").frame.query("name == 'ppo'").iloc[-1]
    values = made.results.query("name == 'ppo' and split == 'heldout' and noise == 0 and budget.isna()")["objective"]
    assert (own["low"], own["high"], own["level"]) == (values.min(), values.max(), "no limit")


def test_a_method_looks_like_no_other() -> None:
    names = [*METHODS, "new"]
    found = styles([*names, "distill@0.9", "distill@0.99"])
    assert len({style.marker for style in found.values()}) == len(found) == 12
    assert next(iter(found)) == "exact" and list(found)[-1] == "sft"
    assert found["distill@0.9"].light == found["distill"].light
    assert len({outline(style.marker) for style in found.values()}) == len(found)
    assert (
        row_name("distill", 0.990) == "distill@0.99" and row_name("ppo", None) == row_name("ppo", float("nan")) == "ppo"
    )


# --- less than everything


def test_one_seed_and_no_gold_are_said() -> None:
    made = small()
    names = {chart.name for chart in charts(made)}
    assert names == {"score_kl", "curves_episodes", "curves_grader_calls", "coverage", "labels"}
    page, text = report_page.render_html(made, []), report_page.render_markdown(made, [])
    for words in (page, text):
        assert "one seed" in words and "over seeds and questions" not in words
        assert "there is no gold accuracy" in words and "nan" not in words.lower().replace("nanc", "")
    assert "over seeds and questions" in report_page.render_html(small(seeds=2), [])
    assert "gold accuracy |" not in text and "gold<br>" not in page


def test_a_score_that_never_varies_and_empty_frames() -> None:
    made = small()
    flat = replace(
        made,
        results=made.results.assign(optimum_fraction=None),
        curves=made.curves.assign(optimum_fraction=np.nan),
        intervals=pd.DataFrame(),
        pairs=pd.DataFrame(),
        flips=pd.DataFrame(),
        coverage=pd.DataFrame(),
        frontier=pd.DataFrame(),
    )
    found = {chart.name: chart for chart in charts(flat)}
    assert set(found) == {"score_kl", "curves_episodes", "curves_grader_calls", "labels"}
    assert "expected_score" in found["curves_episodes"].frame
    for chart in found.values():
        assert len(inline(chart)) >= 1
    for words in (report_page.render_html(flat, []), report_page.render_markdown(flat, [])):
        assert "Largest flips" not in words and "Pairs" not in words
    nothing = replace(flat, results=pd.DataFrame(), curves=pd.DataFrame(), failed_runs=[hole("ppo", 0, "it broke")])
    assert charts(nothing) == [] and "it broke" in report_page.render_html(nothing, [])
    report_page.render_markdown(nothing, [])


def test_a_frame_that_lacks_columns_is_refused() -> None:
    made = small()
    with pytest.raises(ValueError, match=r"ComparisonData\.results lacks the columns \['kl', 'win_rate'\]"):
        replace(made, results=made.results.drop(columns=["kl", "win_rate"]))


def test_the_same_data_gives_the_same_bytes(many: Path, tmp_path: Path) -> None:
    """In another process, whose sets are in another order."""
    code = (
        "from pathlib import Path\nfrom comparison_data import thirty_labels\n"
        "from eightball_ppo.comparison.report.write import write_report\nwrite_report(thirty_labels(), Path('.'))"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted(file.relative_to(many) for file in many.rglob("*.*"))
    assert len(files) == 2 + 3 * 3
    for file in files:
        assert (many / file).read_bytes() == (tmp_path / file).read_bytes(), file


# --- a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield own
        own.close()


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


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("which", ["report", "many"])
def test_a_browser_shows_all_of_it(which: str, width: int, theme: str, browser: Any, request: Any) -> None:
    file = request.getfixturevalue(which) / "report.html"
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda own: asked.append(own.url))
    page.goto(file.as_uri())
    seen = page.evaluate(SEEN)
    page.close()
    assert not said and not seen["faults"]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert seen["width"] <= width and seen["images"] >= 4
    text = file.read_text()
    shown = text.index(seen["sources"][0])
    assert text[:shown].endswith(f'{"srcset" if theme == "dark" else "src"}="')
    assert seen["colour"] == ("rgb(246, 247, 249)" if theme == "light" else "rgb(18, 23, 29)")
