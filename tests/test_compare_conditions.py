"""A comparison over grader noise and call budgets, with two labels, failed grades and a method that diverges."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from comparing import call, flags, results, run_in_this_process, summary

from benchmarks import recompute
from conftest import write_rows
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.methods import sft

TICKETS: dict[str, Any] = {"text_column": "text", "label_column": "intent", "labels": ["buy", "sell"]}


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two labels, other columns, and a grade table in which some grades failed."""
    run_in_this_process(monkeypatch)
    (tmp_path / "data").mkdir()
    rows: dict[str, list[dict[str, str]]] = {}
    for split, number in (("sft", 20), ("rl", 24), ("heldout", 12)):
        words = [f"{'please' if i % 3 else 'no'} {split} number {i}" for i in range(number)]
        rows[split] = [{"text": text, "intent": ("buy", "sell")[i % 2]} for i, text in enumerate(words)]
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows[split])
    data = {**TICKETS, "dataset_name": str(tmp_path / "data")}
    sft.train(SFTConfig(**data, output_dir=str(tmp_path / "sft"), num_train_epochs=1, disable_tqdm=True))
    grades = []
    for position, row in enumerate([*rows["heldout"], *rows["rl"]]):
        p = 0.7 + 0.01 * (position % 25)
        for label in TICKETS["labels"]:
            score = float(np.log(p if label == row["intent"] else 1 - p))
            failed = position in (3, 20, 21) and label == "sell"
            grades.append((row["text"], label, None if failed else score, "failed" if failed else "ok", "somebody"))
    frame = pd.DataFrame(grades, columns=["question", "label", "score", "status", "grader"])
    frame.to_parquet(tmp_path / "table.parquet")
    return tmp_path


def test_noise_budgets_two_labels_and_failed_grades_and_a_method_that_diverges(tickets: Path) -> None:
    """`exact` reaches numbers that are not finite; the rows of the others are kept."""
    directory = tickets / "D"
    options = {
        **{**TICKETS, "dataset_name": tickets / "data", "sft_model_path": tickets / "sft", "kl_coefs": 0.5},
        **{"grade_table": tickets / "table.parquet", "max_grade_failures": 0.2, "seeds": 0},
        **{"methods": ["distill", "exact"], "label_noise": [0, 0.5], "grader_call_budgets": 8},
        "method_options": ["distill.threshold=0", "exact.learning_rate=1e38", "exact.num_train_epochs=3"],
        "grade_store": tickets / "grades.sqlite3",
    }
    code, _, err = call(flags(directory, **options))
    assert code == 3 and "2 of 4 runs are missing, e.g. exact-beta0.5-budget8-seed0: " in err
    frame = results(directory)
    assert set(frame["method"]) == {"distill"} and len(frame) == 4
    assert frame["budget"].dtype == "Int64" and frame["noise"].dtype == "float64"
    assert frame["grader_calls"].tolist() == frame["budget"].tolist() == [8] * 4
    assert frame["noise"].tolist() == [0.0, 0.0, 0.5, 0.5] and frame["questions"].tolist() == [22, 11] * 2
    assert frame["kl"].nunique() == 4  # the noise changes the policy
    failed = summary(directory)["holes"]
    assert [(row["method"], row["noise"], row["budget"]) for row in failed] == [("exact", 0.0, 8), ("exact", 0.5, 8)]
    assert all("the gradient is not finite" in row["why"] and "logs/exact" in row["why"] for row in failed)
    assert pd.read_parquet(directory / "grades.parquet")["status"].value_counts().to_dict() == {"ok": 69, "failed": 3}
    assert summary(directory)["grader"] == "somebody"
    assert recompute.main([str(directory)]) == 0
