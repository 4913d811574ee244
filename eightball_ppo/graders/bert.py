"""Graders that are BERT classifiers: the trained reward model, and the original's untrained head."""

import hashlib
from collections.abc import Sequence

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.data import Questions
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import label_set, load_classifier, load_encoder, text_logits_NK
from eightball_ppo.packaged import checked_minilm_dir
from eightball_ppo.tokenization import reads_at_most

# MiniLM's summary vector is short: an untrained head of BERT's own initialisation (standard deviation 0.02) gives every
# label 0.33 to 0.35, and the original's threshold of 0.4 keeps nothing. At 0.2 the threshold keeps some and drops some.
RANDOM_HEAD_STD = 0.2
RANDOM_HEAD_SEED = 1


def weights_fingerprint(model: PreTrainedModel) -> str:
    """First 16 hex digits of the sha256 over all weights, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class BertGrader:
    """A sequence classifier whose softmax is the probability that an answer is the wanted one."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, deliberate: bool):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.labels = label_set(model)
        self.deliberate = deliberate
        reads = f"{reads_at_most(tokenizer)} tokens"
        self.fingerprint = ":".join([kind, weights_fingerprint(model), reads, *self.labels.names])
        self.model.to(PartialState().device)

    @classmethod
    def from_directory(cls, reward_model_path: str) -> "BertGrader":
        """A reward model, e.g. the directory that `scripts/reward.py` wrote, or a Hub id.

        Raises:
            InputError: no loadable checkpoint there.
        """
        model, tokenizer = load_classifier(reward_model_path, "--reward_model_path")
        return cls(model, tokenizer, "bert", deliberate=False)

    @classmethod
    def random_head(cls, labels: LabelSet, seed: int) -> "BertGrader":
        """MiniLM under a classification head that was never trained: its preferences are noise, drawn from `seed`."""
        path = str(checked_minilm_dir())
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = load_encoder(path, labels, initializer_range=RANDOM_HEAD_STD)
        return cls(model, AutoTokenizer.from_pretrained(path), f"random-head:{seed}", deliberate=True)

    def score(self, questions: Sequence[str]) -> Tensor:
        """See `Grader.score`."""
        logits_BK = text_logits_NK(self.model, self.tokenizer, Questions("grader", list(questions)))
        return torch.log_softmax(logits_BK, dim=-1)
