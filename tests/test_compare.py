"""A comparison end to end on small data: what its directory holds, how it grows, what is said of missing runs."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import recompute
from conftest import REPOSITORY, read_rows, write_rows
from eightball_ppo.cli import commands, parser
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.registry import METHODS
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.methods import sft
from hub_client import WRITE, eightball, python, settings
from hub_server import running_hub

Compare = Callable[..., tuple[int, str, str]]
SMALL = [
    *(f"{method}.total_episodes=240" for method in ("ppo", "rloo", "grpo")),
    *(f"{method}.num_train_epochs=1" for method in ("distill", "distill_soft", "distill_boltzmann")),
    *("exact.num_train_epochs=2", "distill.threshold=0"),
]
SPLITS = ["train", "heldout"]


def flags(directory: Path | str, *argv: object, **options: Any) -> list[str]:
    """The command line of a comparison in `directory`; lists and tuples are several words."""
    own = ["--output_dir", str(directory), "--disable_tqdm", "--resamples", "1000", *map(str, argv)]
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [value]
        own += [f"--{name}", *map(str, values)]
    return own


def call(argv: list[str]) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the script, in this process."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            parser.main(CompareConfig, "eightball_ppo.comparison.compare:run", argv)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def terms(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path
) -> dict[str, Any]:
    return {
        "dataset_name": small_data,
        "sft_model_path": sft_run,
        "reward_model_path": reward_run,
        "grade_store": tmp_path_factory.mktemp("store") / "grades.sqlite3",
        "method_options": SMALL,
    }


@pytest.fixture(scope="module")
def compare(terms: dict[str, Any]) -> Compare:
    """Compare on the small data in a directory, with further options."""

    def run(directory: Path | str, *argv: object, **options: Any) -> tuple[int, str, str]:
        return call(flags(directory, *argv, **{**terms, **options}))

    return run


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, compare: Compare) -> Path:
    """All nine methods, one seed, one beta. To be read, or copied."""
    directory = tmp_path_factory.mktemp("compare") / "D"
    code, out, err = compare(directory, seeds=0, kl_coefs=0.1)
    assert (code, err) == (0, ""), err
    assert "PPO" in out and "9 runs -> " in out
    return directory


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and figures take seconds, and say nothing new."""
    monkeypatch.setattr("eightball_ppo.comparison.report.write.write_report", lambda data, directory: None)


def results(directory: Path) -> Any:
    """`results.parquet`."""
    return pd.read_parquet(directory / "results.parquet")


def summary(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "summary.json").read_text())


def times(directory: Path, *below: str) -> dict[str, int]:
    """When each file was written."""
    roots = [directory / name for name in below] or [directory]
    files = (file for root in roots for file in (root.rglob("*") if root.is_dir() else [root]))
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in files}


def test_the_directory_holds_what_was_promised(shared: Path) -> None:
    assert {path.name for path in shared.iterdir()} == {
        *("config.yaml", "environment.json", "manifest.json", "grades.parquet", "results.parquet", "summary.json"),
        *("report.html", "report.md", "reference", "runs", "logs", "figures"),
    }
    assert sorted(path.name for path in (shared / "runs").iterdir()) == sorted(f"{m}-beta0.1-seed0" for m in METHODS)
    page, text = (shared / "report.html").read_text(), (shared / "report.md").read_text()
    assert all(method in page and method in text for method in METHODS)
    assert list((shared / "figures").glob("*.png")) and list((shared / "figures").glob("*.svg"))
    assert "===training policy===" in (shared / "logs" / "ppo-beta0.1-seed0.txt").read_text()


def test_results_have_a_row_for_every_run_and_split(shared: Path) -> None:
    frame = results(shared)
    keys = ["method", "seed", "beta", "split", "noise", "budget", "run_dir"]
    assert set(frame["method"]) == set(METHODS) and len(frame) == 18 and frame["split"].tolist() == SPLITS * 9
    assert frame[keys].dtypes.astype(str).to_dict() == {
        **{"method": "str", "seed": "int64", "beta": "float64", "split": "str"},
        **{"noise": "float64", "budget": "Int64", "run_dir": "str"},
    }
    assert (frame["seed"].eq(0) & frame["beta"].eq(0.1) & frame["noise"].eq(0.0) & frame["budget"].isna()).all()
    assert frame["threshold"].dtype == float and frame["threshold"].isna().all()
    assert frame["run_dir"].tolist() == [f"runs/{method}-beta0.1-seed0" for method in frame["method"]]
    for row in frame.to_dict("records"):
        record = json.loads((shared / row["run_dir"] / "results.json").read_text())
        assert (record["method"], record["seed"], record["beta"]) == (row["method"], 0, 0.1)
        assert row["seconds"] == record["seconds"] and row["episodes"] == record["episodes"]
        for name, value in record["splits"][row["split"]].items():
            assert row[name] == value or (value is None and np.isnan(row[name])), name
    assert (
        frame["grader_calls"].groupby(frame["method"]).first().to_dict()
        | {
            **dict.fromkeys(("exact", "distill", "distill_soft", "distill_boltzmann", "best_of_n"), 180),
            "sft": 0,
        }
        == frame["grader_calls"].groupby(frame["method"]).first().to_dict()
    )


def test_every_run_is_a_policy_like_any_other(shared: Path) -> None:
    for run_dir in results(shared)["run_dir"].unique():
        model = AutoModelForSequenceClassification.from_pretrained(shared / run_dir)
        inputs = AutoTokenizer.from_pretrained(shared / run_dir)("Will I win?", return_tensors="pt")
        logits_BK = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        assert logits_BK.shape == (1, 3) and torch.isfinite(logits_BK).all()


def test_an_independent_script_finds_the_same_numbers(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recompute.main([str(shared)]) == 0
    said = capsys.readouterr().out
    assert all(f"{name} " in said for name in ("kl", "frontier_distance", "win_rate", "label_histogram"))
    copy = tmp_path / "D"
    copy.mkdir()
    for path in shared.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "results.parquet").unlink()
    frame = results(shared)[-2:]
    frame.assign(win_rate=frame["win_rate"] + 2e-6).to_parquet(copy / "results.parquet")
    assert recompute.main([str(copy)]) == 1
    assert re.search(r"seed0, train: win_rate is 0\.\d+, results.parquet says", capsys.readouterr().out)


def test_the_reference_costs_nothing_and_nobody_is_above_the_frontier(shared: Path) -> None:
    frame = results(shared).set_index("method")
    assert frame.loc["sft", "kl"].tolist() == frame.loc["sft", "optimum_fraction"].tolist() == [0.0, 0.0]
    assert frame.loc["sft", "frontier_distance"].tolist() == [0.0, 0.0]
    assert frame.loc["sft", "win_rate"].tolist() == pytest.approx([0.5, 0.5])
    assert (frame["frontier_distance"] >= -1e-6).all() and (frame["optimum_fraction"] <= 1 + 1e-6).all()
    assert (frame["objective"] <= frame["optimum_objective"] + 1e-6).all()
    assert (frame["kl"] >= 0).all() and (frame.drop(index="sft")["kl"] > 0).all()


def test_intervals_are_around_the_means_of_the_results(shared: Path) -> None:
    frame = results(shared).set_index(["method", "split"])
    known = pd.DataFrame(summary(shared)["intervals"])
    metrics = {"objective", "expected_score", "frontier_distance", "optimum_fraction"}
    assert set(zip(known["metric"], known["split"], strict=True)) == {
        *((metric, split) for metric in metrics for split in SPLITS),
        ("gold_accuracy", "heldout"),
    }
    assert all(set(own["method"]) == set(METHODS) for _, own in known.groupby(["metric", "split"]))
    for row in known.to_dict("records"):
        assert row["estimate"] == pytest.approx(frame.loc[(row["method"], row["split"]), row["metric"]], abs=1e-6)
        assert row["low"] <= row["estimate"] <= row["high"] and row["seeds"] == 1
        assert row["questions"] == {"train": 60, "heldout": 40}[row["split"]]
    pairs = pd.DataFrame(summary(shared)["pairs"])
    assert len(pairs) == 36 * 5 and set(pairs["metric"]) == {"objective", "frontier_distance", "gold_accuracy"}
    one = pairs.query("a == 'ppo' and b == 'sft' and split == 'train' and metric == 'objective'").iloc[0]
    lead = frame.loc[("ppo", "train"), "objective"] - frame.loc[("sft", "train"), "objective"]
    assert one["estimate"] == pytest.approx(lead, abs=1e-6)


def test_the_numbers_behind_the_figures_are_the_runs(shared: Path) -> None:
    frames = {file.stem: pd.read_parquet(file) for file in (shared / "figures").glob("*.parquet")}
    assert frames and all(len(frame) for frame in frames.values())
    assert summary(shared)["runs"] == 9 and summary(shared)["failed_runs"] == []
    assert summary(shared)["grader"].startswith("bert:")


def test_a_second_call_makes_nothing_and_says_the_same(shared: Path, compare: Compare, no_report: None) -> None:
    before, frame, said = times(shared, "runs", "logs", "reference", "grades.parquet"), results(shared), summary(shared)
    code, _, err = compare(shared, seeds=0, kl_coefs=0.1)
    assert (code, err) == (0, "") and times(shared, *("runs", "logs", "reference", "grades.parquet")) == before
    pd.testing.assert_frame_equal(results(shared), frame)
    assert all(
        summary(shared)[name] == said[name] for name in ("intervals", "pairs", "headline", "failed_runs", "grader")
    )


def test_a_dry_run_says_what_is_to_make_and_writes_nothing(shared: Path, tmp_path: Path, compare: Compare) -> None:
    before = times(shared)
    code, out, err = compare(shared, "--dry_run", seeds=[0, 1], kl_coefs=0.1)
    assert (code, out, err) == (0, "18 runs, 9 of them to make; all grades are made\n", "")
    code, out, _ = compare(tmp_path / "new", "--dry_run", seeds=0, kl_coefs=0.1)
    assert code == 0 and out.startswith("9 runs, 9 of them to make; 100 questions for --grader bert: 0 calls to make")
    assert times(shared) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0, 0]}, "--seeds 0 0: one of them stands twice"),
        ({"methods": ["ppo", "pop"]}, "--methods pop: unknown"),
        ({"kl_coefs": 0}, "--kl_coefs 0.0: must be above 0"),
        ({"thresholds": 2}, "--thresholds 2.0: a probability"),
        ({"method_options": "ppo.total_episodes=0"}, "--total_episodes 0: at least 1"),
        ({"method_options": "ppo.replaces=x"}, "replaces is no option of the method"),
        ({"seed": 3}, "--seed 3: a comparison has --seeds"),
        ({"dataset_name": "./nowhere"}, "no such dataset directory"),
        ({"sft_model_path": "nowhere"}, "--sft_model_path nowhere"),
        ({"reward_model_path": "./nowhere"}, "--reward_model_path ./nowhere: no such directory"),
        ({"grade_table": "nowhere.parquet"}, "nowhere.parquet: no such file"),
        ({"labels": ["Yes", "No"]}, "unknown label 'Maybe'"),
        ({"labels": ["No", "Yes", "Maybe"]}, "labels differ"),
    ],
)
def test_bad_input_writes_nothing(options: dict[str, Any], message: str, tmp_path: Path, compare: Compare) -> None:
    code, out, err = compare(tmp_path / "new", **options)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_type": "probability"}, "was compared with --score_type log_prob, not probability"),
        ({"max_length": 9}, "was compared with --max_length None, not 9"),
        ({"grader": "rule:Yes"}, "was compared with --grader bert, not rule:Yes"),
    ],
)
def test_other_terms_are_another_comparison(
    options: dict[str, Any], message: str, shared: Path, compare: Compare
) -> None:
    before = times(shared)
    code, _, err = compare(shared, seeds=0, kl_coefs=0.1, **options)
    assert (code, err.count("\n")) == (2, 1) and message in err and "name another --output_dir" in err, err
    assert times(shared) == before


def test_other_data_and_other_grades_are_another_comparison(
    shared: Path, tmp_path: Path, small_data: Path, compare: Compare
) -> None:
    copy = tmp_path / "D"
    copy.mkdir()
    for path in shared.iterdir():
        (copy / path.name).symlink_to(path)
    same = shutil.copytree(small_data, tmp_path / "data")
    code, _, err = compare(copy, seeds=0, kl_coefs=0.1, dataset_name=same)
    assert code == 2 and "was compared with --dataset_name" in err
    (copy / "config.yaml").unlink()
    (copy / "config.yaml").write_text((shared / "config.yaml").read_text().replace(str(small_data), str(same)))
    rows = read_rows("heldout")[:40]
    write_rows(same / "heldout.jsonl", [{**rows[0], "answer": "Maybe"}, *rows[1:]])
    code, _, err = compare(copy, seeds=0, kl_coefs=0.1, dataset_name=same)
    assert (code, err.count("\n")) == (2, 1) and f"{same}: is not what the runs in {copy} were made with" in err, err
    write_rows(same / "heldout.jsonl", rows)
    grades = pd.read_parquet(copy / "grades.parquet")
    (copy / "grades.parquet").unlink()
    grades.to_parquet(copy / "grades.parquet")  # the same grades, but who could tell
    code, _, err = compare(copy, seeds=0, kl_coefs=0.1, dataset_name=same)
    assert (code, err.count("\n")) == (2, 1) and "grades.parquet: is not the one that the runs here" in err, err


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, compare: Compare, sft_run: Path) -> None:
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / "thesis.txt").write_text("years of work")
    for directory in (tmp_path / "D", sft_run.parent):
        before = times(directory)
        code, _, err = compare(directory)
        assert (code, err.count("\n")) == (2, 1) and "holds files that are no comparison" in err, err
        assert times(directory) == before
    code, _, err = compare(sft_run)
    assert code == 2 and "is the --sft_model_path, which would be replaced" in err


class Damaged:
    """A copy of the shared comparison in which four runs are broken, one each way, compared again."""

    BROKEN = ("best_of_n", "exact", "rloo", "distill_soft")

    def __init__(self, directory: Path, compare: Compare):
        self.directory = directory
        runs = {method: directory / "runs" / f"{method}-beta0.1-seed0" for method in METHODS}
        (runs["best_of_n"] / "results.json").unlink()
        (runs["exact"] / "model.safetensors").unlink()
        shutil.copy(runs["grpo"] / "model.safetensors", runs["rloo"])
        (runs["distill_soft"] / "metrics.jsonl").unlink()
        self.before = times(directory, "runs")
        self.code, _, self.err = compare(directory, seeds=0, kl_coefs=0.1)


@pytest.fixture(scope="module")
def damaged(shared: Path, tmp_path_factory: pytest.TempPathFactory, compare: Compare) -> Damaged:
    return Damaged(shutil.copytree(shared, tmp_path_factory.mktemp("damaged") / "D"), compare)


def test_a_broken_run_is_a_hole_with_its_reason_and_the_others_stand(damaged: Damaged, shared: Path) -> None:
    assert damaged.code == 3 and damaged.err.count("\n") == 1 and "4 of 9 runs failed, e.g. " in damaged.err
    assert times(damaged.directory, "runs") == damaged.before
    holes = {row["method"]: row["why"] for row in summary(damaged.directory)["failed_runs"]}
    assert set(holes) == set(Damaged.BROKEN)
    assert "results.json is missing or damaged" in holes["best_of_n"]
    assert "not a loadable checkpoint" in holes["exact"]
    assert "its saved policy has expected_score" in holes["rloo"]
    assert "metrics.jsonl: missing or damaged" in holes["distill_soft"]
    assert all(why.endswith("; remove it to run it again") for why in holes.values())
    text = (damaged.directory / "report.md").read_text() + (damaged.directory / "report.html").read_text()
    assert all(text.count(f"{method}-beta0.1-seed0") >= 2 for method in Damaged.BROKEN)
    whole = results(shared)
    whole = whole[~whole["method"].isin(Damaged.BROKEN)].reset_index(drop=True)
    left = results(damaged.directory)  # without the columns that only the broken ones had
    pd.testing.assert_frame_equal(left, whole[list(left)], check_dtype=False)


def of_session(session: int) -> list[str]:
    """The processes of a session, those left out that only wait to be buried."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, own = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            found += [process.name] if int(own) == session and state != "Z" else []
    return found


def wait_until_gone(session: int) -> None:
    """Fails unless all processes of a session end within ten seconds."""
    deadline = time.monotonic() + 10
    while of_session(session):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def killed_at_work(argv: list[str], directory: Path) -> None:
    """Start the script, kill it alone once a run is under way, and see its workers go."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "compare.py"), *argv]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=directory.parent
    )
    while not list((directory / "runs").glob("*.unfinished")):
        assert process.poll() is None
        time.sleep(0.05)
    workers = of_session(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until_gone(process.pid)


@pytest.mark.slow
def test_it_grows_where_it_is_moved_to_through_a_kill_and_makes_only_what_is_missing(
    damaged: Damaged, tmp_path: Path, terms: dict[str, Any], compare: Compare, no_report: None
) -> None:
    """A damaged run that was removed, another seed, another beta; killed on the way; read as a relative path."""
    moved = shutil.copytree(damaged.directory, tmp_path / "moved")
    shutil.rmtree(moved / "runs" / "distill_soft-beta0.1-seed0")
    before = times(moved, "runs", "reference", "grades.parquet")
    options: dict[str, Any] = {"methods": "distill_soft", "seeds": [0, 1], "kl_coefs": [0.1, 0.5]}
    killed_at_work(flags("moved", "--num_workers", 1, **{**terms, **options}), moved)
    code, out, err = compare("moved", **options)
    assert (code, out, err) == (0, "4 runs -> moved/report.html\n", "")  # one method, so nothing is ahead
    after = times(moved, "runs", "reference", "grades.parquet")
    assert {name: after[name] for name in before} == before
    names = [f"distill_soft-beta{beta}-seed{seed}" for seed in (0, 1) for beta in (0.1, 0.5)]
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == set(names)
    frame = results(moved)
    assert frame["run_dir"].tolist() == [f"runs/{name}" for name in names for _ in SPLITS]
    one, other = (moved / "runs" / f"distill_soft-beta{beta}-seed1" for beta in (0.1, 0.5))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert json.loads((other / "results.json").read_text())["measured_from"] == one.name
    assert frame["grader_calls"].eq(180).all() and frame.groupby("seed")["kl"].nunique().eq(2).all()
    assert frame.groupby(["seed", "split"])["objective"].nunique().eq(2).all()  # one policy, two prices
    assert {row["seeds"] for row in summary(moved)["intervals"]} == {2} and summary(moved)["pairs"] == []
    assert recompute.main(["moved"]) == 0


def test_a_recipe_that_trains_the_reference_compares(
    small_data: Path, tmp_path: Path, no_report: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sections = {
        "sft": {"num_train_epochs": 1},
        "compare": {"methods": ["exact", "sft"], "seeds": [0], "kl_coefs": [0.1]},
    }
    shared = {"dataset_name": str(small_data), "grader": "rule:Yes", "allow_weak_grader": True, "disable_tqdm": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**shared, **sections}))
    own = ["--config", "recipe.yaml", "--output_dir", "D", "--num_workers", "1", "--resamples", "1000"]
    code, _, err = call([*own, "--method_options", "exact.num_train_epochs=2"])
    assert (code, err) == (0, ""), err
    assert len(results(tmp_path / "D")) == 4 and (tmp_path / "runs" / "sft" / "results.json").is_file()


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels, other columns, a grade table in which some grades failed; `call` in it compares."""
    directory = tmp_path_factory.mktemp("tickets")
    (directory / "data").mkdir()
    rows = {
        split: [
            {"text": f"{'please' if i % 3 else 'no'} {split} number {i}", "intent": ("buy", "sell")[i % 2]} for i in r
        ]
        for split, r in (("sft", range(20)), ("rl", range(24)), ("heldout", range(12)))
    }
    for split, own in rows.items():
        write_rows(directory / "data" / f"{split}.jsonl", own)
    shared = {**TICKETS, "dataset_name": str(directory / "data")}
    sft.train(SFTConfig(**shared, output_dir=str(directory / "sft"), num_train_epochs=1, disable_tqdm=True))
    grades = []
    for position, row in enumerate([*rows["heldout"], *rows["rl"]]):
        p = 0.7 + 0.01 * (position % 25)
        for label in TICKETS["labels"]:
            score: float | None = float(np.log(p if label == row["intent"] else 1 - p))
            status = "failed" if position in (3, 20, 21) and label == "sell" else "ok"
            grades.append((row["text"], label, score if status == "ok" else None, status, "somebody"))
    frame = pd.DataFrame(grades, columns=["question", "label", "score", "status", "grader"])
    frame.to_parquet(directory / "table.parquet")
    return directory


TICKETS: dict[str, Any] = {"text_column": "text", "label_column": "intent", "labels": ["buy", "sell"]}


@pytest.mark.slow
def test_noise_and_budgets_two_labels_failed_grades_and_a_method_that_fails(tickets: Path) -> None:
    """`exact` reaches numbers that are none; the rows of the others stand."""
    directory = tickets / "D"
    options = {
        **{**TICKETS, "dataset_name": tickets / "data", "sft_model_path": tickets / "sft", "kl_coefs": 0.5},
        **{"grade_table": tickets / "table.parquet", "max_grade_failures": 0.2, "num_workers": 1, "seeds": 0},
        **{"methods": ["distill", "exact"], "label_noise": [0, 0.5], "grader_call_budgets": 8},
        "method_options": ["distill.threshold=0", "exact.learning_rate=1e38", "exact.num_train_epochs=3"],
        "grade_store": tickets / "grades.sqlite3",
    }
    code, _, err = call(flags(directory, **options))
    assert code == 3 and "2 of 4 runs failed, e.g. exact-beta0.5-budget8-seed0: " in err
    frame = results(directory)
    assert set(frame["method"]) == {"distill"} and len(frame) == 4
    assert frame["budget"].dtype == "Int64" and frame["noise"].dtype == "float64"
    assert frame["grader_calls"].tolist() == frame["budget"].tolist() == [8] * 4
    assert frame["noise"].tolist() == [0.0, 0.0, 0.5, 0.5] and frame["questions"].tolist() == [22, 11] * 2
    assert frame["kl"].nunique() == 4  # noise is not a name alone
    holes = summary(directory)["failed_runs"]
    assert [(row["method"], row["noise"], row["budget"]) for row in holes] == [("exact", 0.0, 8), ("exact", 0.5, 8)]
    assert all("the gradient is not finite" in row["why"] and "logs/exact" in row["why"] for row in holes)
    assert pd.read_parquet(directory / "grades.parquet")["status"].value_counts().to_dict() == {"ok": 69, "failed": 3}
    assert summary(directory)["grader"] == "somebody"
    assert recompute.main([str(directory)]) == 0


@pytest.mark.slow
def test_workers_that_die(tmp_path: Path, compare: Compare) -> None:
    """One job's process is killed whenever it works: a hole, while its neighbours and the next call do better."""
    import threading

    deadly, directory, over = tmp_path / "D" / "logs" / "exact-beta0.1-seed0.txt", tmp_path / "D", threading.Event()

    def kill() -> None:
        while not over.wait(0.02):
            for process in Path("/proc").iterdir():
                with contextlib.suppress(OSError):
                    if process.name.isdecimal() and (process / "fd" / "1").readlink() == deadly:
                        os.kill(int(process.name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        options: dict[str, Any] = {"methods": ["exact", "distill", "sft"], "seeds": [0, 1], "kl_coefs": 0.1}
        code, _, err = compare(directory, num_workers=2, **options)
    finally:
        over.set()
        killer.join()
    assert code == 3 and "1 of 6 runs failed, e.g. exact-beta0.1-seed0: its process died twice" in err, err
    assert len(results(directory)) == 5 * 2
    assert compare(directory, **options)[0] == 0 and len(results(directory)) == 6 * 2


@pytest.mark.slow
def test_two_terminals_and_ctrl_c(tmp_path: Path, terms: dict[str, Any]) -> None:
    argv = flags("D", **{**terms, "methods": ["exact", "sft"], "method_options": "exact.num_train_epochs=300"})
    command = [sys.executable, str(REPOSITORY / "scripts" / "compare.py"), *argv]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=pipe, stderr=pipe, start_new_session=True)
    while not list((tmp_path / "D").glob("runs/*.unfinished")):
        assert process.poll() is None
        time.sleep(0.05)
    other = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (other.returncode, other.stderr) == (
        2,
        "compare.py: D: another compare is at work there; wait for its end\n",
    )
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "") and err == "compare.py: interrupted; grades that were made are kept\n"
    wait_until_gone(process.pid)


def test_the_report_is_made_anew_from_the_runs(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(shared, tmp_path / "D")
    then, page = summary(copy), (copy / "report.html").read_text()
    for name in ("report.html", "report.md", "results.parquet", "summary.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "runs" / "grpo-beta0.1-seed0")
    (tmp_path / "mine").touch()  # a stranger's options name a file that is no store of theirs, and a recipe
    options = {**yaml.safe_load((copy / "config.yaml").read_text()), "grade_store": str(tmp_path / "mine")}
    (copy / "config.yaml").write_text(yaml.safe_dump({**options, "upstream_config": "recipe.yaml"}))
    monkeypatch.setattr(sys, "argv", ["eightball", "report", str(copy)])
    commands.main()
    now = summary(copy)
    assert (tmp_path / "mine").read_bytes() == b"" and now["settings"]["upstream_config"] == "recipe.yaml"
    assert now["settings"]["grade_store"] == str(tmp_path / "mine")
    assert "8 runs -> " in capsys.readouterr().out and not (copy / "runs" / "grpo-beta0.1-seed0").exists()
    assert [(row["method"], row["why"]) for row in now["failed_runs"]] == [("grpo", "was not made")]
    kept = [row for row in then["intervals"] if row["method"] != "grpo"]
    for old, new in zip(kept, now["intervals"], strict=True):
        assert {**new, "estimate": 0, "low": 0, "high": 0} == {**old, "estimate": 0, "low": 0, "high": 0}
        assert [new[key] for key in ("estimate", "low", "high")] == pytest.approx(
            [old[key] for key in ("estimate", "low", "high")], abs=1e-9
        )
    assert now["environment"]["packages"] == then["environment"]["packages"]
    assert len(page) > 1000 and "was not made" in (copy / "report.html").read_text()


def test_a_comparison_goes_to_the_hub_and_comes_back(shared: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, hf_hub_download
DatasetCard.load("ball/compare").validate()
card = ModelCard.load("ball/ppo")
card.validate()
rows = load_dataset("ball/compare", split="train")
page = open(hf_hub_download("ball/compare", "report.html", repo_type="dataset")).read()
print(json.dumps([rows.num_rows, rows["optimum_fraction"][:], page, card.content]))
"""
    with running_hub() as hub:
        environment = settings(hub, tmp_path / "home", WRITE)
        run = f"{shared.name}/runs/ppo-beta0.1-seed0"
        argvs = [["push", shared.name, "--repo_id", "ball/compare"], ["push", run, "--repo_id", "ball/ppo"]]
        for outcome in eightball(argvs, environment, shared.parent):
            assert outcome.code == 0, outcome.err
        rows, fractions, page, card = json.loads(python(code, environment, tmp_path).splitlines()[-1])
    frame = results(shared)
    assert (rows, fractions) == (len(frame), frame["optimum_fraction"].tolist())
    assert "Comparison of methods" in page and str(shared.parent) not in page
    (value,) = {
        f"{row['estimate']:.3f}"
        for row in summary(shared)["intervals"]
        if (row["method"], row["split"], row["metric"]) == ("distill", "heldout", "optimum_fraction")
    }
    assert "## Compared with other methods" in card and value in card
