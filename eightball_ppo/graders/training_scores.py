"""What stands between the grades and training, composed in one place: label noise, the score type, the budget.

Noise of whole questions is a source of grades (`storage.derived.LabelNoiseSource`); the other kinds are made here.
"""

from collections.abc import Sequence

from torch import Tensor

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.graders.per_call_scores import NoisyAnswers, PerCallScores
from eightball_ppo.graders.raters import RaterAnswers
from eightball_ppo.graders.registry import panels_of
from eightball_ppo.labels import LabelSet


def training_scores(
    config: MethodConfig,
    logp_NK: Tensor,
    unit: float,
    sums_to_one: bool,
    texts: Sequence[str],
    labels: LabelSet,
    fingerprint: str,
) -> tuple[BudgetedScores, Tensor]:
    """The scores that a method learns from, and the log-probabilities that they are made of, both with label noise.

    Args:
        config: The options of the method.
        logp_NK: The grader's log-probabilities of the training questions, shape [N, K], in nats, or its raw scores;
            with noise of the kind "row", the noisy ones.
        unit: What the scores are divided by.
        sums_to_one: Whether `logp_NK` are of probabilities that sum to one, no ratings.
        texts: The N questions.
        labels: The K labels.
        fingerprint: The grader's.

    Returns:
        The scores, behind the budget; and log-probabilities [N, K] whose rows sum to one, or raw scores.
    """
    score_type = config.score_type or "log_prob"
    score_NK = convert_scores(logp_NK, score_type) / unit
    budget, seed, noise = config.grader_call_budget, config.seed, config.noise
    panels = [panel for panel in panels_of(config.grader) if panel.per_call] if config.differs_by_call else []
    if panels:
        raters = RaterAnswers(texts, config.dataset_name, panels[0], labels, score_type)
        return PerCallScores(raters, len(score_NK), score_NK.shape[1], budget, seed, score_type), logp_NK
    if not noise.rate or noise.kind == "row":
        return BudgetedScores(score_NK, budget, seed, score_type, sums_to_one), logp_NK
    size = len(score_NK), score_NK.shape[1]
    answers = NoisyAnswers(score_NK, noise.rate, seed, texts, labels, fingerprint)
    if noise.kind == "call":
        return PerCallScores(answers, *size, budget, seed, score_type), logp_NK
    shown_NK = answers.shown_label_NK()
    noisy_NK = logp_NK.gather(1, shown_NK)
    noisy_NK = noisy_NK if score_type == "raw" else noisy_NK.log_softmax(-1)
    return BudgetedScores(score_NK.gather(1, shown_NK), budget, seed, score_type), noisy_NK
