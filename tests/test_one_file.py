"""One file for every stage: the columns, the held-out part, rows without labels, leaks, and no gold labels."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from conftest import LABELS, read_rows, write_rows
from eightball_ppo.auditing import run as auditing
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.methods import ReferenceConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig, SFTConfig
from eightball_ppo.data import columns, load_both, load_split
from eightball_ppo.errors import InputError
from eightball_ppo.graders import export
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.run import read_results

SET = LabelSet.of(LABELS)
TEXTS = [f"Will parcel {i} come?" for i in range(60)]
ANSWERS = [LABELS[i % 3] for i in range(60)]


class Judge(RuleGrader):
    """A rule whose accuracy is checked."""

    deliberate = False


@pytest.fixture(autouse=True)
def _say_again(no_figures: None) -> Iterator[None]:
    columns.log_once.cache_clear()
    yield


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def tickets(path: Path, labelled: int = 60) -> str:
    """A CSV with an id, a text and an intent, of which the first `labelled` rows have one."""
    rows = zip(TEXTS, ANSWERS, strict=True)
    return write(path, [{"id": i, "body": t, "Intent": a if i < labelled else ""} for i, (t, a) in enumerate(rows)])


def train(data: str, sft_run: Path, tmp_path: Path, name: str = "run", **options: Any) -> dict[str, Any]:
    """The results of a run that trains nothing, with a judge that always says Yes."""
    given = {"output_dir": str(tmp_path / name), "dataset_name": data, "disable_tqdm": True, **options}
    model = load_classifier(str(sft_run), "--sft_model_path")
    return read_results(run_method(ReferenceConfig(**given), model=model, judge=Judge("Yes", SET)))


def test_columns_and_held_out_part_are_found_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eightball_ppo")
    data = tickets(tmp_path / "tickets.csv")
    for _ in range(2):
        train, test = load_both(DataConfig(dataset_name=data), None, SET)
    assert [record.message for record in caplog.records] == [
        f"{data}: no split 'heldout'; 20% of the distinct questions to learn from are held out, by a hash of the text",
        f"{data}: texts from column 'body', labels from column 'Intent'",
    ]
    assert sorted([*train.texts, *test.texts]) == sorted(TEXTS) and 5 < len(test) < 20
    assert test.label_ids == [TEXTS.index(text) % 3 for text in test.texts] and not test.gold


@pytest.mark.parametrize(
    ("header", "text"),
    [(("ticket_id", "what", "label"), "what"), (("what", "message"), "message"), (("Query", "intent"), "Query")],
)
def test_the_text_column_has_a_usual_name_or_is_the_only_one_of_strings(header: tuple[str, ...], text: str) -> None:
    rows = [{name: f"{name} {i}" for name in header} for i in range(3)]
    assert columns.find_columns(DataConfig(dataset_name="x.csv"), "x.csv:2", rows, True).text == text


def test_columns_that_are_not_clear_are_listed_with_examples() -> None:
    rows = [{"n": 1, "subject": "Hello", "remark": "A long remark " * 9}]
    with pytest.raises(
        InputError,
        match=r"x.csv: any of \['subject', 'remark'\] .*'n' \(1\), 'subject' \('Hello'\), 'remark' .*--text_col",
    ):
        columns.find_columns(DataConfig(dataset_name="x.csv"), "x.csv:2", rows, False)
    with pytest.raises(InputError, match=r"x.csv:2: no column 'bdy'"):
        columns.find_columns(DataConfig(dataset_name="x.csv", text_column="bdy"), "x.csv:2", rows, False)
    with pytest.raises(InputError, match=r"x.csv:2: no column 'tag'"):
        named = DataConfig(dataset_name="x.csv", text_column="subject", label_column="tag")
        columns.find_columns(named, "x.csv:2", rows, True)


def test_a_directory_with_one_split_and_other_names_of_splits_are_found(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    tickets(tmp_path / "one" / "mine.csv")
    assert sum(map(len, load_both(DataConfig(dataset_name=str(tmp_path / "one")), None, SET))) == 60
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": ANSWERS})
    split = datasets.DatasetDict({"train": rows.select(range(40)), "test": rows.select(range(40, 60))})
    split.save_to_disk(tmp_path / "saved")
    learn, test = load_both(DataConfig(dataset_name=str(tmp_path / "saved")), None, SET)
    assert (len(learn), len(test), test.gold) == (40, 20, True)


def test_rows_without_a_label_are_learned_from_and_measured_only_where_labels_are_few(tmp_path: Path) -> None:
    many, few = (DataConfig(dataset_name=tickets(tmp_path / f"{n}.csv", n), dataset_test_split="0.5") for n in (50, 6))
    graded, test = load_both(many, None, SET)
    assert len(graded) + len(test) == 60 and len(test) >= 20 and test.label_ids is not None
    assert set(TEXTS[50:]) <= set(graded.texts)
    graded, test = load_both(few, None, SET)
    assert len(graded) + len(test) == 60 and test.label_ids is None
    supervised, test = load_both(few, SET, SET)
    assert len(supervised) + len(test) == 6 and supervised.label_ids == [TEXTS.index(t) % 3 for t in supervised.texts]
    assert supervised.dropped["unlabelled_rows"] + test.dropped.get("unlabelled_rows", 0) <= 54


def test_training_needs_no_gold_labels(sft_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eightball_ppo")
    write_rows(tmp_path / "q.jsonl", [{"text": text} for text in TEXTS])
    results = train(str(tmp_path / "q.jsonl"), sft_run, tmp_path)
    heldout = results["splits"]["heldout"]
    assert not [name for name in heldout if name.startswith(("gold", "label_a", "label_p"))]
    assert 0 <= heldout["judge_agreement"] <= 1
    assert heldout["judge_agreement"] == heldout["greedy_histogram"]["Yes"]
    table = pd.read_parquet(tmp_path / "run" / "before_after.parquet")
    assert "gold_label" not in table and "label" not in table
    assert "gold" not in (tmp_path / "run" / "README.md").read_text().split("## How it was made")[0]
    assert "no gold labels, so its accuracy is unknown" in caplog.text


def test_labels_cut_from_the_training_file_are_not_gold(
    sft_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tickets(tmp_path / "tickets.csv")
    results = train(data, sft_run, tmp_path)
    heldout = results["splits"]["heldout"]
    assert "gold_accuracy" not in heldout and 0 <= heldout["label_accuracy"] <= 1
    assert "label" in pd.read_parquet(tmp_path / "run" / "before_after.parquet")
    assert caplog.text.count("held-out labels") == 1 and "which are not gold; --gold_file measures it" in caplog.text
    gold = write_rows(tmp_path / "gold.jsonl", [{"text": "Is it gold?", "label": "No"}])
    with pytest.raises(InputError, match=r"held-out accuracy 0.000 is not above 0.6"):
        train(data, sft_run, tmp_path, "other", gold_file=str(gold))
    results = train(data, sft_run, tmp_path, "other", gold_file=str(gold), allow_weak_grader=True)
    assert results["splits"]["heldout"]["questions"] == 1 and results["splits"]["train"]["questions"] == 60
    assert "gold_accuracy" in results["splits"]["heldout"]


@pytest.mark.parametrize("gold_file", [False, True])
def test_held_out_questions_are_dropped_from_training(
    gold_file: bool, sft_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learn = [{"question": text} for text in [*TEXTS, "is it OVER", "Am I late?", "am i late"]]
    write_rows(tmp_path / "rl.jsonl", learn)
    held = [{"question": text, "answer": "Yes"} for text in ("Is it over?", "Am I late?")]
    file = write_rows(tmp_path / ("gold.jsonl" if gold_file else "heldout.jsonl"), held)
    options = {"gold_file": str(file)} if gold_file else {}
    results = train(str(tmp_path), sft_run, tmp_path, **options)
    assert results["splits"]["train"]["questions"] == 60 and results["splits"]["heldout"]["questions"] == 2
    assert results["dropped_rows"] == {"bad_rows": 0, "unlabelled_rows": 0, "leaked_questions": 3}
    assert "3 of 63 training questions are held-out questions of" in caplog.text


def test_the_embedded_data_are_read_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eightball_ppo")
    for config in (ReferenceConfig(output_dir="a"), SFTConfig(output_dir="b")):
        config.dataset_name = str(Path(__file__).parents[1] / "datasets" / "eightball")
        learn, test = load_both(config, None, SET)
        for questions, split in ((learn, config.default_train_split), (test, "heldout")):
            rows = read_rows(split)
            assert list(questions.texts) == [row["question"] for row in rows]
        assert test.label_ids == [LABELS.index(row["answer"]) for row in rows] and test.gold
    assert not caplog.records


def test_sft_learns_the_labelled_rows_of_one_file(tmp_path: Path) -> None:
    config = SFTConfig(
        output_dir=str(tmp_path / "sft"), dataset_name=tickets(tmp_path / "t.csv", 40), disable_tqdm=True
    )
    config.num_train_epochs = 1
    results = read_results(sft.train(config))
    heldout = results["splits"]["heldout"]
    assert sum(results["splits"]["heldout"]["training_counts"].values()) + heldout["questions"] == 40
    assert results["dropped_rows"]["unlabelled_rows"] == 20 and "label_accuracy" in heldout


def test_grade_takes_one_unlabelled_file(sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_rows(tmp_path / "q.jsonl", [{"text": text} for text in TEXTS[:3]])
    monkeypatch.setattr(SFTConfig, "output_dir", str(sft_run))
    config = GradeConfig(output_dir=str(tmp_path / "grades"), dataset_name=str(data), grader="rule:Yes")
    assert with_labels(config).labels == LABELS
    table = pd.read_parquet(export.run(config) / "grades.parquet")
    assert list(table["question"].unique()) == TEXTS[:3]


def test_labels_that_nothing_names_are_asked_for(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "q.jsonl", [{"text": text} for text in TEXTS])
    missing: dict[str, Any] = {
        "sft_model_path": str(tmp_path / "nowhere"),
        "reward_model_path": str(tmp_path / "nowhere"),
    }
    config = ReferenceConfig(output_dir=str(tmp_path / "run"), dataset_name=str(data), grader="rule:Yes", **missing)
    with pytest.raises(InputError, match=r"q.jsonl: none of the columns \['text'\] .*--label_column NAME or --labels"):
        with_labels(config)


def test_audit_reads_the_held_out_labels_of_one_file(tmp_path: Path) -> None:
    gold = load_split(DataConfig(dataset_name=tickets(tmp_path / "t.csv")), "test", SET)
    assert not gold.gold and gold.label_ids is not None and len(gold) < 20


def test_the_labels_are_those_of_a_gold_file_of_other_data(tmp_path: Path) -> None:
    gold = write_rows(tmp_path / "gold.jsonl", [{"text": f"Is it {n}?", "topic": "ab"[n % 2]} for n in range(6)])
    options: dict[str, Any] = {"text_column": "text", "label_column": "topic", "audit_questions": 1}
    config = AuditConfig(grader="rule:a", gold_file=str(gold), output_dir=str(tmp_path / "audit"), **options)
    record = json.loads((auditing.run(config) / "audit.json").read_text())
    assert record["labels"] == ["a", "b"] and record["accuracy"] == 0.5
    last = read_results(tmp_path / "audit")["verdict"][2]
    flags = f"--dataset_name YOUR_TEXTS --gold_file {gold} --text_column text --label_column topic"
    assert last == f"Next: eightball ppo --grader rule:a {flags}"


@pytest.mark.slow
def test_a_comparison_needs_no_gold_labels(sft_run: Path, tmp_path: Path) -> None:
    from eightball_ppo.comparison import compare

    data = write_rows(tmp_path / "q.jsonl", [{"text": text} for text in TEXTS])
    options: dict[str, Any] = {"methods": ["sft", "exact"], "seeds": [0, 1], "kl_coefs": [0.5]}
    options |= {"method_options": ["exact.num_train_epochs=2"], "grader": "rule:Yes", "sft_model_path": str(sft_run)}
    directory = compare.run(
        CompareConfig(output_dir=str(tmp_path / "c"), dataset_name=str(data), num_workers=1, **options)
    )
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["runs"] == 4 and "gold_accuracy" not in {row["metric"] for row in summary["intervals"]}
    for report in ("report.html", "report.md"):
        words = (directory / report).read_text().lower().replace("no question has a gold label", "")
        assert "gold label" not in words and "coverage" in words
