"""A demo session: for one question, the answers of all policies, the grader's probabilities and the optimum."""

import bisect
import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.data import Questions
from eightball_ppo.demo.judge import load_judge
from eightball_ppo.demo.loading import Policy, load_policies
from eightball_ppo.functional import objective
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import max_input_length, tokenize

MAX_QUESTION_LENGTH = 2000  # characters
HIGHEST_BETA, LOWEST_BETA = 100.0, 0.001  # the finite ends of the slider
BETAS_PER_DECADE = 10


class InvalidQuestion(ValueError):  # noqa: N818  nothing went wrong
    """The text cannot be asked; the message is for the user of the page."""


@dataclass(frozen=True)
class Answer:
    """The answers to one question.

    Args:
        question: The text as it was asked.
        logp_PK: Log-probabilities of the labels in nats, a row per policy, the reference first. Float64.
        grader_logp_K: The grader's log-probabilities in nats, float64; None if the demo does not call the grader.
        score_K: The scores that the last run maximises, float64; None if the demo does not call the grader.
        truncated: Names of the policies that read only the beginning of the question.
    """

    question: str
    logp_PK: Tensor
    grader_logp_K: Tensor | None
    score_K: Tensor | None
    truncated: tuple[str, ...]


@dataclass(frozen=True)
class PolicyPoint:
    """A policy at one question: label probabilities [K], KL to the reference in nats, expected score."""

    probability_K: tuple[float, ...]
    kl: float
    expected_score: float


def clean_question(text: object) -> str:
    """`text` without surrounding whitespace and halves of surrogate pairs.

    Raises:
        InvalidQuestion: The text has no visible character or is too long.
    """
    question = str(text or "").encode("utf-8", "replace").decode("utf-8").strip()
    if len(question) > MAX_QUESTION_LENGTH:
        raise InvalidQuestion(f"That is {len(question):,} characters. The ball reads {MAX_QUESTION_LENGTH:,} at most.")
    if not any(letter.isprintable() and not letter.isspace() for letter in question):
        raise InvalidQuestion("The ball needs a question. Type one, then ask.")
    return question


class DemoSession:
    """The loaded policies and grader of a demo; `ask` may be called from many threads at once.

    Raises:
        InputError: As `load_policies` and `load_judge`.
    """

    def __init__(self, config: DemoConfig):
        self.reference, self.policies = load_policies(config)
        self.last = self.policies[-1]
        self.labels = self.last.labels
        self.judge = load_judge(self.last.config, config.reward_model_path, self.labels, config.trust_remote_code)
        self.beta = float(self.last.config["kl_coef"])
        self.betas = beta_grid(self.beta)
        self._lock = threading.Lock()  # a fast tokenizer that two threads use at once raises "Already borrowed"

    @property
    def all_policies(self) -> list[Policy]:
        """The reference and every policy, in the order of `Answer.logp_PK`."""
        return [self.reference, *self.policies]

    def ask(self, text: object) -> Answer:
        """The answers of all policies to `text`.

        Raises:
            InvalidQuestion: As `clean_question`.
        """
        question = clean_question(text)
        grader_logp_K, score_K = self.judge.logp_K(question), None
        if grader_logp_K is not None and self.judge.grader is not None:
            grader_logp_K = grader_logp_K[self.labels.columns_in(self.judge.grader.labels)]
            score_K = convert_scores(grader_logp_K[None], self.last.config["score_type"] or "log_prob")[0]
        rows, truncated = [], []
        with self._lock:
            for policy in self.all_policies:
                questions, columns = Questions("question", [question]), self.labels.columns_in(policy.labels)
                table = tokenize(questions, policy.tokenizer, max_input_length(policy.tokenizer))
                rows.append(predict_logits_NK(policy.model, table)[0][columns].double().log_softmax(-1))
                truncated += [policy.name] if table.truncated else []
        return Answer(question, torch.stack(rows), grader_logp_K, score_K, tuple(truncated))

    def top_answer(self, answer: Answer) -> tuple[str, float]:
        """(label, probability) of the last policy's most probable answer."""
        p_K = answer.logp_PK[-1].exp()
        best = int(p_K.argmax())
        return self.labels.names[best], float(p_K[best])


def beta_grid(beta: float) -> list[float]:
    """The values of the slider, from infinity (the reference) down to 0 (the grader's best label), `beta` included."""
    high, low = max(HIGHEST_BETA, 10 * beta), min(LOWEST_BETA, beta / 10 if beta > 0 else LOWEST_BETA)
    steps = round(math.log10(high / low) * BETAS_PER_DECADE)
    found = {float(f"{high * 10 ** (-step / BETAS_PER_DECADE):.2g}") for step in range(steps + 1)}
    return [math.inf, *sorted(found | {beta} - {0.0}, reverse=True), 0.0]


def beta_index(betas: list[float], beta: float) -> int:
    """The index of `beta` in the descending list `betas`."""
    return bisect.bisect_left(betas, -beta, key=lambda value: -value)


def policy_point(answer: Answer, logp_K: Tensor) -> PolicyPoint:
    """The policy with log-probabilities `logp_K` [K] (nats, may be -inf) at this question; needs `answer.score_K`."""
    assert answer.score_K is not None
    pi_K, ref_K, score = (row[logp_K > -torch.inf][None] for row in (logp_K, answer.logp_PK[0], answer.score_K))
    kl, expected = objective.kl_exact_N(pi_K, ref_K), objective.expected_score_N(pi_K, score)
    return PolicyPoint(tuple(logp_K.exp().tolist()), max(kl.item(), 0.0), expected.item())


def optimum(answer: Answer, beta: float) -> PolicyPoint:
    """The closed-form optimum at `beta` for this question; at 0 and infinity its limits. Needs `answer.score_K`."""
    assert answer.score_K is not None
    ref_logp_K, score = answer.logp_PK[0], answer.score_K
    if math.isinf(beta):
        return policy_point(answer, ref_logp_K)
    if beta == 0:
        best_K = ref_logp_K.where(score == score.max(), -torch.inf)
        return policy_point(answer, best_K.log_softmax(-1))
    return policy_point(answer, objective.optimum_logp_NK(ref_logp_K[None], score[None], beta)[0])
