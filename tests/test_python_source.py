"""`--grader python:FILE.py:NAME`: what is imported, when, and what a judge that cannot be used says."""

import functools
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerCallback

from conftest import LABELS as NAMES
from eightball_ppo.cli import commands
from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.demo.judge import NOT_CALLED, load_judge
from eightball_ppo.errors import InputError
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.function_identity import source_identity
from eightball_ppo.graders.python_source import load_function
from eightball_ppo.graders.registry import GraderSpec, check_graders, load_graders, parse_grader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method

LABELS = LabelSet.of(NAMES)
JUDGE = """
from pathlib import Path
import neighbour

Path(__file__).with_suffix(".imported").touch()

def score(texts, labels):
    return [[float(len(text) + neighbour.BONUS) for _ in labels] for text in texts]

class Judges:
    @staticmethod
    def label(text):
        return "Yes"

number = 3
"""


@pytest.fixture
def judge(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("BONUS = 1\n")
    (tmp_path / "judge.py").write_text(JUDGE)
    return tmp_path / "judge.py"


def imported(judge: Path) -> bool:
    return judge.with_suffix(".imported").exists()


def config_of(judge: Path, **options: Any) -> GradeConfig:
    return GradeConfig(grader=f"python:{judge}:score", **options)


def test_a_spec_names_a_file_or_a_module_and_a_function(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_grader("noisy:0.2:python:my/judge.py:score,bert") == [
        GraderSpec("python", "my/judge.py:score", (0.2,)),
        GraderSpec("bert"),
    ]
    path = list(sys.path)
    assert load_function(f"{judge}:score")(["ab"], ["x", "y"]) == [[3.0, 3.0]]
    assert load_function(f"{judge}:Judges.label")("text") == "Yes"
    monkeypatch.chdir(judge.parent)
    assert load_function("judge:score")(["ab"], ["x"]) == [[3.0]]
    assert sys.path == path


def test_the_fingerprint_follows_the_file_and_not_its_place(judge: Path, tmp_path: Path) -> None:
    first = source_identity(load_function(f"{judge}:score"))
    moved = tmp_path / "elsewhere" / "other.py"
    moved.parent.mkdir()
    moved.write_text(JUDGE)
    assert source_identity(load_function(f"{moved}:score")) == first
    judge.write_text(f"{JUDGE}# another line\n")
    changed = load_function(f"{judge}:score")
    assert source_identity(changed)["source"] != first["source"]
    changed.version = 2  # type: ignore[attr-defined]
    assert source_identity(changed)["version"] == "2"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "score", "nowhere.py: No such file or directory; name a Python file"),
        (JUDGE, "sore", "has no 'sore'; its functions: score"),
        (JUDGE, "number", "number is no function but of type int"),
        ("import nowhere_to_be_found", "score", "cannot be imported (ModuleNotFoundError: No module named"),
        ("def score(:", "score", "cannot be imported (SyntaxError: invalid syntax"),
        ("raise SystemExit('usage: judge')", "score", "cannot be imported (SystemExit: usage: judge)"),
        ("def score(a, b, c): pass", "score", "takes (a, b, c); a judge is f(texts, labels)"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_line(
    content: str | None, name: str, message: str, judge: Path, tmp_path: Path
) -> None:
    file = tmp_path / ("nowhere.py" if content is None else "judge.py")
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        check_graders(GradeConfig(grader=f"python:{file}:{name}"), LABELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["python", "python:judge.py", "python::score", "python:judge.py:"])
def test_a_spec_without_a_function_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="which function"):
        parse_grader(spec)


def test_a_named_function_grades_alone_and_in_an_ensemble(judge: Path) -> None:
    texts = ["ab", "abcd"]
    with GradeStore(":memory:") as store:
        alone = load_graders(config_of(judge), LABELS, store, Budget())
        assert alone.scale == "raw" and alone.fill(texts).score_NK.tolist() == [[3.0] * 3, [5.0] * 3]
        mixed = GradeConfig(grader=f"rule:Yes,python:{judge}:score,python:{judge}:Judges.label")
        assert load_graders(mixed, LABELS, store, Budget()).scale == "log_prob"
        p_NK = load_graders(mixed, LABELS, store, Budget()).fill(texts).logp_NK.exp()
    assert p_NK[0].tolist() == pytest.approx([(0.98 + 1 / 3 + 0.999) / 3, *[(0.01 + 1 / 3 + 0.0005) / 3] * 2])


def test_no_table_demo_or_parser_imports_the_judge_that_a_run_names(judge: Path) -> None:
    named = {"grader": f"python:{judge}:score", "reward_model_path": "runs/reward"}
    assert load_judge(named, None, LABELS).note == NOT_CALLED
    assert load_judge({**named, "grader": "object:python:0123"}, None, LABELS).note == NOT_CALLED
    check_graders(config_of(judge, grade_table="grades.parquet"), LABELS)
    assert not imported(judge)
    check_graders(config_of(judge), LABELS)
    assert imported(judge)


def test_report_and_push_of_a_run_do_not_import_the_judge_that_it_names(
    judge: Path, ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(ppo_run, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"grader": f"python:{judge}:score"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    commands.run("report", [str(run)])
    commands.run("push", [str(run), "--repo_id", "me/ball", "--dry_run"])
    assert "| ppo" in capsys.readouterr().out and not imported(judge)


@pytest.mark.usefixtures("no_figures")
def test_resuming_a_run_does_not_import_the_judge_that_its_checkpoint_names(
    judge: Path, sft_run: Path, small_data: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dataset_name": str(small_data), "sft_model_path": str(sft_run), "save_steps": 1}
    places: dict[str, Any] = {"output_dir": str(tmp_path / "run"), "grade_store": str(tmp_path / "grades.sqlite3")}
    config = ExactConfig(**options, **places, grader=f"python:{judge}:score", allow_weak_grader=True)
    with pytest.raises(RuntimeError, match="stopped"):
        run_method(config, callbacks=[Stop()])
    judge.with_suffix(".imported").unlink()
    judge.write_text(JUDGE + "# another file\n")
    with pytest.raises(InputError, match="was made with --grader python:"):
        run_method(replace(config, grader="rule:Yes", resume_from_checkpoint="true"))
    assert not imported(judge)


class Stop(TrainerCallback):
    """Ends the training by an error in the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise RuntimeError("stopped")


def test_grade_takes_a_function_on_the_command_line(
    judge: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset_name", str(small_data), "--splits", "heldout", "--disable_tqdm", "true"]
    arguments += ["--grader", f"python:{judge}:score"]
    directory = judge.parent
    arguments += ["--output_dir", str(directory / "grades"), "--grade_store", str(directory / "grades.sqlite3")]
    commands.run("grade", arguments)
    assert "0 failed, 0 refused" in capsys.readouterr().out and (directory / "grades" / "grades.parquet").is_file()


def scaled(factor: float) -> Any:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def judge(texts: list[str], labels: list[str]) -> Any:
            return [[factor * value for value in row] for row in function(texts, labels)]

        return judge

    return decorate


def keyword(factor: float) -> Any:
    def judge(texts: list[str], labels: list[str], *, by: float = factor) -> Any:
        return [[by for _ in labels] for _ in texts]

    return judge


def chosen(first: bool) -> Any:
    if first:

        def judge(texts: list[str], labels: list[str]) -> Any:
            return [[1.0 for _ in labels] for _ in texts]
    else:

        def judge(texts: list[str], labels: list[str]) -> Any:
            return [[2.0 for _ in labels] for _ in texts]

    return judge


class Slotted:
    __slots__ = ("weights",)

    def __init__(self, weights: Any):
        self.weights = weights

    def __call__(self, texts: list[str], labels: list[str]) -> Any:
        return [list(self.weights) for _ in texts]


def over(value: Any) -> Any:
    return lambda texts, labels: [[value for _ in labels] for _ in texts]


@pytest.mark.parametrize(
    "make",
    [
        lambda n: scaled(n)(over(1)),
        keyword,
        lambda n: chosen(n == 1),
        Slotted,
        lambda n: Slotted(np.array([n, 1.0])),
        lambda n: over(torch.tensor([n])),
        lambda n: over({"a": [Slotted((n,))]}),
        lambda n: functools.partial(over(1), extra=n),
        lambda n: [lambda texts, labels: 1, lambda texts, labels: 2][int(n) - 1],
    ],
)
def test_two_judges_that_differ_have_two_fingerprints_and_equal_ones_have_one(make: Any) -> None:
    one, same, other = (source_identity(make(number)) for number in (1.0, 1.0, 2.0))
    assert one == same and one != other


def test_the_fingerprint_of_a_function_without_a_file_holds_no_address_and_no_secret() -> None:
    found = []
    for _ in range(2):
        names: dict[str, Any] = {}
        exec("def judge(texts, labels):\n    return [[len(t) for _ in labels] for t in texts if (lambda: t)()]", names)
        found.append(source_identity(names["judge"]))
    assert found[0] == found[1]
    assert "sk-secret" not in str(source_identity(over("sk-secret")))
