"""Methods on paid graders: failed grades are left out and counted, no call is repeated, no key is written."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_ranks import torchrun

from conftest import LABELS, REPOSITORY, read_rows, write_rows
from eightball_ppo.auditing import run
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders import export
from eightball_ppo.methods.run_method import run_method
from judge_server import JudgeServer

KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as judge:
        yield judge


@pytest.fixture
def judge(server: JudgeServer, small_data: Path) -> JudgeServer:
    """A judge that knows the gold labels of the held-out questions, and has an opinion on all others."""
    server.reset(gold_labels=gold_labels())
    return server


def gold_labels() -> dict[str, str]:
    return {row["question"]: row["answer"] for row in read_rows("heldout")}


def api(judge: JudgeServer) -> dict[str, Any]:
    return {"grader": "api", "grader_model": "judge", "grader_base_url": judge.base_url, "disable_tqdm": True}


def flags(options: dict[str, Any]) -> list[str]:
    words = [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in options.items()]
    return [word for option in words for word in option]


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


@pytest.fixture
def base(judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path, no_figures: None) -> dict[str, Any]:
    """Options of a method that learns from the judge, in the test's directory."""
    return {
        **api(judge),
        "output_dir": str(tmp_path / "run"),
        "dataset_name": str(small_data),
        "sft_model_path": str(sft_run),
        "grade_store": str(tmp_path / "grades.sqlite3"),
    }


def export_grades(judge: JudgeServer, base: dict[str, Any]) -> None:
    settings = {**api(judge), "grade_store": base["grade_store"], "dataset_name": base["dataset_name"]}
    export.run(GradeConfig(**settings, output_dir="grades", labels=LABELS))


def run_ppo(argv: list[str]) -> None:
    """The command line of PPO, in this process."""
    parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", argv)


@pytest.mark.slow
def test_questions_without_a_grade_are_left_out_counted_and_asked_again_by_the_next_run(
    judge: JudgeServer, base: dict[str, Any], no_figures: None
) -> None:
    train = [row["question"] for row in read_rows("rl")[:60]]
    bad = [train[3], train[17]]
    faults = [{"kind": "refusal", "match": bad[0]}, {"kind": "wrong_label", "match": bad[1]}]
    judge.reset(gold_labels=gold_labels(), faults=faults)
    text: dict[str, Any] = {**base, "api_mode": "text"}
    record = results(run_method(PPOConfig(**text, repeats_per_epoch=2, total_episodes=232)))
    counts = {name: record["grades"][name] for name in ("ok", "failed", "refused", "skipped")}
    assert counts == {"ok": 3 * 98, "failed": 3, "refused": 3, "skipped": 0}
    assert record["grades"]["dropped_questions"] == {"heldout": 0, "train": 2}
    assert record["splits"]["train"]["questions"] == 58 and record["per_device_train_batch_size"] == 112
    assert record["grades"]["calls"] == record["grades"]["calls_made"] == 100 < record["grader_calls"] <= 3 * 58
    assert record["grades"]["grader_settings"]["mode"] == "text"
    judge.reset(gold_labels=gold_labels())
    text["output_dir"] = "distill"
    again = results(run_method(DistillConfig(**text, threshold=0.0, num_train_epochs=1)))
    assert again["splits"]["train"]["questions"] == 60 and again["grades"]["calls_made"] == 2
    assert judge.stats()["by_question"] == dict.fromkeys(bad, 1)
    assert again["grades"]["calls"] == 102  # of all grades, failed calls included
    assert again["grader_calls"] == 3 * 60  # the (question, label) scores that training observed


@pytest.mark.slow
def test_a_grade_table_gives_the_same_run_as_its_grader(judge: JudgeServer, base: dict[str, Any]) -> None:
    export_grades(judge, base)
    frame = pd.read_parquet("grades/grades.parquet")
    assert list(frame.columns) == ["question", "label", "score", "status", "grader", "graded_at"] and len(frame) == 300
    options: dict[str, Any] = {**base, "total_episodes": 240}
    requests = judge.stats()["requests"]
    no_grader = {name: value for name, value in options.items() if name not in api(judge)}
    table = {"grade_table": "grades/grades.parquet", "output_dir": "by_table", "disable_tqdm": True}
    by_table = results(run_method(PPOConfig(**{**no_grader, **table})))
    assert judge.stats()["requests"] == requests
    by_grader = results(run_method(PPOConfig(**options)))
    assert by_table["splits"] == by_grader["splits"] and by_table["grader"] == by_grader["grader"]


def test_too_many_failures_exit_with_3_and_the_same_command_resumes(
    judge: JudgeServer, base: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reset(gold_labels=gold_labels(), faults=[{"kind": "empty_choices", "match": "Will"}])
    argv = flags({**base, "total_episodes": 240, "api_mode": "logprobs"})
    with pytest.raises(SystemExit) as exit_:
        run_ppo(argv)
    line = capsys.readouterr().err
    assert exit_.value.code == 3 and line.count("\n") == 1 and "run the same command again" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.sqlite3"]
    good = judge.stats()["answered"]
    judge.reset(gold_labels=gold_labels())
    run_ppo(argv)
    assert judge.stats()["requests"] <= 100 - good + 20 and (tmp_path / "run" / "results.json").exists()


def test_grading_stops_before_training_when_the_judge_breaks_down(judge: JudgeServer, base: dict[str, Any]) -> None:
    """The share of failures is below the limit; skipped questions must not hide that the judge is gone."""
    faults = [{"kind": "500", "match": row["question"]} for row in read_rows("rl")[40:60]]
    judge.reset(gold_labels=gold_labels(), faults=faults)
    options: dict[str, Any] = {**base, "max_grade_failures": 0.9, "max_retries": 0, "max_concurrency": 1}
    with pytest.raises(IncompleteError, match="20 of 60 grades failed, the last with: status 500"):
        run_method(PPOConfig(**options, total_episodes=240))


def test_a_weak_judge_is_refused_before_training_questions_are_graded(judge: JudgeServer, base: dict[str, Any]) -> None:
    judge.reset(gold_labels=dict.fromkeys(gold_labels(), "Maybe"))
    with pytest.raises(InputError, match=r"held-out accuracy .* is not above 0\.6"):
        run_method(PPOConfig(**base, api_mode="logprobs", total_episodes=240))
    assert judge.stats()["requests"] == 40


@pytest.mark.parametrize("way", ["grade_table", "noisy:0:api", "api,rule:Yes"])
def test_a_failed_audit_blocks_every_form_of_the_grader(
    judge: JudgeServer, base: dict[str, Any], tmp_path: Path, way: str
) -> None:
    gold = write_rows(tmp_path / "gold.jsonl", [{**row, "answer": "Yes"} for row in read_rows("heldout")[:20]])
    settings: dict[str, Any] = {**api(judge), "grade_store": base["grade_store"]}
    run.run(AuditConfig(**settings, output_dir="audit", gold_file=str(gold), audit_questions=1))
    if way == "grade_table":
        export_grades(judge, base)
    changed = {"grade_table": "grades/grades.parquet"} if way == "grade_table" else {"grader": way}
    with pytest.raises(InputError, match=r"failed its audit \(accuracy"):
        run_method(PPOConfig(**{**base, **changed}, total_episodes=240))


def test_a_dry_run_makes_no_call_and_writes_nothing(
    judge: JudgeServer, base: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = judge.stats()["requests"]
    argv = flags({**base, "price_per_1k_tokens": 0.5, "dry_run": True})
    run_ppo(argv)
    parser.main(DistillConfig, "eightball_ppo.methods.run_method:run_method", argv)
    line, same = capsys.readouterr().out.splitlines()
    assert line == same and "100 questions for --grader api: 100 calls to make" in line and "cost about" in line
    assert judge.stats()["requests"] == requests
    assert not [path for path in tmp_path.rglob("*") if path.name != "grades.sqlite3"]


@pytest.mark.slow
def test_of_two_ranks_one_grades_and_writes(judge: JudgeServer, base: dict[str, Any], tmp_path: Path) -> None:
    batch = {"per_device_train_batch_size": 60, "num_mini_batches": 4, "api_mode": "logprobs"}
    done = torchrun("scripts/ppo.py", *flags({**base, **batch, "total_episodes": 480}))
    assert done.returncode == 0, done.stderr[-2000:]
    record = results(tmp_path / "run")
    assert record["world_size"] == 2 and record["episodes"] == 480 and record["updates"] == 4
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.sqlite3", "run"]
    assert done.stdout.count("before and after") == 1
    assert judge.stats()["requests"] == 100 and set(judge.stats()["by_question"].values()) == {1}


@pytest.mark.slow
def test_a_bad_grader_ends_both_ranks_with_one_line(base: dict[str, Any]) -> None:
    nowhere = {"grader_base_url": "http://127.0.0.1:9/v1", "max_retries": 0, "per_device_train_batch_size": 60}
    done = torchrun("scripts/ppo.py", *flags({**base, **nowhere, "num_mini_batches": 4}))
    assert done.returncode != 0
    assert done.stderr.count("no usable answer from the server") == 1 and "ppo.py: --grader_base_url" in done.stderr


@pytest.mark.slow
def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    judge: JudgeServer,
    base: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EIGHTBALL_API_KEY", KEY)
    judge.reset(gold_labels=gold_labels(), faults=[{"kind": "400", "match": read_rows("rl")[0]["question"]}])
    base["grader_base_url"] = judge.base_url.replace("://", "://user:hidden-password@")
    shared = {name: base[name] for name in (*api(judge), "grade_store")}
    data = base["dataset_name"]
    labels = ["--labels", *LABELS]
    export_argv = flags({**shared, "output_dir": "grades", "dataset_name": data})
    parser.main(GradeConfig, "eightball_ppo.graders.export:run", [*export_argv, *labels])
    audit_argv = flags({**shared, "output_dir": "audit", "gold_file": f"{data}/heldout.jsonl", "audit_questions": 5})
    parser.main(AuditConfig, "eightball_ppo.auditing.run:run", [*audit_argv, *labels])
    run_ppo([*flags({**base, "total_episodes": 240, "allow_weak_grader": True}), *labels])
    printed = "".join(capfd.readouterr())
    assert judge.stats()["keys"] == judge.stats()["requests"] > 100
    for secret in (KEY, "hidden-password"):
        assert secret not in printed
        assert not [file for file in tmp_path.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert "***@127.0.0.1" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("questions", "kills"),
    [pytest.param(120, 1, marks=pytest.mark.slow), pytest.param(800, 20, marks=pytest.mark.long)],
)
def test_killed_grading_resumes_and_ends_with_the_same_table(
    judge: JudgeServer, tmp_path: Path, questions: int, kills: int
) -> None:
    """A kill costs the calls in flight, four at most."""
    write_rows(tmp_path / "rl.jsonl", [{"question": f"Will it happen on day {i}?"} for i in range(questions)])
    judge.reset(delay=0.02)
    options = {**api(judge), "dataset_name": tmp_path, "splits": "rl", "max_concurrency": 4, "api_mode": "logprobs"}
    calls = {}
    for name, deaths in (("undisturbed", 0), ("killed", kills)):
        before = judge.stats()["requests"]
        command = [
            *(sys.executable, str(REPOSITORY / "scripts" / "grade.py")),
            *flags({**options, "output_dir": tmp_path / name, "grade_store": tmp_path / f"{name}.sqlite3"}),
            *("--labels", *LABELS),
        ]
        for death in range(deaths):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            started = judge.stats()["requests"]
            while judge.stats()["requests"] < started + 3 + 7 * death % 11:  # not before it grades
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        calls[name] = judge.stats()["requests"] - before
    undisturbed, resumed = (pd.read_parquet(tmp_path / name / "grades.parquet") for name in calls)
    assert undisturbed.drop(columns="graded_at").equals(resumed.drop(columns="graded_at"))
    assert calls["undisturbed"] == questions <= calls["killed"] <= questions + 4 * kills
