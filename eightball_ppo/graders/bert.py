"""Graders that are BERT classifiers: the trained reward model, and the original's untrained head."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.data import Questions
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, Scale, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.loading import label_set, load_classifier, load_encoder, text_logits_NK
from eightball_ppo.models.packaged import checked_minilm_dir
from eightball_ppo.models.tokenization import max_input_length

# MiniLM's summary vector is short: an untrained head of BERT's own initialisation (standard deviation 0.02) gives every
# label 0.33 to 0.35, and the original's threshold of 0.4 keeps nothing. At 0.2 the threshold keeps some and drops some.
RANDOM_HEAD_STD = 0.2
RANDOM_HEAD_SEED = 1

GRADE_BATCH = 1024  # sorted by length within, so that little is spent on padding
FORWARD_BATCH = 16  # of these in one forward pass: more pad more, and are not faster


class BertGrader:
    """A sequence classifier whose softmax is the probability that an answer is the wanted one."""

    scale: Scale = "log_prob"
    free = True  # and made GRADE_BATCH at once anyway

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, deliberate: bool):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.labels = label_set(model)
        self.deliberate = deliberate
        reads = f"{max_input_length(tokenizer)} tokens"
        weights = weights_fingerprint(model)
        labels = list(self.labels.names)
        self.settings: dict[str, Any] = {"grader": kind, "weights": weights, "reads": reads, "labels": labels}
        self.fingerprint = settings_fingerprint(self.settings)
        self.model.to(PartialState().device)
        self._batch = AutoBatchSize(FORWARD_BATCH)

    @classmethod
    def from_directory(cls, reward_model_path: str, trust_remote_code: bool = False) -> "BertGrader":
        """A reward model, e.g. the directory that `scripts/reward.py` wrote, or a Hub id.

        Raises:
            InputError: no loadable checkpoint there.
        """
        model, tokenizer = load_classifier(
            reward_model_path, "--reward_model_path", trust_remote_code=trust_remote_code
        )
        return cls(model, tokenizer, "bert", deliberate=False)

    @classmethod
    def random_head(cls, labels: LabelSet, seed: int) -> "BertGrader":
        """MiniLM under a classification head that was never trained: its preferences are noise, drawn from `seed`."""
        path = str(checked_minilm_dir())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = load_encoder(path, labels, initializer_range=RANDOM_HEAD_STD)
        return cls(
            model, AutoTokenizer.from_pretrained(path, trust_remote_code=False), f"random-head:{seed}", deliberate=True
        )

    def logp_BK(self, questions: Sequence[str]) -> Tensor:
        """Log-probabilities [B, K] (float32, CPU) of the labels."""
        asked = Questions("grader", list(questions))
        logits_BK = self._batch.fitting(lambda size: text_logits_NK(self.model, self.tokenizer, asked, size))
        return torch.log_softmax(logits_BK, dim=-1)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`."""
        for batch in batched(budget.allowed(requests), GRADE_BATCH):
            for request, logp_K in zip(
                batch, self.logp_BK([request.question for request in batch]).tolist(), strict=True
            ):
                on_grade(Grade.of(request, logp_K))

    def tokens(self, request: GradeRequest) -> int:
        """See `Grader.tokens`."""
        return 0
