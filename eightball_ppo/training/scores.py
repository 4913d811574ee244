"""What stands between the scores and a trainer that samples answers, composed in one place.

A grade becomes a reward on this path: grader -> `GradeStore` -> `ScoreTable` (with label noise, a source like any
other) -> `BudgetedScores` -> the wrappers of `compose_scores` -> the trainer's reward model or reward function.
"""

from collections.abc import Callable, Sequence

from eightball_ppo.config.graded import RolloutConfig
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.completions import CompletionLogger
from eightball_ppo.training.guards import LastBatchRecorder
from eightball_ppo.trl_adapters.policy import PolicyAdapter, Scores


def compose_scores(
    config: RolloutConfig,
    train_scores: BudgetedScores,
    policy: PolicyAdapter,
    reference: PolicyAdapter,
    temperature_and_beta: Callable[[], tuple[float, float]],
    questions: Sequence[str],
    labels: Sequence[str],
    updates: int,
    run: Run,
) -> LastBatchRecorder:
    """Wraps `train_scores` with a completion logger, if `log_completions` is set, and with a last-batch recorder.

    Args:
        train_scores: innermost; budgets and counts what is observed as if nothing was wrapped around it.
        policy, reference: read for log-probabilities, never changed.
        temperature_and_beta: as the argument of `CompletionLogger`.
        questions, labels: texts of the rows and names of the columns of `train_scores`.
        updates: how many there will be.
        run: gets the completions, and the last batch if something is not finite.

    Returns:
        The outermost wrapper, which a trainer asks for the scores of its sampled answers and whose `fault` makes the
        error where something is not finite. Its `state_dict()` is what a checkpoint must hold of budget and wrappers.
    """
    scores: Scores = train_scores
    if config.log_completions:
        scores = CompletionLogger(
            config, scores, policy, reference, temperature_and_beta, questions, labels, updates, run.path
        )
    return LastBatchRecorder(scores, policy.by_row, questions, labels, run)
