"""Methods on graders that cost: failures are left out and counted, nothing is asked twice, no key is written."""

import json
import os
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
from eightball_ppo.audit import run
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
    """A judge that knows every wish of the held-out questions, and has an opinion on all others."""
    server.reset(wishes=wishes())
    return server


def wishes() -> dict[str, str]:
    return {row["question"]: row["answer"] for row in read_rows("heldout")}


def api(judge: JudgeServer) -> dict[str, Any]:
    return {"grader": "api", "grader_model": "judge", "grader_base_url": judge.base_url, "disable_tqdm": True}


def store(tmp_path: Path) -> dict[str, Any]:
    return {"grade_store": str(tmp_path / "grades.sqlite3")}


def flags(options: dict[str, Any]) -> list[str]:
    return [
        part
        for name, value in options.items()
        for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


def method_options(tmp_path: Path, small_data: Path, sft_run: Path, name: str) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / name),
        "dataset_name": str(small_data),
        "sft_model_path": str(sft_run),
        "grade_store": str(tmp_path / "grades.sqlite3"),
    }


def test_ppo_and_distillation_leave_out_what_has_no_grade_and_say_so(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    train = [row["question"] for row in read_rows("rl")[:60]]
    bad = [train[3], train[17]]
    judge.reset(
        wishes=wishes(), faults=[{"kind": "refusal", "match": bad[0]}, {"kind": "wrong_label", "match": bad[1]}]
    )
    own = {**api(judge), "api_mode": "text"}
    record = results(
        run_method(
            PPOConfig(
                **method_options(tmp_path, small_data, sft_run, "ppo"), **own, repeats_per_epoch=2, total_episodes=232
            )
        )
    )
    counts = {name: record["grades"][name] for name in ("ok", "failed", "refused", "skipped")}
    assert counts == {"ok": 3 * 98, "failed": 3, "refused": 3, "skipped": 0}
    assert record["grades"]["dropped_questions"] == {"heldout": 0, "train": 2}
    assert record["splits"]["train"]["questions"] == 58 and record["per_device_train_batch_size"] == 112
    assert record["grades"]["calls"] == record["grades"]["calls_made"] == 100 < record["grader_calls"] <= 3 * 58
    assert record["grades"]["grader_settings"]["mode"] == "text"
    judge.reset(wishes=wishes())
    again = results(
        run_method(
            DistillConfig(
                **method_options(tmp_path, small_data, sft_run, "distill"), **own, threshold=0.0, num_train_epochs=1
            )
        )
    )
    assert again["splits"]["train"]["questions"] == 60 and again["grades"]["calls_made"] == 2
    assert judge.stats()["by_question"] == dict.fromkeys(bad, 1)
    assert again["grades"]["calls"] == 102  # what the grades took in all, failed calls included
    assert again["grader_calls"] == 3 * 60  # the (question, label) grades that training looked at


def test_a_grade_table_gives_the_run_that_its_grader_gives(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    export.run(
        GradeConfig(**api(judge), **store(tmp_path), output_dir="grades", dataset_name=str(small_data), labels=LABELS)
    )
    table = tmp_path / "grades" / "grades.parquet"
    frame = pd.read_parquet(table)
    assert list(frame.columns) == ["question", "label", "score", "status", "grader", "graded_at"] and len(frame) == 300
    options: dict[str, Any] = {"total_episodes": 240}
    asked = judge.stats()["requests"]
    by_table = run_method(
        PPOConfig(
            **method_options(tmp_path, small_data, sft_run, "a"), **options, disable_tqdm=True, grade_table=str(table)
        )
    )
    assert judge.stats()["requests"] == asked
    by_grader = run_method(PPOConfig(**method_options(tmp_path, small_data, sft_run, "b"), **options, **api(judge)))
    assert results(by_table)["splits"] == results(by_grader)["splits"]
    assert results(by_table)["grader"] == results(by_grader)["grader"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(label=t.label.replace("Maybe", "Perhaps")), "has the labels ['No', 'Perhaps', 'Yes']"),
        (lambda t: t[t.question != t.question[0]], "lacks 1 of"),
    ],
)
def test_a_grade_table_of_other_data_is_refused(
    judge: JudgeServer,
    tmp_path: Path,
    small_data: Path,
    sft_run: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    message: str,
) -> None:
    export.run(
        GradeConfig(**api(judge), **store(tmp_path), output_dir="grades", dataset_name=str(small_data), labels=LABELS)
    )
    table = tmp_path / "other.parquet"
    change(pd.read_parquet(tmp_path / "grades" / "grades.parquet")).to_parquet(table)
    argv = flags({**method_options(tmp_path, small_data, sft_run, "ppo"), "grade_table": table})
    with pytest.raises(SystemExit) as exit_:
        parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", argv)
    line = capsys.readouterr().err
    assert exit_.value.code == 2 and line.count("\n") == 1 and message in line and str(table) in line
    assert not (tmp_path / "ppo").exists()


def test_too_many_failures_are_exit_code_3_and_a_way_on(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reset(wishes=wishes(), faults=[{"kind": "empty_choices", "match": "Will"}])
    argv = flags({**method_options(tmp_path, small_data, sft_run, "ppo"), **api(judge), "total_episodes": 240})
    with pytest.raises(SystemExit) as exit_:
        parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", [*argv, "--api_mode", "logprobs"])
    line = capsys.readouterr().err
    assert exit_.value.code == 3 and line.count("\n") == 1 and "run the same command again" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.sqlite3"]
    good = judge.stats()["answered"]
    judge.reset(wishes=wishes())
    parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", [*argv, "--api_mode", "logprobs"])
    assert judge.stats()["requests"] <= 100 - good + 20 and (tmp_path / "ppo" / "results.json").exists()


def test_a_judge_that_breaks_down_trains_nobody_however_much_it_graded_before(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    """The failures are below the limit; what was never asked must not hide that the judge is gone."""
    faults = [{"kind": "500", "match": row["question"]} for row in read_rows("rl")[40:60]]
    judge.reset(wishes=wishes(), faults=faults)
    options = {**method_options(tmp_path, small_data, sft_run, "ppo"), **api(judge), "max_grade_failures": 0.9}
    with pytest.raises(IncompleteError, match="20 of 60 grades failed, the last with: status 500"):
        run_method(PPOConfig(**options, max_retries=0, max_concurrency=1, total_episodes=240))


def test_a_weak_judge_is_found_out_before_the_training_questions_are_paid_for(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    judge.reset(wishes=dict.fromkeys(wishes(), "Maybe"))
    options = {**method_options(tmp_path, small_data, sft_run, "ppo"), **api(judge), "api_mode": "logprobs"}
    with pytest.raises(InputError, match=r"held-out accuracy .* is not above 0\.6"):
        run_method(PPOConfig(**options, total_episodes=240))
    assert judge.stats()["requests"] == 40


@pytest.mark.parametrize("way", ["grade_table", "noisy:0:api", "api,rule:Yes"])
def test_no_way_leads_around_a_failed_audit(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path, way: str
) -> None:
    gold = write_rows(tmp_path / "gold.jsonl", [{**row, "answer": "Yes"} for row in read_rows("heldout")[:20]])
    asked: dict[str, Any] = {**api(judge), **store(tmp_path)}
    run.run(AuditConfig(**asked, output_dir="audit", gold_file=str(gold), audit_questions=1))
    options: dict[str, Any] = {**method_options(tmp_path, small_data, sft_run, "ppo"), **api(judge)}
    if way == "grade_table":
        export.run(GradeConfig(**asked, output_dir="grades", dataset_name=str(small_data), labels=LABELS))
        options["grade_table"] = "grades/grades.parquet"
    else:
        options["grader"] = way
    with pytest.raises(InputError, match=r"failed its audit \(accuracy"):
        run_method(PPOConfig(**options, total_episodes=240))


def test_a_dry_run_asks_nobody_and_writes_nothing(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = judge.stats()["requests"]
    price = {"price_per_1k_tokens": 0.5, "dry_run": True}
    common = {**method_options(tmp_path, small_data, sft_run, "x"), **api(judge), **price}
    parser.main(PPOConfig, "eightball_ppo.methods.run_method:run_method", flags(common))
    parser.main(DistillConfig, "eightball_ppo.methods.run_method:run_method", flags(common))
    line, same = capsys.readouterr().out.splitlines()
    assert line == same and "100 questions for --grader api: 100 calls to make" in line and "cost about" in line
    assert judge.stats()["requests"] == asked
    assert not [path for path in tmp_path.rglob("*") if path.name != "grades.sqlite3"]


def test_a_persona_steers_the_policy_where_the_judge_can_follow_it(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    """The policy's mean probability of Yes and No on held-out questions follows the judge's persona.

    (That it follows a rule is in test_stages; `benchmarks/personas.sh` prints both.)
    """
    recipe: dict[str, Any] = {
        "total_episodes": 120 * 8,
        "repeats_per_epoch": 2,
        "kl_coef": 0.05,
        "allow_weak_grader": True,
    }
    histogram = {}
    for prompt in ("wanted_answer", "optimist", "pessimist"):
        options = method_options(tmp_path, small_data, sft_run, prompt)
        run = run_method(PPOConfig(**options, **api(judge), **recipe, grader_prompt=prompt))
        histogram[prompt] = results(run)["splits"]["heldout"]["label_histogram"]
    assert histogram["optimist"]["Yes"] > histogram["wanted_answer"]["Yes"] + 0.2 > histogram["pessimist"]["Yes"] + 0.3
    assert histogram["pessimist"]["No"] > histogram["wanted_answer"]["No"] + 0.2


def test_two_ranks_ask_each_question_once_and_one_of_them_writes(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    options = {**method_options(tmp_path, small_data, sft_run, "ppo"), **api(judge), "total_episodes": 480}
    batch = {"per_device_train_batch_size": 60, "num_mini_batches": 4, "api_mode": "logprobs"}
    before = judge.stats()["requests"]
    done = torchrun("scripts/ppo.py", *flags({**options, **batch}))
    assert done.returncode == 0, done.stderr[-2000:]
    record = results(tmp_path / "ppo")
    assert record["world_size"] == 2 and record["episodes"] == 480 and record["updates"] == 4
    assert len((tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.sqlite3", "ppo"]
    assert done.stdout.count("before and after") == 1
    assert judge.stats()["requests"] - before == 100 and set(judge.stats()["by_question"].values()) == {1}


def test_a_bad_grader_ends_both_ranks_with_one_line(tmp_path: Path, small_data: Path, sft_run: Path) -> None:
    nobody = {"grader": "api", "grader_model": "m", "grader_base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    options = {**method_options(tmp_path, small_data, sft_run, "ppo"), **nobody, "per_device_train_batch_size": 60}
    done = torchrun("scripts/ppo.py", *flags({**options, "num_mini_batches": 4}))
    assert done.returncode != 0
    assert done.stderr.count("no usable answer from the server") == 1 and "ppo.py: --grader_base_url" in done.stderr


def test_the_key_comes_from_the_environment_and_stands_nowhere(
    judge: JudgeServer, tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    judge.reset(wishes=wishes(), faults=[{"kind": "400", "match": read_rows("rl")[0]["question"]}])
    environment = {**os.environ, "EIGHTBALL_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    url = judge.base_url.replace("://", "://user:hidden-password@")
    own = {**api(judge), **store(tmp_path), "grader_base_url": url}
    said = ""
    for script, options in (
        ("grade", {"output_dir": tmp_path / "grades", "dataset_name": small_data}),
        ("audit", {"output_dir": tmp_path / "audit", "gold_file": small_data / "heldout.jsonl", "audit_questions": 5}),
        (
            "ppo",
            {**method_options(tmp_path, small_data, sft_run, "ppo"), "total_episodes": 240, "allow_weak_grader": True},
        ),
    ):
        command = [
            sys.executable,
            str(REPOSITORY / "scripts" / f"{script}.py"),
            *flags({**own, **options}),
            "--labels",
            *LABELS,
        ]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    assert judge.stats()["keys"] == judge.stats()["requests"] > 100
    for secret in (KEY, "hidden-password"):
        assert secret not in said
        assert not [file for file in tmp_path.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert "***@127.0.0.1" in (tmp_path / "ppo" / "config.yaml").read_text()


def killed_and_resumed(judge: JudgeServer, directory: Path, questions: int, kills: int) -> tuple[int, int]:
    """(calls of an undisturbed grading, calls of one killed `kills` times); asserts that both tables are equal."""
    rows = [{"question": f"Will it happen on day {i}?"} for i in range(questions)]
    write_rows(directory / "rl.jsonl", rows)
    judge.reset(delay=0.02)
    own = {**api(judge), "dataset_name": directory, "splits": "rl", "max_concurrency": 4, "api_mode": "logprobs"}
    calls = {}
    for name, deaths in (("undisturbed", 0), ("killed", kills)):
        before = judge.stats()["requests"]
        command = [
            *(sys.executable, str(REPOSITORY / "scripts" / "grade.py")),
            *flags({**own, "output_dir": directory / name, "grade_store": directory / f"{name}.sqlite3"}),
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
    whole, resumed = (pd.read_parquet(directory / name / "grades.parquet") for name in calls)
    assert whole.drop(columns="graded_at").equals(resumed.drop(columns="graded_at"))
    return calls["undisturbed"], calls["killed"]


def test_killed_it_ends_with_the_same_table(judge: JudgeServer, tmp_path: Path) -> None:
    undisturbed, killed = killed_and_resumed(judge, tmp_path, questions=120, kills=1)
    assert undisturbed == 120 <= killed <= 120 + 4


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_table(judge: JudgeServer, tmp_path: Path) -> None:
    undisturbed, killed = killed_and_resumed(judge, tmp_path, questions=800, kills=20)
    assert undisturbed == 800 <= killed <= 800 + 20 * 4
