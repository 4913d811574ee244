"""The grader's own view of a question, of graders that are asked in a moment and at no cost; others are not asked."""

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, convert_scores
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import GraderSpec, parse_grader
from eightball_ppo.labels import LabelSet

NOT_ASKED = "The judge of this run is not asked here."


@dataclass(frozen=True)
class Judge:
    """Who is shown as the grader: `title` and `note` for the page; `grader` None where nobody is asked."""

    title: str
    note: str
    grader: Grader | None = None

    def logp_K(self, question: str) -> Tensor | None:
        """Its log-probabilities [K] (float64) of the labels; None where nobody is asked."""
        if self.grader is None:
            return None
        grades: list[Grade] = []
        with _ONE_AT_A_TIME:
            self.grader.grade([GradeRequest(question)], grades.append, Budget())
        return torch.tensor(grades[0].scores, dtype=torch.float64).log_softmax(-1)


_ONE_AT_A_TIME = threading.Lock()  # a fast tokenizer that two threads use at once raises "Already borrowed"


def score_K(logp_K: Tensor, kind: Any) -> Tensor:
    """The scores [K] that a run with `--score_type kind` maximises, of a grader's log-probabilities [K]."""
    return convert_scores(logp_K[None], kind)[0]


def load_judge(
    run: dict[str, Any], reward_model_path: str | None, labels: LabelSet, trust_remote_code: bool = False
) -> Judge:
    """The judge of a run with the options `run`; `reward_model_path`, where given, is shown instead of the run's own.

    Raises:
        InputError: `reward_model_path` is given and is no reward model for these labels; a grader that nobody knows.
    """
    if reward_model_path is not None:
        return _reward_model(reward_model_path, "--reward_model_path", labels, trust_remote_code)
    specs = parse_grader(str(run["grader"]))
    spec = specs[0]
    if run.get("grade_table") is not None or len(specs) > 1 or spec.noise or run.get("grader_label_map"):
        return Judge(f"grader {'table' if run.get('grade_table') is not None else run['grader']}", NOT_ASKED)
    if spec.name != "bert":
        return _plain(spec, str(run["grader"]), labels)
    path = str(run["reward_model_path"])
    try:
        return _reward_model(path, "--reward_model_path", labels, trust_remote_code)
    except InputError:
        return Judge("grader bert", f"Its reward model {path} is not here or is another one; pass --reward_model_path.")


def _plain(spec: GraderSpec, name: str, labels: LabelSet) -> Judge:
    if spec.name == "rule":
        from eightball_ppo.graders.rules import RuleGrader

        return Judge(f"grader {name}", "A rule: one answer, whatever the question.", RuleGrader(spec.argument, labels))
    if spec.name == "random-head":
        from eightball_ppo.graders.bert import RANDOM_HEAD_SEED, BertGrader

        grader = BertGrader.random_head(labels, int(spec.argument or RANDOM_HEAD_SEED))
        return Judge(f"grader {name}", "A head that was never trained: its preferences are noise.", grader)
    return Judge(f"grader {name}", NOT_ASKED)


def _reward_model(path: str, flag: str, labels: LabelSet, trust_remote_code: bool) -> Judge:
    from eightball_ppo.graders.bert import BertGrader

    grader = BertGrader.from_directory(path, trust_remote_code)
    labels.require_same(grader.labels, "--runs", f"{flag} {path}")
    return Judge("reward model", "The grader: what it thinks that the asker wants to hear.", grader)
