"""A grader that always prefers one label: the "say yes more often" of the original, and a wire to test methods with."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

CONFIDENCE = 0.98  # probability on the preferred label; the others share the rest, so that every log is finite


class RuleGrader:
    """`rule:LABEL`: gives `LABEL` probability 0.98 whatever the question.

    Raises:
        InputError: `label` is not in `labels`.
    """

    deliberate = True

    def __init__(self, label: str, labels: LabelSet):
        if label not in labels.names:
            raise InputError(f"--grader rule:{label}: unknown label; known: {list(labels.names)}")
        self.labels = labels
        self.fingerprint = ":".join(["rule", label, str(CONFIDENCE), *labels.names])
        others = (1 - CONFIDENCE) / (len(labels) - 1)
        probability_K = torch.full((len(labels),), others)
        probability_K[labels.id_of(label)] = CONFIDENCE
        self._logp_K = probability_K.log()

    def score(self, questions: Sequence[str]) -> Tensor:
        return self._logp_K.expand(len(questions), -1)
