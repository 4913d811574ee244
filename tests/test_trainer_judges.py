"""What judges in a trainer: functions of every kind, TRL's reward functions unchanged, and bad ones."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from eightball_ppo import ExactTrainer, IncompleteError, InputError, PPOConfig, PPOTrainer
from eightball_ppo.config.methods import ExactConfig

pytestmark = pytest.mark.usefixtures("no_figures")
ROWS = {
    "question": ["Is it one?", "Is it two?", "Is it three?", "Is it four?", "Is it five?", "Is it six?"],
    "solution": ["No", "Yes", "No", "No", "Yes", "No"],
}
TRAIN = Dataset.from_dict(ROWS)
HELDOUT = Dataset.from_dict({"question": ["Is it over?", "Is it on?"], "answer": ["No"] * 2, "solution": ["No"] * 2})


def accuracy_reward(prompts: list[str], completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
    """With the signature that TRL documents: a column of the data set, and everything else by keyword."""
    assert len(prompts) == len(completions) == len(solution) and kwargs["trainer_state"] is None
    kwargs["log_metric"]("accuracy", 1.0)
    return [float(found == right) for found, right in zip(completions, solution, strict=True)]


def no_opinion(completions: list[str], **kwargs: Any) -> list[float | None]:
    """None: this function does not apply."""
    return [None] * len(completions)


async def async_reward(completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
    return [float(found == right) for found, right in zip(completions, solution, strict=True)]


def scores(texts: list[str], labels: list[str]) -> list[list[float]]:
    return [[float(label == "No") for label in labels] for _ in texts]


def trained(judge: Any, sft_run: Path, **options: Any) -> dict[str, Any]:
    args = ExactConfig(num_train_epochs=20, disable_tqdm=True, **options)
    return ExactTrainer(str(sft_run), judge, args, TRAIN, HELDOUT).train()


@pytest.mark.parametrize("judge", [accuracy_reward, async_reward, [accuracy_reward, no_opinion]])
def test_a_reward_function_of_trl_runs_unchanged(judge: Any, sft_run: Path) -> None:
    results = trained(judge, sft_run)
    train, before = results["splits"]["train"], results["reference"]["train"]
    assert results["grades"]["ok"] == 3 * 8 and train["expected_score"] > before["expected_score"]
    assert train["grader_histogram"] == {"Yes": pytest.approx(1 / 3), "No": pytest.approx(2 / 3), "Maybe": 0.0}


def test_a_closure_judges_and_a_labeller_too(sft_run: Path) -> None:
    hated = "Maybe"

    def closure(texts: list[str], labels: list[str]) -> list[list[float]]:
        return [[-100.0 * (label == hated) for label in labels] for _ in texts]

    def labeller(text: str) -> str:
        return "No"

    assert trained(closure, sft_run, allow_weak_grader=True)["splits"]["train"]["label_histogram"]["Maybe"] < 0.3
    assert trained(labeller, sft_run, kl_coef=0.5)["splits"]["train"]["grader_histogram"]["No"] == 1.0


def test_the_default_trainer_takes_a_function_and_a_list_of_texts(sft_run: Path) -> None:
    texts = [f"Will there be {number} of them?" for number in range(12)]
    trainer = PPOTrainer(str(sft_run), scores, PPOConfig(total_episodes=48, disable_tqdm=True), texts)
    assert "gold_accuracy" not in trainer.train()["splits"]["heldout"]


def ill(texts: list[str], labels: list[str]) -> list[list[float]]:
    raise RuntimeError("the judge is ill")


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda texts, labels: [[0.0]] * len(texts), "judge <lambda>"),
        (lambda a, b, c: None, "judge <lambda>"),
        (lambda text: 3, "the judge returned '3', which is none of"),
        (lambda text: "Perhaps", "the judge returned 'Perhaps', which is none of"),
        (ill, "the judge is ill"),
        (3, "judge: a function, a Grader"),
    ],
    ids=["shape", "arguments", "number", "unknown label", "raises", "no function"],
)
def test_a_judge_that_cannot_judge_ends_in_one_line_without_flags(judge: Any, message: str, sft_run: Path) -> None:
    with pytest.raises((InputError, IncompleteError), match=message) as error:
        trained(judge, sft_run)
    assert "\n" not in str(error.value) and " --" not in str(error.value)
