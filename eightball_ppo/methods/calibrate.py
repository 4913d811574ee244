"""`--calibrate`: the temperature of a trained policy, fitted on training texts that it has not seen.

A policy is surer of the texts that it learned from than of others, so a tenth of them is kept back. Their labels are
the grader's: the policy gets as sure as the grader is, right or wrong.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.data import Questions, split_by_question
from eightball_ppo.functional.calibration import fit_temperature
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.precision import fold_temperature
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.runtime.run import Run

KEPT_BACK = 0.1  # of the training texts


class CalibrationTexts(NamedTuple):
    """M texts that are kept back: their tokens, and the grader's log-probabilities (or raw scores), shape [M, K]."""

    tokens: TokenTable
    grader_logp_MK: Tensor


def kept_back_N(questions: Questions, config: MethodConfig) -> NDArray[np.bool_]:
    """Which of N training texts are kept back from training; none without `--calibrate`.

    Raises:
        InputError: No text would be left on one of the sides.
    """
    if not getattr(config, "calibrate", False):
        return np.zeros(len(questions), bool)
    kept = set(split_by_question(questions, KEPT_BACK, config.seed)[1].texts)
    return np.fromiter((text in kept for text in questions.texts), bool, len(questions))


def calibrate(policy: PreTrainedModel, texts: CalibrationTexts, raw: bool, run: Run) -> None:
    """Divides the policy's last layer by the temperature that fits the grader's answers, in place.

    Args:
        policy: The trained policy.
        texts: Those that were kept back.
        raw: Whether the scores are raw, so that only the best label counts.
        run: Gets `temperature` and `calibration_questions`.
    """
    target = texts.grader_logp_MK.argmax(-1) if raw else texts.grader_logp_MK.exp()
    temperature = fit_temperature(predict_logits_NK(policy, texts.tokens), target)
    fold_temperature(policy, temperature, "--calibrate")
    run.results |= {"temperature": temperature, "calibration_questions": len(texts.tokens)}
