"""The four models that TRL's PPO trains and reads, made of one classifier and a table of scores."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters.policy import PolicyAdapter, ReferenceAdapter, RewardAdapter, Scores, freeze_unused
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary
from eightball_ppo.trl_adapters.speedups import FusedForward
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

    Without LoRA they are copies of `classifier`. With it, adapters are put on `classifier` itself, which is then both:
    the policy with them, the reference without.

    Args:
        classifier: The classifier to start from.
        tokens: Tokens of the training questions.
        config: The options of the run.
    """
    ids = PromptVocabulary(classifier.config.num_labels)
    encoder = PromptEncoder(tokens, ids)
    if config.use_peft:
        trained = frozen = with_lora(classifier.requires_grad_(False), config)
        policy = PolicyAdapter(trained, encoder)
    else:
        trained, frozen = copy.deepcopy(classifier).requires_grad_(True), copy.deepcopy(classifier)
        policy = PolicyAdapter(trained, encoder)
        freeze_unused(trained, policy(ids.question_ids(torch.zeros(1, 1, dtype=torch.long))).logits)
        frozen.requires_grad_(False)
    return policy, ReferenceAdapter(frozen, encoder)


def build_models(
    policy: PolicyAdapter, reference: ReferenceAdapter, train_scores: BudgetedScores, scores: Scores, config: PPOConfig
) -> TRLModels:
    """Adds the value model and the reward model to a policy and a reference that have not been trained yet.

    The value model of the small classifier starts from a copy of the reference. That of a pretrained encoder is a
    linear head on the reference's summaries of the questions, which are computed once: a second encoder that trains
    would double the time of an update. Under LoRA the reference is the policy's model without the adapters.

    Args:
        policy: The policy of `build_policies`.
        reference: The reference of `build_policies`.
        train_scores: All scores; the exact baseline buys every label of every question.
        scores: Gives the reward model the score of each sampled answer: `train_scores`, or a `RolloutRecorder` of them.
        config: The options of the run.
    """
    encoder = policy.backbone.encoder
    trunk: ValueTrunk | SharedTrunk | ExactValueBaseline
    if config.baseline == "exact":
        train_scores.buy_full_rows()
        trunk = ExactValueBaseline(policy, reference, train_scores.score_NK, config.beta)
    elif config.use_peft:
        trunk = SharedTrunk(policy.backbone)
    elif _is_pretrained_encoder(reference.backbone.classifier):
        trunk = SharedTrunk(reference.backbone)
    else:
        trunk = ValueTrunk(copy.deepcopy(reference.backbone.classifier).requires_grad_(True), encoder)
        if type(policy.backbone.classifier) is type(trunk.backbone.classifier) is EightBallForSequenceClassification:
            fused = FusedForward(policy.backbone, trunk.backbone)
            trunk.fused_forward, policy.cached_logits = fused.summary_BH, fused.logits_BK
    return TRLModels(encoder.ids, policy, reference, ValueAdapter(trunk), RewardAdapter(scores, encoder.ids))


def _is_pretrained_encoder(classifier: nn.Module) -> bool:
    return isinstance(classifier, PreTrainedModel) and not isinstance(classifier, EightBallForSequenceClassification)
