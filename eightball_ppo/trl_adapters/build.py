"""The four models that TRL's PPO trains and asks, made of one classifier and a grade table."""

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.graders.budgeted_scores import TrainingGrades
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters.policy import PolicyAdapter, ReferenceAdapter, RewardAdapter, freeze_unused
from eightball_ppo.trl_adapters.prompt_ids import QuestionReader, SequenceIds
from eightball_ppo.trl_adapters.speedups import SideBySide
from eightball_ppo.trl_adapters.value import ExactBaseline, SharedTrunk, ValueAdapter, ValueTrunk


@dataclass(frozen=True)
class TRLModels:
    """What `PPOTrainer` is built from."""

    ids: SequenceIds
    policy: PolicyAdapter
    reference: ReferenceAdapter
    value: ValueAdapter
    reward: RewardAdapter


def build_models(
    classifier: PreTrainedModel, tokens: TokenTable, lessons: TrainingGrades, config: PPOConfig
) -> TRLModels:
    """Policy, reference and value model, all starting from `classifier`, and the reward model over `lessons`.

    Without LoRA, `classifier` becomes none of them: it is copied, and stays as it is. With it, adapters go into
    `classifier` itself, which is then all three: the policy with them, the reference and the trunk of the value model
    without, so that the weights are in memory once. The exact baseline pays for every label of every question.
    """
    ids = SequenceIds(classifier.config.num_labels)
    reader = QuestionReader(tokens, ids)
    reward = RewardAdapter(lessons, ids)
    if config.use_peft:
        trained = frozen = with_lora(classifier.requires_grad_(False), config)
        policy = PolicyAdapter(trained, reader)
    else:
        trained, frozen = copy.deepcopy(classifier).requires_grad_(True), copy.deepcopy(classifier)
        policy = PolicyAdapter(trained, reader)
        freeze_unused(trained, policy(ids.question_ids(torch.zeros(1, 1, dtype=torch.long))).logits)
        frozen.requires_grad_(False)
    reference = ReferenceAdapter(frozen, reader)
    trunk: ValueTrunk | SharedTrunk | ExactBaseline
    if config.baseline == "exact":
        lessons.whole_rows()
        trunk = ExactBaseline(policy, reference, lessons.score_NK, config.kl_coef)
    elif config.use_peft:
        trunk = SharedTrunk(policy.by_row)
    else:
        trunk = ValueTrunk(copy.deepcopy(classifier).requires_grad_(True), reader)
        if SideBySide.fits(policy, trunk.by_row):
            pair = SideBySide(policy.by_row, trunk.by_row)
            trunk.beside, policy.at_hand = pair.summary_BH, pair.logits_BK
    return TRLModels(ids, policy, reference, ValueAdapter(trunk), reward)
