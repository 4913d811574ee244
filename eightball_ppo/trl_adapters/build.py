"""The four models that TRL's PPO trains and asks, made of one classifier and a table of scores."""

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters.policy import PolicyAdapter, ReferenceAdapter, RewardAdapter, Scores, freeze_unused
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary
from eightball_ppo.trl_adapters.speedups import SideBySide
from eightball_ppo.trl_adapters.value import ExactValueBaseline, SharedTrunk, ValueAdapter, ValueTrunk


@dataclass(frozen=True)
class TRLModels:
    """What `PPOTrainer` is built from."""

    ids: PromptVocabulary
    policy: PolicyAdapter
    reference: ReferenceAdapter
    value: ValueAdapter
    reward: RewardAdapter


def build_policies(
    classifier: PreTrainedModel, tokens: TokenTable, config: PPOConfig
) -> tuple[PolicyAdapter, ReferenceAdapter]:
    """Policy and reference, both starting from `classifier`.

    Without LoRA, `classifier` becomes neither of them: it is copied, and stays as it is. With it, adapters go into
    `classifier` itself, which is then both: the policy with them, the reference without.
    """
    ids = PromptVocabulary(classifier.config.num_labels)
    reader = PromptEncoder(tokens, ids)
    if config.use_peft:
        trained = frozen = with_lora(classifier.requires_grad_(False), config)
        policy = PolicyAdapter(trained, reader)
    else:
        trained, frozen = copy.deepcopy(classifier).requires_grad_(True), copy.deepcopy(classifier)
        policy = PolicyAdapter(trained, reader)
        freeze_unused(trained, policy(ids.question_ids(torch.zeros(1, 1, dtype=torch.long))).logits)
        frozen.requires_grad_(False)
    return policy, ReferenceAdapter(frozen, reader)


def build_models(
    policy: PolicyAdapter,
    reference: ReferenceAdapter,
    train_scores: BudgetedScores,
    scores: Scores,
    config: PPOConfig,
) -> TRLModels:
    """The value model beside a policy and a reference that have not been trained yet, and the reward model.

    The value model starts from a copy of the reference; under LoRA it has no trunk of its own but reads the policy's
    model without its adapters, so that the weights are in memory once.

    Args:
        policy, reference: of `build_policies`.
        train_scores: all scores; the exact baseline buys every label of every question.
        scores: gives the reward model the score of each sampled answer: `train_scores`, or wrappers around them
            (`training/scores.py`).
        config: the options of the run.
    """
    reader = policy.by_row.reader
    trunk: ValueTrunk | SharedTrunk | ExactValueBaseline
    if config.baseline == "exact":
        train_scores.buy_full_rows()
        trunk = ExactValueBaseline(policy, reference, train_scores.score_NK, config.kl_coef)
    elif config.use_peft:
        trunk = SharedTrunk(policy.by_row)
    else:
        trunk = ValueTrunk(copy.deepcopy(reference.by_row.classifier).requires_grad_(True), reader)
        if SideBySide.fits(policy, trunk.by_row):
            pair = SideBySide(policy.by_row, trunk.by_row)
            trunk.beside, policy.at_hand = pair.summary_BH, pair.logits_BK
    return TRLModels(reader.ids, policy, reference, ValueAdapter(trunk), RewardAdapter(scores, reader.ids))
