"""Graders that are sequence classifiers: the trained reward model, and the original experiment's untrained head."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.data import Questions
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, Scale, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.loading import label_set, load_classifier, load_encoder, text_logits_NK
from eightball_ppo.models.packaged import checked_minilm_dir
from eightball_ppo.models.tokenization import max_input_length

# MiniLM's summary vector is short: an untrained head with BERT's initialization (standard deviation 0.02) gives every
# label 0.33 to 0.35, below the original's threshold of 0.4. At 0.2 some questions pass the threshold and some do not.
RANDOM_HEAD_STD = 0.2
RANDOM_HEAD_SEED = 1

GRADE_BATCH = 1024  # questions that are sorted by length, which saves padding
FORWARD_BATCH = 16  # of these in one forward pass: more pad more, and are not faster


class BertGrader(Grader):
    """A sequence classifier whose softmax is the probability of each answer.

    Args:
        model: The classifier; moved to the device of this process.
        tokenizer: Its tokenizer.
        kind: The grader's name in its settings.
        deliberate: As `Grader.deliberate`.
    """

    scale: Scale = "log_prob"
    free = True

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
        self._batch_size = AutoBatchSize(FORWARD_BATCH)

    @classmethod
    def from_directory(cls, reward_model_path: str, trust_remote_code: bool = False) -> "BertGrader":
        """Loads a reward model from a directory or the Hub.

        Raises:
            InputError: No loadable checkpoint there.
        """
        loaded = load_classifier(reward_model_path, "--reward_model_path", trust_remote_code=trust_remote_code)
        return cls(*loaded, "bert", deliberate=False)

    @classmethod
    def random_head(cls, labels: LabelSet, seed: int) -> "BertGrader":
        """MiniLM with an untrained classification head, initialized from `seed`."""
        path = str(checked_minilm_dir())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = load_encoder(path, labels, initializer_range=RANDOM_HEAD_STD)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        return cls(model, tokenizer, f"random-head:{seed}", deliberate=True)

    def logp_BK(self, texts: Sequence[str]) -> Tensor:
        """Log-probabilities of the labels in nats, shape [B, K], float32 on the CPU."""
        questions = Questions("grader", list(texts))
        logits_BK = self._batch_size.run(lambda size: text_logits_NK(self.model, self.tokenizer, questions, size))
        return torch.log_softmax(logits_BK, dim=-1)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`."""
        for batch in batched(budget.allowed(requests), GRADE_BATCH):
            logp_BK = self.logp_BK([request.question for request in batch]).tolist()
            for request, logp_K in zip(batch, logp_BK, strict=True):
                on_grade(Grade.from_scores(request, logp_K))
