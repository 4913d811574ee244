"""A comparison end to end on small data, in this process: what its directory holds, how it grows, failed runs."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from comparing import SPLITS, Compare, call, results, run_in_this_process, summary, times

from benchmarks import recompute
from eightball_ppo.cli import commands

METHODS = ["exact", "distill", "best_of_n", "sft"]
NAMES = [f"{method}-beta0.1-seed0" for method in METHODS]


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        run_in_this_process(patch)
        yield


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path) -> Compare:
    return Compare(small_data, sft_run, reward_run, tmp_path_factory.mktemp("store") / "grades.sqlite3")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, compare: Compare) -> Path:
    """Four methods, one seed, one beta. To be read, or copied."""
    directory = tmp_path_factory.mktemp("compare") / "D"
    code, out, err = compare(directory, methods=METHODS, seeds=0, kl_coefs=0.1)
    assert (code, err) == (0, "") and "Saved in " in out, err
    return directory


def linked(shared: Path, copy: Path) -> Path:
    """A copy of a comparison whose files are links, to be replaced one by one."""
    copy.mkdir()
    for path in shared.iterdir():
        (copy / path.name).symlink_to(path)
    return copy


def test_the_directory_holds_the_documented_files(shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} == {
        *("config.yaml", "environment.json", "manifest.json", "grades.parquet", "results.parquet", "summary.json"),
        *("report.html", "report.md", "reference", "runs", "logs", "figures"),
    }
    assert sorted(path.name for path in (shared / "runs").iterdir()) == sorted(NAMES)
    page, text = (shared / "report.html").read_text(), (shared / "report.md").read_text()
    assert all(method in page and method in text for method in METHODS)
    record = summary(shared)
    assert (record["runs"], record["failed_runs"]) == (4, []) and record["grader"].startswith("bert:")


def test_results_have_a_row_for_every_run_and_split(shared: Path) -> None:
    frame = results(shared)
    keys = ["method", "seed", "reference", "beta", "split", "noise", "budget", "run_dir"]
    assert set(frame["method"]) == set(METHODS) and frame["split"].tolist() == SPLITS * 4
    assert frame[keys].dtypes.astype(str).to_dict() == {
        **{"method": "str", "seed": "int64", "reference": "int64", "beta": "float64", "split": "str"},
        **{"noise": "str", "budget": "Int64", "run_dir": "str"},
    }
    assert (frame["seed"].eq(0) & frame["beta"].eq(0.1) & frame["noise"].eq("") & frame["budget"].isna()).all()
    assert frame["threshold"].dtype == float and frame["threshold"].isna().all()
    assert frame["run_dir"].tolist() == [f"runs/{method}-beta0.1-seed0" for method in frame["method"]]
    for row in frame.to_dict("records"):
        record = json.loads((shared / row["run_dir"] / "results.json").read_text())
        assert (record["method"], record["seed"], record["beta"]) == (row["method"], 0, 0.1)
        assert row["seconds"] == record["seconds"] and row["episodes"] == record["episodes"]
        assert row["grader_calls"] == {"sft": 0, "best_of_n": 180 + 120}.get(row["method"], 180)
        for name, value in record["splits"][row["split"]].items():
            assert row[name] == value or (value is None and np.isnan(row[name])), name


def test_an_independent_script_finds_the_same_numbers_and_a_changed_one(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recompute.main([str(shared)]) == 0
    out = capsys.readouterr().out
    assert all(
        f"{name} " in out for name in ("kl", "frontier_distance", "win_rate", "label_histogram", "brier", "ece", "aurc")
    )
    copy = linked(shared, tmp_path / "D")
    (copy / "results.parquet").unlink()
    frame = results(shared)[-2:]
    frame.assign(win_rate=frame["win_rate"] + 2e-6).to_parquet(copy / "results.parquet")
    assert recompute.main([str(copy)]) == 1
    assert re.search(r"seed0, train: win_rate is 0\.\d+, results.parquet says", capsys.readouterr().out)


def test_intervals_are_around_the_means_of_the_results(shared: Path) -> None:
    frame = results(shared).set_index(["method", "split"])
    intervals = pd.DataFrame(summary(shared)["intervals"])
    metrics = {"objective", "expected_score", "frontier_distance", "optimum_fraction", "kl", "judge_agreement"}
    gold = ("gold_accuracy", "gold_probability", "brier", "nll", "ece", "aurc")
    assert set(zip(intervals["metric"], intervals["split"], strict=True)) == {
        *((metric, split) for metric in metrics for split in SPLITS),
        *((metric, "heldout") for metric in gold),
    }
    assert all(set(group["method"]) == set(METHODS) for _, group in intervals.groupby(["metric", "split"]))
    for row in intervals.to_dict("records"):
        assert row["estimate"] == pytest.approx(frame.loc[(row["method"], row["split"]), row["metric"]], abs=1e-6)
        assert row["low"] <= row["estimate"] <= row["high"] and row["seeds"] == 1
        assert row["questions"] == {"train": 60, "heldout": 40}[row["split"]]
    pairs = pd.DataFrame(summary(shared)["pairs"])
    exploratory = pairs.query("not primary").groupby(["metric", "split"]).size().to_dict()
    both = {("objective", split): 6 for split in SPLITS} | {("judge_agreement", split): 6 for split in SPLITS}
    equal_kl = {("score_at_equal_kl", split): 3 for split in SPLITS}  # the reference has no KL
    assert exploratory == both | equal_kl | {(m, "heldout"): 6 for m in ("gold_accuracy", "gold_probability", "brier")}
    assert pairs.query("primary")[["a", "b", "metric"]].to_numpy().tolist() == [["exact", "distill", "gold_accuracy"]]
    assert pairs["verdict"].isna().all()  # one seed
    one = pairs.query("a == 'exact' and b == 'sft' and split == 'train' and metric == 'objective'").iloc[0]
    lead = frame.loc[("exact", "train"), "objective"] - frame.loc[("sft", "train"), "objective"]
    assert one["estimate"] == pytest.approx(lead, abs=1e-6)


def test_a_second_call_trains_nothing_and_gives_the_same_numbers(shared: Path, compare: Compare) -> None:
    parts = ("runs", "logs", "reference", "grades.parquet")
    before, frame, record = times(shared, *parts), results(shared), summary(shared)
    code, _, err = compare(shared, methods=METHODS, seeds=0, kl_coefs=0.1)
    assert (code, err) == (0, "") and times(shared, *parts) == before
    pd.testing.assert_frame_equal(results(shared), frame)
    names = ("intervals", "pairs", "headline", "failed_runs", "grader")
    assert {name: summary(shared)[name] for name in names} == {name: record[name] for name in names}


def test_a_dry_run_counts_the_missing_runs_and_writes_nothing(shared: Path, tmp_path: Path, compare: Compare) -> None:
    before = times(shared)
    code, out, err = compare(shared, "--dry_run", methods=METHODS, seeds=[0, 1], kl_coefs=0.1)
    assert (code, out, err) == (0, "8 runs, 4 of them to make; all grades are made\n", "")
    code, out, _ = compare(tmp_path / "new", "--dry_run", seeds=0, kl_coefs=0.1)
    assert code == 0 and out.startswith("12 runs, 12 of them to make; 100 questions for --grader bert: 0 calls to make")
    assert times(shared) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"seeds": [0, 0]}, "--seeds 0 0"), ({"method_options": "ppo.total_episodes=0"}, "--total_episodes 0")],
        ({"dataset_name": "./nowhere"}, "no such dataset directory"),
        ({"sft_model_path": "nowhere"}, "--sft_model_path nowhere"),
        ({"reward_model_path": "./nowhere"}, "--reward_model_path ./nowhere: no such directory"),
        ({"grade_table": "nowhere.parquet"}, "nowhere.parquet: no such file"),
        ({"labels": ["Yes", "No"]}, "unknown label 'Maybe'"),
        ({"references": 2}, "is one reference; leave it out, or name a recipe with a section sft:"),
    ],
)
def test_bad_input_writes_nothing(options: dict[str, Any], message: str, tmp_path: Path, compare: Compare) -> None:
    code, out, err = compare(tmp_path / "new", **options)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    assert not list(tmp_path.iterdir())


def test_a_directory_of_another_comparison_is_refused_and_left_alone(
    shared: Path, tmp_path: Path, small_data: Path, sft_run: Path, compare: Compare
) -> None:
    same_data = shutil.copytree(small_data, tmp_path / "data")
    before = times(shared)
    for name, value in (("score_type", "probability"), ("dataset_name", same_data)):
        code, _, err = compare(shared, methods=METHODS, seeds=0, kl_coefs=0.1, **{name: value})
        assert (code, err.count("\n")) == (2, 1) and f"was compared with --{name} " in err, err
    assert times(shared) == before
    code, _, err = compare(sft_run.parent)
    assert code == 2 and "holds files that are no comparison" in err
    code, _, err = compare(sft_run)
    assert code == 2 and "is the --sft_model_path, which would be replaced" in err


@pytest.fixture(scope="module")
def damaged(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the comparison in which three runs are broken, each in another way."""
    directory = shutil.copytree(shared, tmp_path_factory.mktemp("damaged") / "D")
    runs = {method: directory / "runs" / f"{method}-beta0.1-seed0" for method in METHODS}
    (runs["best_of_n"] / "results.json").unlink()
    shutil.copy(runs["distill"] / "model.safetensors", runs["exact"])
    (runs["distill"] / "metrics.jsonl").unlink()
    return directory


def test_a_damaged_run_counts_as_failed_and_the_others_are_kept(
    damaged: Path, shared: Path, tmp_path: Path, compare: Compare
) -> None:
    directory = shutil.copytree(damaged, tmp_path / "D")
    before = times(directory, "runs")
    code, _, err = compare(directory, methods=METHODS, seeds=0, kl_coefs=0.1)
    assert code == 3 and err.count("\n") == 1 and "3 of 4 runs failed, e.g. " in err
    assert times(directory, "runs") == before
    reasons = {row["method"]: row["why"] for row in summary(directory)["failed_runs"]}
    assert set(reasons) == {"best_of_n", "exact", "distill"}
    assert "results.json is missing or damaged" in reasons["best_of_n"]
    assert "its saved policy has expected_score" in reasons["exact"]
    assert "metrics.jsonl: missing or damaged" in reasons["distill"]
    assert all("; remove it to " in why for why in reasons.values())
    text = (directory / "report.md").read_text() + (directory / "report.html").read_text()
    assert all(text.count(f"{method}-beta0.1-seed0") >= 2 for method in reasons)
    complete = results(shared)
    complete = complete[complete["method"] == "sft"].reset_index(drop=True)
    left = results(directory)  # without the columns that only the broken ones had
    pd.testing.assert_frame_equal(left, complete[list(left)], check_dtype=False)
    (directory / "runs" / "exact-beta0.1-seed0" / "model.safetensors").unlink()
    compare(directory, methods=["exact", "sft"], seeds=0, kl_coefs=0.1)
    (failed,) = summary(directory)["failed_runs"]
    assert "not a loadable checkpoint" in failed["why"]


@pytest.mark.slow
def test_a_moved_comparison_grows_by_the_missing_runs_alone(damaged: Path, tmp_path: Path, compare: Compare) -> None:
    """A damaged run that was removed, another seed, another beta; read as a relative path."""
    moved = shutil.copytree(damaged, tmp_path / "moved")
    shutil.rmtree(moved / "runs" / "distill-beta0.1-seed0")
    before = times(moved, "runs", "reference", "grades.parquet")
    code, out, err = compare("moved", methods="distill", seeds=[0, 1], kl_coefs=[0.1, 0.5])
    assert (code, err) == (0, "") and "Saved in moved/report.html\n" in out
    after = times(moved, "runs", "reference", "grades.parquet")
    assert {name: after[name] for name in before} == before
    names = [f"distill-beta{beta}-seed{seed}" for seed in (0, 1) for beta in (0.1, 0.5)]
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == set(names)
    frame = results(moved)
    assert frame["run_dir"].tolist() == [f"runs/{name}" for name in names for _ in SPLITS]
    one, other = (moved / "runs" / f"distill-beta{beta}-seed1" for beta in (0.1, 0.5))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert json.loads((other / "results.json").read_text())["measured_from"] == one.name
    assert frame["grader_calls"].eq(180).all() and frame.groupby("seed")["kl"].nunique().eq(2).all()
    assert frame.groupby(["seed", "split"])["objective"].nunique().eq(2).all()  # one policy, two values of beta
    assert {row["seeds"] for row in summary(moved)["intervals"]} == {2} and summary(moved)["pairs"] == []


@pytest.mark.slow
def test_a_recipe_that_trains_the_reference_compares(small_data: Path, tmp_path: Path) -> None:
    stages = {"sft": {"num_train_epochs": 1}, "compare": {"methods": ["sft"], "seeds": [0], "kl_coefs": [0.1]}}
    common = {"dataset_name": str(small_data), "grader": "rule:Yes", "allow_weak_grader": True, "disable_tqdm": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**common, **stages}))
    code, _, err = call(["--config", "recipe.yaml", "--output_dir", "D"])
    assert (code, err) == (0, ""), err
    assert len(results(tmp_path / "D")) == 2 and (tmp_path / "runs" / "sft" / "results.json").is_file()


def test_the_report_command_writes_the_report_from_the_runs_left(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(shared, tmp_path / "D")
    then = summary(copy)
    for name in ("report.html", "report.md", "results.parquet", "summary.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "runs" / "exact-beta0.1-seed0")
    (tmp_path / "mine").touch()  # the config of another person names a file that is no store, and a recipe
    options = {**yaml.safe_load((copy / "config.yaml").read_text()), "grade_store": str(tmp_path / "mine")}
    (copy / "config.yaml").write_text(yaml.safe_dump({**options, "upstream_config": "recipe.yaml"}))
    monkeypatch.setattr(sys, "argv", ["eightball", "report", str(copy)])
    commands.main()
    now = summary(copy)
    assert (tmp_path / "mine").read_bytes() == b"" and now["settings"]["upstream_config"] == "recipe.yaml"
    assert now["settings"]["grade_store"] == str(tmp_path / "mine")
    assert "3 runs, 1 failed" in capsys.readouterr().out and not (copy / "runs" / "exact-beta0.1-seed0").exists()
    assert [(row["method"], row["why"]) for row in now["failed_runs"]] == [("exact", "was not made")]
    kept = [row for row in then["intervals"] if row["method"] != "exact"]
    for old, new in zip(kept, now["intervals"], strict=True):
        assert new == pytest.approx(old, abs=1e-9)
    assert now["environment"]["packages"] == then["environment"]["packages"]
    assert "was not made" in (copy / "report.html").read_text()


@pytest.mark.slow
def test_noise_and_budgets_are_axes_and_a_diverging_method_fails_alone(tmp_path: Path, compare: Compare) -> None:
    """`exact` reaches numbers that are not finite; the rows of the others are kept."""
    axes = {"methods": ["distill", "exact"], "label_noise": [0, 0.5], "grader_call_budgets": 8, "kl_coefs": 0.5}
    options = ["distill.threshold=0", "distill.num_train_epochs=4", "exact.learning_rate=1e38"]
    directory = tmp_path / "D"
    code, _, err = compare(directory, **axes, seeds=0, method_options=[*options, "exact.num_train_epochs=3"])
    assert code == 3 and "2 of 4 runs failed, e.g. exact-beta0.5-budget8-seed0: " in err
    frame = results(directory)
    assert set(frame["method"]) == {"distill"} and len(frame) == 4
    assert frame["budget"].dtype == "Int64" and frame["noise"].dtype == "str"
    assert (
        frame["budget"].tolist() == [8] * 4 and frame["grader_calls"].between(7, 8).all()
    )  # asked until a label has more than half
    assert frame["noise"].tolist() == ["", "", "0.5", "0.5"]
    assert frame["kl"].nunique() == 4  # the noise changes the policy
    failed = summary(directory)["failed_runs"]
    assert [(row["method"], row["noise"], row["budget"]) for row in failed] == [("exact", "", 8), ("exact", "0.5", 8)]
    assert all("the gradient is not finite" in row["why"] and "logs/exact" in row["why"] for row in failed)
    assert pd.read_parquet(directory / "grades.parquet")["status"].eq("ok").all()
    assert recompute.main([str(directory)]) == 0
