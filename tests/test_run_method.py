"""`run_method` with objects instead of the names in its config."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from transformers import TrainerCallback

from conftest import LABELS
from eightball_ppo.config.methods import ExactConfig, PPOConfig, ReferenceConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.run import read_metrics, read_results

pytestmark = pytest.mark.usefixtures("no_figures")
TRAIN = Questions("a list", [f"Will there be {number} of them?" for number in range(10)])
HELDOUT = Questions("another list", ["Is it over?", "Am I late?", "Do I win?"], [0, 0, 1])


class Steps(TrainerCallback):
    count = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.count += 1


def objects(sft_run: Path) -> dict[str, Any]:
    model = load_classifier(str(sft_run), "--sft_model_path")
    judge = RuleGrader("No", LabelSet.of(LABELS))
    return {"model": model, "judge": judge, "train": TRAIN, "evaluation": HELDOUT}


@pytest.mark.parametrize(
    ("config_class", "short"),
    [
        (ExactConfig, {"num_train_epochs": 3}),
        (PPOConfig, {"total_episodes": 60, "per_device_train_batch_size": 20, "num_mini_batches": 2}),
    ],
)
def test_objects_replace_names(config_class: Any, short: dict[str, Any], sft_run: Path, tmp_path: Path) -> None:
    """The names lead nowhere."""
    given = objects(sft_run)
    model, _ = given["model"]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    nowhere = {name: str(tmp_path / "nowhere") for name in ("dataset_name", "sft_model_path", "reward_model_path")}
    config = config_class(output_dir=str(tmp_path / "run"), disable_tqdm=True, kl_coef=0.5, **nowhere, **short)
    steps = Steps()
    results = read_results(run_method(config, **given, callbacks=[steps]))
    assert results["grader"] == given["judge"].fingerprint and results["grades"]["ok"] == 3 * 13
    assert (results["splits"]["train"]["questions"], results["splits"]["heldout"]["questions"]) == (10, 3)
    assert results["splits"]["train"]["expected_score"] > results["reference"]["train"]["expected_score"]
    assert steps.count == 3
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_dry_run_and_label_check_use_the_given_judge(sft_run: Path, tmp_path: Path) -> None:
    given = objects(sft_run)
    judge = given["judge"]
    config = ExactConfig(output_dir=str(tmp_path / "run"), grade_store=str(tmp_path / "grades.sqlite3"), dry_run=True)
    with pytest.raises(DryRun, match=rf"13 questions for grader {judge.fingerprint}: 13 calls to make, about"):
        run_method(config, **given)
    with GradeStore(config.grade_store) as store:
        StoredGrader(judge, store, Budget(), 1.0, progress=False).fill(TRAIN.texts[:4])
    with pytest.raises(DryRun, match=r"9 calls to make \(the rest is in .*grades.sqlite3\), about"):
        run_method(config, **given)
    with pytest.raises(InputError, match=r"labels differ: --labels has .*, grader rule:.* has .*Spam"):
        run_method(config, **{**given, "judge": RuleGrader("Ham", LabelSet.of(["Ham", "Spam"]))})


@pytest.mark.parametrize("name", ["sft_model_path", "reward_model_path"])
def test_a_dry_run_refuses_a_model_that_is_not_there(
    name: str, sft_run: Path, reward_run: Path, tmp_path: Path
) -> None:
    paths: dict[str, Any] = {
        "sft_model_path": str(sft_run),
        "reward_model_path": str(reward_run),
        name: str(tmp_path / "nowhere"),
    }
    config = ExactConfig(output_dir=str(tmp_path / "run"), labels=list(LABELS), dry_run=True, **paths)
    with pytest.raises(InputError, match=f"--{name} .*nowhere: no such directory"):
        run_method(config, train=TRAIN, evaluation=HELDOUT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"judge": object()}, "judge: a function, a Grader, .* is needed, got object"),
        ({"model": "runs/sft"}, "model: a classifier and its tokenizer are needed"),
        ({"train": Questions("none", [])}, "train: Questions with at least one text"),
        ({"train": ["Is it?"]}, "train: Questions with at least one text"),
        ({"evaluation": Questions("one label", ["A?", "B?"], [0])}, "evaluation: a label id for every text"),
    ],
)
def test_unusable_objects_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = ExactConfig(output_dir=str(tmp_path / "run"), dataset_name="elsewhere")
    with pytest.raises(InputError, match=message):
        run_method(config, **given)
    assert not list(tmp_path.glob("run.*")) and not Path(config.output_dir).exists()


def test_fit_may_log_nothing_but_must_return_a_model(sft_run: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    given = objects(sft_run)
    config = ReferenceConfig(output_dir=str(tmp_path / "run"), disable_tqdm=True)
    monkeypatch.setattr("eightball_ppo.methods.reference.fit", lambda task, run: None)
    with pytest.raises(InputError, match=r"method sft: eightball_ppo\.methods\.reference:fit returned NoneType"):
        run_method(config, **given)
    assert not list(tmp_path.glob("run.*")) and not Path(config.output_dir).exists()
    monkeypatch.setattr("eightball_ppo.methods.reference.fit", lambda task, run: task.classifier)
    assert [row["exact/kl"] for row in read_metrics(run_method(config, **given))] == [0.0]
    monkeypatch.delattr("eightball_ppo.methods.reference.fit")
    with pytest.raises(InputError, match=r"method sft: eightball_ppo\.methods\.reference:fit cannot be loaded"):
        run_method(ReferenceConfig(output_dir=str(tmp_path / "other")), **given)
