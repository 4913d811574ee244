"""A comparison over grader noise and call budgets, with a method that diverges."""

from pathlib import Path

import pandas as pd
import pytest
from comparing import Compare, results, run_in_this_process, summary

from benchmarks import recompute


def test_noise_and_budgets_are_axes_and_a_diverging_method_fails_alone(
    tmp_path: Path, small_data: Path, sft_run: Path, reward_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exact` reaches numbers that are not finite; the rows of the others are kept."""
    run_in_this_process(monkeypatch)
    compare = Compare(small_data, sft_run, reward_run, tmp_path / "grades.sqlite3")
    axes = {"methods": ["distill", "exact"], "grader_noise": [0, 0.5], "grader_call_budgets": 8, "kl_coefs": 0.5}
    options = ["distill.threshold=0", "distill.num_train_epochs=4", "exact.learning_rate=1e38"]
    directory = tmp_path / "D"
    code, _, err = compare(directory, **axes, seeds=0, method_options=[*options, "exact.num_train_epochs=3"])
    assert code == 3 and "2 of 4 runs are missing, e.g. exact-beta0.5-budget8-seed0: " in err
    frame = results(directory)
    assert set(frame["method"]) == {"distill"} and len(frame) == 4
    assert frame["budget"].dtype == "Int64" and frame["noise"].dtype == "float64"
    assert frame["budget"].tolist() == [8] * 4 and frame["grader_calls"].tolist() == [6] * 4  # two rows of three
    assert frame["noise"].tolist() == [0.0, 0.0, 0.5, 0.5]
    assert frame["kl"].nunique() == 4  # the noise changes the policy
    failed = summary(directory)["holes"]
    assert [(row["method"], row["noise"], row["budget"]) for row in failed] == [("exact", 0.0, 8), ("exact", 0.5, 8)]
    assert all("the gradient is not finite" in row["why"] and "logs/exact" in row["why"] for row in failed)
    assert pd.read_parquet(directory / "grades.parquet")["status"].eq("ok").all()
    assert recompute.main([str(directory)]) == 0
