"""Tiny problems for TRL's loop: classifiers of a few parameters, random questions, a fixed table of scores."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import ppo
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters import batch_sizes
from eightball_ppo.trl_adapters.build import TRLModels, build_models, build_policies

VOCABULARY = 40


def classifier(num_labels: int = 3, seed: int = 0) -> EightBallForSequenceClassification:
    """The real small classifier with a vocabulary of 40, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = EightBallConfig(vocab_size=VOCABULARY, embedding_size=8, hidden_size=8, num_labels=num_labels)
        return EightBallForSequenceClassification(config).eval()


class Tabular(nn.Module):
    """Free logits and a free hidden state for every question; a question's first token is its row."""

    def __init__(self, logits_NK: Tensor):
        super().__init__()
        self.config = EightBallConfig(num_labels=logits_NK.shape[1])
        self.table = nn.Embedding.from_pretrained(logits_NK.clone(), freeze=False)
        self.hidden = nn.Embedding.from_pretrained(torch.ones(len(logits_NK), 4, dtype=logits_NK.dtype), freeze=False)

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, return_dict: bool = True, **_: Any) -> Any:
        row_B = input_ids[:, 0]
        hidden = (self.hidden(row_B).unsqueeze(1),) if output_hidden_states else None
        output = SequenceClassifierOutput(logits=self.table(row_B), hidden_states=hidden)
        return output if return_dict else output.to_tuple()


def tokens(num_questions: int, length: int = 6, seed: int = 0) -> TokenTable:
    """Random questions of 2..length tokens, right padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    ids_NT = torch.randint(1, VOCABULARY, (num_questions, length), generator=generator)
    length_N = torch.randint(2, length + 1, (num_questions,), generator=generator)
    return TokenTable.of([ids[:n] for ids, n in zip(ids_NT.tolist(), length_N.tolist(), strict=True)])


def row_tokens(num_questions: int) -> TokenTable:
    """Questions of one token, their row: for `Tabular`."""
    return TokenTable.of([[row] for row in range(num_questions)])


def scores(num_questions: int, num_labels: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(num_questions, num_labels, generator=torch.Generator().manual_seed(seed))


def config(**overrides: Any) -> PPOConfig:
    """PPO on one batch of everything, one minibatch; overridden as needed."""
    settings: dict[str, Any] = {"repeats_per_epoch": 1, "num_mini_batches": 1, "kl_coef": 0.5, "cliprange": 0.2}
    settings |= {"total_episodes": 48_000, "num_ppo_epochs": 4, "weight_decay": 0.0}
    settings |= {"learning_rate": 0.01, "value_learning_rate": 0.01, "adam_beta2": 0.999, "disable_tqdm": True}
    return PPOConfig(**{**settings, **overrides})


def trl_models(model: Any, table: TokenTable, score_NK: Tensor, settings: PPOConfig) -> TRLModels:
    """The adapters of a training on a fixed table of scores, with no wrapper in front of it."""
    scores = BudgetedScores(score_NK)
    policy, reference = build_policies(model, table, settings)
    return build_models(policy, reference, scores, scores, settings)


def trainer(
    settings: PPOConfig, model: Any, table: TokenTable, score_NK: Tensor, output_dir: Path, callbacks: Any = ()
) -> tuple[Any, TRLModels]:
    """(TRL's trainer, the adapters it trains) as `methods.run_method` builds them; with the dtype of the scores."""
    models = trl_models(model, table, score_NK, settings)
    for adapter in (models.policy, models.reference, models.value, models.reward):
        adapter.to(score_NK.dtype)
    batch = batch_sizes.batch_size(settings, len(table), world_size=1)
    return ppo.build_trainer(settings, models, batch, output_dir, list(callbacks)), models


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy({name: value.detach() for name, value in module.state_dict().items()})


class Logs(TrainerCallback):
    """Keeps TRL's metrics of every update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.rows.append(dict(logs))
