"""The grader's probabilities for one question, of graders that answer at once and at no cost; others are not called."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest
from eightball_ppo.graders.bert import RANDOM_HEAD_SEED, BertGrader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import parse_grader
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet

NOT_CALLED = "The demo does not call the grader of this run."
_TOKENIZER_LOCK = threading.Lock()  # a fast tokenizer that two threads use at once raises "Already borrowed"


@dataclass(frozen=True)
class Judge:
    """The grader as the page shows it: `title` and `note`; `grader` is None if the demo does not call it."""

    title: str
    note: str
    grader: Grader | None = None

    def logp_K(self, question: str) -> Tensor | None:
        """The grader's log-probabilities of the labels.

        Returns:
            Nats, shape [K], float64; None if the demo does not call the grader.
        """
        if self.grader is None:
            return None
        grades: list[Grade] = []
        with _TOKENIZER_LOCK:
            self.grader.grade([GradeRequest(question)], grades.append, Budget())
        return torch.tensor(grades[0].scores, dtype=torch.float64).log_softmax(-1)


def load_judge(
    config: dict[str, Any], reward_model_path: str | None, labels: LabelSet, trust_remote_code: bool = False
) -> Judge:
    """Loads the grader of a run.

    Args:
        config: The run's options.
        reward_model_path: A reward model that replaces the run's grader, or None.
        labels: The labels of the run's policy.
        trust_remote_code: Whether code in the reward model's directory may run.

    Raises:
        InputError: `reward_model_path` is not a reward model for these labels, or the run's grader is unknown.
    """
    if reward_model_path is not None:
        return _load_reward_model(reward_model_path, labels, trust_remote_code)
    if config.get("grade_table") is not None:
        return Judge("grader table", NOT_CALLED)
    title, specs = f"grader {config['grader']}", parse_grader(str(config["grader"]))
    spec = specs[0]
    if len(specs) > 1 or spec.noise or config.get("grader_label_map"):
        return Judge(title, NOT_CALLED)
    if spec.name == "bert":
        path = str(config["reward_model_path"])
        try:
            return _load_reward_model(path, labels, trust_remote_code)
        except InputError:
            return Judge(title, f"Its reward model {path} is missing or has changed; pass --reward_model_path.")
    if spec.name == "rule":
        return Judge(title, "A rule: one answer to every question.", RuleGrader(spec.argument, labels))
    if spec.name == "random-head":
        grader = BertGrader.random_head(labels, int(spec.argument or RANDOM_HEAD_SEED))
        return Judge(title, "An untrained head: its preferences are noise.", grader)
    return Judge(title, NOT_CALLED)


def _load_reward_model(path: str, labels: LabelSet, trust_remote_code: bool) -> Judge:
    grader = BertGrader.from_directory(path, trust_remote_code)
    labels.require_same(grader.labels, "--runs", f"--reward_model_path {path}")
    return Judge("reward model", "The grader: its probability that an answer is the gold label.", grader)
