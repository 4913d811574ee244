"""The Magic 8-Ball itself: one question in; every policy's answer, the grader's view and the optimum's numbers out."""

import bisect
import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.data import Questions
from eightball_ppo.demo.judge import Judge, load_judge, score_K
from eightball_ppo.demo.loading import Policy, load_policies
from eightball_ppo.functional import objective
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import max_input_length, tokenize

MAX_QUESTION_LENGTH = 2000  # characters
HIGHEST_BETA, LOWEST_BETA, BETAS_PER_DECADE = (
    100.0,
    0.001,
    10,
)  # the prices on the slider, between the reference and the favourite


class InvalidQuestion(ValueError):  # noqa: N818  nothing went wrong
    """What was typed is no question that can be answered; the text is for the asker."""


@dataclass(frozen=True)
class Answer:
    """What everybody says to one question. `logp_PK` (float64): the log-probabilities of the labels of every policy,
    the reference first. `grader_logp_K` and `score_K` (float64) are None where no grader is asked. `cut` names the
    policies that read only the question's beginning."""

    question: str
    logp_PK: Tensor
    grader_logp_K: Tensor | None
    score_K: Tensor | None
    cut: tuple[str, ...]


@dataclass(frozen=True)
class PolicyPoint:
    """A policy at one question: the probabilities of its answers [K], its KL to the reference in nats, its score."""

    probability_K: tuple[float, ...]
    kl: float
    expected_score: float


def checked_question(text: object) -> str:
    """`text` as it is asked: stripped, and without halves of surrogate pairs.

    Raises:
        InvalidQuestion: nothing that can be seen, or more than can be read.
    """
    question = str(text or "").encode("utf-8", "replace").decode("utf-8").strip()
    if len(question) > MAX_QUESTION_LENGTH:
        raise InvalidQuestion(f"That is {len(question):,} characters. The ball reads {MAX_QUESTION_LENGTH:,} at most.")
    if not any(letter.isprintable() and not letter.isspace() for letter in question):
        raise InvalidQuestion("The ball needs a question. Type one, then ask.")
    return question


class DemoSession:
    """The policies of a demo, loaded and ready; `ask` may be called from many threads at once.

    Raises:
        InputError: as `load_policies` and `load_judge`.
    """

    def __init__(self, config: DemoConfig):
        self.reference, self.policies = load_policies(config)
        self.last = self.policies[-1]
        self.labels: LabelSet = self.last.labels
        self.judge: Judge = load_judge(
            self.last.config, config.reward_model_path, self.labels, config.trust_remote_code
        )
        self.beta = float(self.last.config["kl_coef"])
        self.prices = beta_grid(self.beta)
        self._lock = threading.Lock()  # a fast tokenizer that two threads use at once raises "Already borrowed"

    @property
    def everybody(self) -> list[Policy]:
        """The reference and every policy, in the order of `Answer.logp_PK`."""
        return [self.reference, *self.policies]

    def ask(self, text: object) -> Answer:
        """Everybody's answer to `text`.

        Raises:
            InvalidQuestion: as `checked_question`.
        """
        question = checked_question(text)
        grader_logp_K = self.judge.logp_K(question)
        score = None if grader_logp_K is None else score_K(grader_logp_K, self.last.config["score_type"])
        rows, cut = [], []
        with self._lock:
            for policy in self.everybody:
                logp_K, was_cut = _logp_K(policy, question)
                rows.append(logp_K)
                cut += [policy.name] if was_cut else []
        return Answer(question, torch.stack(rows), grader_logp_K, score, tuple(cut))

    def said(self, answer: Answer) -> tuple[str, float]:
        """(label, probability) of the last policy's most probable answer."""
        p_K = answer.logp_PK[-1].exp()
        best = int(p_K.argmax())
        return self.labels.names[best], float(p_K[best])


def _logp_K(policy: Policy, question: str) -> tuple[Tensor, bool]:
    """The policy's log-probabilities [K] (float64), and whether it read only the question's beginning."""
    table = tokenize(Questions("question", [question]), policy.tokenizer, max_input_length(policy.tokenizer))
    return predict_logits_NK(policy.model, table)[0].double().log_softmax(-1), table.truncated > 0


def beta_grid(beta: float) -> list[float]:
    """The prices on the slider, from infinity (the reference) down to 0 (the grader's favourite); `beta` is one."""
    high, low = max(HIGHEST_BETA, 10 * beta), min(LOWEST_BETA, beta / 10 if beta > 0 else LOWEST_BETA)
    steps = round(math.log10(high / low) * BETAS_PER_DECADE)
    found = {float(f"{high * 10 ** (-step / BETAS_PER_DECADE):.2g}") for step in range(steps + 1)}
    return [math.inf, *sorted(found | {beta} - {0.0}, reverse=True), 0.0]


def position(prices_: list[float], beta: float) -> int:
    """Where `beta` stands among falling `prices_`."""
    return bisect.bisect_left(prices_, -beta, key=lambda price: -price)


def policy_point(answer: Answer, logp_K: Tensor) -> PolicyPoint:
    """Where the policy `logp_K` stands at this question. Labels may have probability 0; the scores must be there."""
    assert answer.score_K is not None
    own_K, ref_K, score = (row[logp_K > -torch.inf][None] for row in (logp_K, answer.logp_PK[0], answer.score_K))
    kl, expected = objective.kl_exact_N(own_K, ref_K), objective.expected_score_N(own_K, score)
    return PolicyPoint(tuple(logp_K.exp().tolist()), max(kl.item(), 0.0), expected.item())


def optimum(answer: Answer, price: float) -> PolicyPoint:
    """The best policy at `price` for this question, in closed form; at 0 and infinity the limits of that form."""
    assert answer.score_K is not None
    ref_logp_K, score = answer.logp_PK[0], answer.score_K
    if math.isinf(price):
        return policy_point(answer, ref_logp_K)
    if price == 0:
        best_K = ref_logp_K.where(score == score.max(), -torch.inf)
        return policy_point(answer, best_K.log_softmax(-1))
    return policy_point(answer, objective.optimum_logp_NK(ref_logp_K[None], score[None], price)[0])
