"""The synthetic task of the benchmarks: built from a seed without any model, with a closed-form optimum.

Letters: N questions, T tokens of the longest, K labels, V words, B episodes of a batch.
A question is 4 to 12 words; the score of an answer is a sum over its words and its pairs of neighbouring words, so that
a network can generalise one part (the words) and must memorise the other (the pairs).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from eightball_ppo.functional import objective
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification

QUESTIONS, MIN_WORDS, LONGEST = 200, 4, 12
LABELS = ("Yes", "No", "Maybe")
PAD = 0
FIRST_WORD = 5  # 1..K are the labels as tokens and K+1 is an end of sequence, for peers that need a language model
WORDS = 300
PAIRS = 4096  # number of hash buckets of word pairs
PAIR_WEIGHT = 0.5


@dataclass(frozen=True)
class Settings:
    """The settings of a run, the same for all peers."""

    batch: int
    beta: float
    total_episodes: int
    seed: int = 0
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 0.012
    value_learning_rate: float = 0.012
    cliprange: float = 0.2
    adam_beta2: float = 0.999
    vf_coef: float = 0.1

    @property
    def updates(self) -> int:
        return -(-self.total_episodes // self.batch)


OnUpdate = Callable[[int, Callable[[], Tensor]], None]
"""Called after every update with the episodes so far and a function that computes the policy's logits [N, K]."""


class Grader(nn.Module):
    """Scores [B, K] of token ids [B, T], padded on any side; frozen. The mean over a question's answers is 0."""

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        word_VK = torch.randn(FIRST_WORD + WORDS, len(LABELS), generator=generator)
        word_VK[:FIRST_WORD] = 0
        pair_PK = torch.randn(PAIRS, len(LABELS), generator=generator) * PAIR_WEIGHT
        pair_PK[0] = 0
        self.word = nn.Embedding.from_pretrained(word_VK)
        self.pair = nn.Embedding.from_pretrained(pair_PK)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, ids_BT: Tensor) -> Tensor:
        ids_BT = ids_BT * (ids_BT >= FIRST_WORD)
        left_BT, right_BT = ids_BT[:, :-1], ids_BT[:, 1:]
        both_BT = (left_BT > 0) & (right_BT > 0)
        pair_BT = (1 + (left_BT * 7919 + right_BT * 104729) % (PAIRS - 1)) * both_BT
        length_B1 = (ids_BT > 0).sum(1, keepdim=True)
        sum_BK = self.word(ids_BT).sum(1) + self.pair(pair_BT).sum(1)
        sum_BK = sum_BK / length_B1.sqrt()
        return (sum_BK - sum_BK.mean(-1, keepdim=True)) * self.scale


class BenchTask:
    """Questions, scores [N, K], and the start networks of every peer: policy, reference and value trunk are equal.

    `ids_NT` (int64) are padded on the right. The value head of every peer starts at 0.
    """

    def __init__(self, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.seed = seed
        self.length_N = torch.randint(MIN_WORDS, LONGEST + 1, (QUESTIONS,), generator=generator)
        words_NT = torch.randint(FIRST_WORD, FIRST_WORD + WORDS, (QUESTIONS, LONGEST), generator=generator)
        self.ids_NT = words_NT * (torch.arange(LONGEST) < self.length_N[:, None])
        self.grader = Grader(seed).eval()
        self.grader.scale = 1 / self.grader(self.ids_NT).std()
        self.score_NK = self.grader(self.ids_NT)
        with torch.no_grad():
            self.ref_logits_NK = self.classifier()(self.ids_NT).logits

    def __len__(self) -> int:
        return QUESTIONS

    def classifier(self) -> EightBallForSequenceClassification:
        """A new small classifier of the original sizes (16 wide, 2 heads, 32 hidden) with the start weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            config = EightBallConfig(
                vocab_size=FIRST_WORD + WORDS,
                id2label=dict(enumerate(LABELS)),
                label2id={name: i for i, name in enumerate(LABELS)},
            )
            return EightBallForSequenceClassification(config).eval()

    def optimum_fraction(self, logits_NK: Tensor, beta: float) -> float:
        """The share of the optimum of a policy with these logits: 0 is the reference, 1 the optimum."""
        logp_NK, ref_logp_NK = (rows.double().log_softmax(-1) for rows in (logits_NK, self.ref_logits_NK))
        fraction = objective.optimum_fraction(logp_NK, ref_logp_NK, self.score_NK.double(), beta)
        assert fraction is not None
        return fraction

    def batches(self, settings: Settings) -> Iterator[Tensor]:
        """Question rows [B] of every update: consecutive permutations of all questions."""
        stream_S = torch.empty(0, dtype=torch.long)
        for _ in range(settings.updates):
            missing = settings.batch - len(stream_S)
            fresh = [torch.randperm(len(self)) for _ in range(-(-missing // len(self)))]
            rows_B, stream_S = torch.cat([stream_S, *fresh]).split(
                [settings.batch, len(stream_S) + len(self) * len(fresh) - settings.batch]
            )
            yield rows_B


class Peer(Protocol):
    """A loop that trains the task's start networks."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None): ...

    def run(self) -> None:
        """Train all episodes."""
        ...
