"""The report of a comparison: the contents of its tables, HTML and Markdown, and texts from data that are escaped."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from comparison_data import comparison_data, small
from markdown_it import MarkdownIt

from conftest import REPOSITORY
from eightball_ppo.comparison.report import figures
from eightball_ppo.comparison.report import page as report_page
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.figures import charts
from eightball_ppo.comparison.report.tables import Condition, block, blocks, conditions, flips, pair_groups
from eightball_ppo.comparison.report.write import write_report
from eightball_ppo.report.markdown import escaped

EVIL = '<script>alert("Q")</script> | a `b` $x^{$ =1+1 [c](http://evil.example) @me *so* __x__ <img src=x>\n# head'
LINE = " ".join(EVIL.split())
LABELS = ("<b>$x^{$</b>", "a|b", "No")


def failed_run(method: str, seed: int, why: str, beta: float = 0.5) -> dict[str, Any]:
    return {"method": method, "threshold": None, "seed": seed, "beta": beta, "noise": "", "budget": None, "why": why}


FAILED_RUNS = [failed_run("ppo", 1, EVIL), *(failed_run("rloo", seed, "the loss is not finite") for seed in range(2))]


@pytest.fixture(scope="module")
def data() -> ComparisonData:
    """Hostile texts wherever a text comes from data, failed runs and noise."""
    made = comparison_data(
        methods=("sft", "distill", "ppo", "rloo", "exact"),
        thresholds=(0.99,),
        seeds=2,
        conditions=(("", None), ("0.3", None)),
        labels=LABELS,
        failed_runs=FAILED_RUNS,
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
    """The report with one of its figures, that of the labels."""
    directory = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "charts", lambda data: [chart for chart in charts(data) if chart.name == "labels"])
        write_report(data, directory)
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


def test_methods_are_sorted_by_the_first_column_with_the_reference_last(data: ComparisonData) -> None:
    for one in blocks(data, Condition()):
        names = [row["name"] for row in one["rows"]]
        first = [row["main"].estimate for row in one["rows"] if row["seeds"]]
        assert names[-1] == "sft" and set(names) == {"sft", "distill", "distill@0.99", "ppo", "rloo", "exact"}
        assert first[:-1] == sorted(first[:-1], reverse=True)
        assert one["gold"] == (one["split"] == "heldout")
        assert one["columns"][0] == ("gold_accuracy" if one["gold"] else "optimum_fraction")
        assert all(0 <= end <= 100 for row in one["rows"] if row["bar"] for end in row["bar"].values())
    assert conditions(data) == [Condition(), Condition("0.3")]
    row = block(data, Condition(), 0.1, "heldout")["rows"][0]
    interval = data.intervals.query("metric == 'gold_accuracy' and beta == 0.1 and split == 'heldout' and noise == ''")
    interval = interval[interval["name"] == row["name"]]
    assert tuple(row["cells"]["gold_accuracy"]) == tuple(interval[["estimate", "low", "high"]].iloc[0])
    runs = data.results.query("beta == 0.1 and split == 'heldout' and noise == '' and name == @row['name']")
    assert row["cells"]["kl"].estimate == pytest.approx(runs["kl"].mean())


def test_a_method_that_asks_the_grader_stands_apart_and_says_so() -> None:
    made = comparison_data(seeds=2)
    best = made.results.assign(
        gold_accuracy=made.results["gold_accuracy"].where(made.results["name"] != "best_of_n", 1.0)
    )
    rows = block(replace(made, results=best, intervals=pd.DataFrame()), Condition(), 0.1, "heldout")["rows"]
    assert rows[-1]["name"] == "sft" and not rows[0]["note"] and rows[0]["main"].estimate < 1.0
    notes = {row["name"]: row["note"] for row in rows}
    assert notes["best_of_n"] == "asks the grader about every text" and notes["bag_of_words"] == "baseline"


def test_the_titles_say_how_sure_the_optimum_is_and_how_much_of_it_the_student_reaches(
    data: ComparisonData, report: Path
) -> None:
    exact = data.results.query("name == 'exact' and beta == 0.1 and split == 'train' and noise == ''")
    ceiling = f"the student's own ceiling, by exact on training questions: {exact['optimum_fraction'].mean():.3f} of it"
    words = f"(the optimum's most probable answer: 0.900 on average; {ceiling})"
    assert f"beta 0.1 {words}" in block(data, Condition(), 0.1, "heldout")["title"]
    assert f"Beta 0.1 {escaped(words)}, held-out questions" in (report / "report.md").read_text()


def test_failed_runs_are_shown_with_their_reasons(data: ComparisonData, report: Path) -> None:
    shown = block(data, Condition(), 0.5, "heldout")
    rows = {row["name"]: row for row in shown["rows"]}
    assert rows["ppo"]["note"] == "1 of 2 seeds" and rows["rloo"]["note"] == "0 of 2 seeds"
    assert (
        rows["rloo"]["cells"]["kl"].estimate is None
        and shown["rows"][-2]["name"] == "rloo"
        and not rows["exact"]["note"]
    )
    assert sorted(shown["reasons"]) == sorted([LINE, "the loss is not finite"])
    assert [shown["reasons"][ref - 1] for ref in rows["rloo"]["refs"]] == ["the loss is not finite"]
    assert not block(data, Condition(), 0.1, "heldout")["reasons"]
    page, text = ((report / name).read_text() for name in ("report.html", "report.md"))
    assert page.count("the loss is not finite") == 2 and "1 of 2 seeds" in page and "3 runs failed" in page
    assert "| `rloo` (0 of 2 seeds, [1]) | \u2013 | \u2013 |" in text.replace("[2]", "[1]")
    targets = {attributes["id"] for _, attributes in Page(page).tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in Page(page).tags if tag == "a"]
    assert all(link and link.removeprefix("#") in targets for link in links)


def test_pairs_are_sorted_by_p_and_flips_by_change(data: ComparisonData) -> None:
    groups = pair_groups(data)
    assert groups[0]["title"] == "objective, beta 0.1, training questions"
    assert sum(len(group["rows"]) for group in groups) == len(data.pairs)
    for group in groups:
        assert [row["p_holm"] for row in group["rows"]] == sorted(row["p_holm"] for row in group["rows"])
    found = flips(data)
    assert len(found) == 30 and found[0]["change"] == data.flips["change"].max()
    assert [row["change"] for row in found] == sorted((row["change"] for row in found), reverse=True)


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
    assert [attributes["src"] for tag, attributes in page.tags if tag == "img"] == ["figures/labels.png"]
    lines = text.splitlines()
    for line, above in zip(lines[1:], lines, strict=False):  # every row is as wide as the one above it
        if line.startswith("|") and above.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", above)), line
    assert "\n````bash\npython scripts/compare.py" in text and text.endswith("\n````\n")
    assert "`distill@0.99` cannot be told" in text and "PPO's lead" in text


@pytest.mark.parametrize(
    "text", ["# x", "- x", "+ x", "1. x", "> x", "=x", "___", "a\\|b", "a_b _c_", "<!-- x", "&lt;"]
)
def test_markdown_shows_a_text_as_it_is(text: str) -> None:
    html = MarkdownIt("commonmark").enable("table").render(f"| h |\n|---|\n| {escaped(text)} |")
    assert Page(html).cells == ["h", text]
    html = MarkdownIt("commonmark").render(f"- {escaped(text)}")
    assert [tag for tag, _ in Page(html).tags] == ["ul", "li"]


def test_the_report_mentions_one_seed_and_missing_gold_labels() -> None:
    made = small()
    page, text = report_page.render_html(made, []), report_page.render_markdown(made, [])
    for words in (page, text):
        assert "one seed" in words and "over seeds and questions" not in words
        assert "there is no gold accuracy" in words and "nan" not in words.lower().replace("nanc", "")
    assert "over seeds and questions" in report_page.render_html(small(seeds=2), [])
    assert "gold accuracy |" not in text and "gold<br>" not in page


def test_empty_frames_leave_their_sections_out() -> None:
    made = small()
    empty: dict[str, Any] = dict.fromkeys(("intervals", "pairs", "flips", "coverage", "frontier"), pd.DataFrame())
    flat = replace(made, results=made.results.assign(optimum_fraction=None), **empty)
    for text in (report_page.render_html(flat, []), report_page.render_markdown(flat, [])):
        assert "Largest flips" not in text and "Pairs" not in text
    failed = replace(
        flat, results=pd.DataFrame(), curves=pd.DataFrame(), failed_runs=[failed_run("ppo", 0, "it broke")]
    )
    assert charts(failed) == [] and "it broke" in report_page.render_html(failed, [])
    assert "it broke" in report_page.render_markdown(failed, [])


@pytest.mark.slow
def test_report_has_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    """In another process sets have another order."""
    write_report(small(), tmp_path / "here")
    code = (
        "from pathlib import Path\nfrom comparison_data import small\n"
        "from eightball_ppo.comparison.report.write import write_report\nwrite_report(small(), Path('there'))"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    files = sorted(file.relative_to(tmp_path / "here") for file in (tmp_path / "here").rglob("*.*"))
    assert len(files) > 4
    for file in files:
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file
