"""PPO on a text classifier, the complete algorithm in one file: read it from top to bottom.

    python examples/ppo_loop.py                          # from the repository's root; 1 to 2 minutes on one core
    python examples/ppo_loop.py --grader rule:Maybe --kl_coef 0.5 --seed 1

It runs `scripts/ppo.py`, which uses TRL's loop, then trains with the loop below and the same grader, options and seed.
It prints both shares of the optimum: close, not equal, because the same seed samples other answers. With TRL's rows,
actions and permutations the weights equal TRL's (tests/test_trl_parity.py).

An episode is one question, answered once by one of K labels. This is what differs from PPO in general:
- one action an episode: no discount, no lambda; the return is the reward, and GAE is reward - value;
- the value network reads only the question: if it also read the answer, the advantage would be 0;
- the reward, not the loss, has the penalty for KL(policy || reference), by the k1 estimate; no entropy bonus;
- temperature 1, no dropout: training optimises the softmax of the logits that would be saved;
- the best policy has a closed form, so the result is an exact share of the optimum, not a mean over samples.

Shapes: N questions, B episodes of an update, M of a minibatch, K labels. Log-probabilities and KL in nats.
Scores, rewards and advantages are maximised, losses minimised: the sign flips inside `ppo_losses.ppo_losses`.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import load_both
from eightball_ppo.functional import objective, ppo_losses
from eightball_ppo.graders.job import grade_job
from eightball_ppo.methods.defaults import fitting
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable, max_input_length, tokenize

ANSWERS = 1  # to each question in an update, of 1,200 episodes like those of scripts/ppo.py


class Network(nn.Module):
    """A classifier in eval mode whose input is the rows of questions [B] in a token table: logits [B, K]."""

    def __init__(self, classifier: PreTrainedModel, tokens: TokenTable):
        super().__init__()
        self.classifier, self.tokens = classifier, tokens

    def forward(self, row_B: Tensor) -> Tensor:
        return self.classifier(**self.tokens.rows(row_B, int(self.tokens.length_N[row_B].max()))).logits


def value_network(classifier: PreTrainedModel) -> PreTrainedModel:
    """A copy with a head for one number, initially 0, instead of the K logits."""
    network = copy.deepcopy(classifier)
    network.classifier = nn.Linear(network.classifier.in_features, 1)
    for parameter in network.classifier.parameters():
        nn.init.zeros_(parameter)
    return network


def ppo(
    policy: nn.Module,
    value: nn.Module,
    ref_logits_NK: Tensor,
    score_NK: Tensor,
    config: Any,
    rows: Sequence[Tensor] | None = None,
    actions: Sequence[Tensor] | None = None,
    permutations: Sequence[Tensor] | None = None,
) -> Iterator[dict[str, float]]:
    """Trains `policy` (rows [B] to logits [B, K]) and `value` (to [B, 1]) in place; yields the metrics of every update.

    `config`: a PPOConfig of `fitting`. `rows` and `actions`: [B] an update, `permutations`: [B] an epoch; else sampled.
    """
    if rows is None:
        batch = ANSWERS * len(score_NK)
        rows = [torch.randperm(batch) % len(score_NK) for _ in range(-(-config.total_episodes // batch))]
    rates = (policy, config.learning_rate), (value, config.value_learning_rate)
    groups = [{"params": network.parameters(), "lr": rate} for network, rate in rates]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 - update / len(rows))
    for update, row_B in enumerate(rows):
        with torch.no_grad():
            # 1. Rollout: one label a question. TRL's 1 + 1e-7 is in the ratio's log-probabilities, not in the sampling.
            logits_BK, value_B = policy(row_B), value(row_B).squeeze(-1)
            action_B = torch.multinomial(logits_BK.softmax(-1), 1).squeeze(-1) if actions is None else actions[update]
            logp_B = ppo_losses.action_logp_B(logits_BK, action_B)
            ref_logp_B = ppo_losses.action_logp_B(ref_logits_NK[row_B], action_B)
            # 2. Reward: the score of this label, minus beta times its KL to the reference.
            kl_B = ppo_losses.kl_k1_B(logp_B, ref_logp_B)
            reward_B = ppo_losses.reward_B(score_NK[row_B, action_B], kl_B, config.beta)
            # 3. Advantage: the reward minus the predicted value; over the update, mean 0 and variance 1.
            advantage_B = ppo_losses.whiten_B(ppo_losses.advantage_B(reward_B, value_B))
        steps = []
        for epoch in range(update * config.num_ppo_epochs, (update + 1) * config.num_ppo_epochs):
            order_B = torch.randperm(len(row_B)) if permutations is None else permutations[epoch]
            for at_M in order_B.chunk(config.num_mini_batches):
                # 4. Loss: clipping limits how far the answers of one update move policy and value.
                new_logp_M = ppo_losses.action_logp_B(policy(row_B[at_M]), action_B[at_M])
                new_value_M, clips = value(row_B[at_M]).squeeze(-1), (config.cliprange, config.cliprange_value)
                losses = ppo_losses.ppo_losses(
                    new_logp_M, logp_B[at_M], advantage_B[at_M], new_value_M, value_B[at_M], reward_B[at_M], *clips
                )
                # 5. Update: one optimizer step a minibatch, so num_ppo_epochs x num_mini_batches an update.
                optimizer.zero_grad()
                (losses.policy_loss + config.vf_coef * losses.value_loss).backward()
                optimizer.step()
                steps.append(losses)
        scheduler.step()
        means = {name: torch.stack([getattr(step, name) for step in steps]).mean().item() for name in losses._fields}
        yield {**means, "kl": kl_B.mean().item(), "reward": reward_B.mean().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grader", default="noisy:0.2:rule:Yes", help="default: Yes is best, but for every fifth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kl_coef", type=float, default=0.1)
    parser.add_argument("--total_episodes", type=int, default=48_000)
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as directory:  # first, because it trains runs/sft if that is missing
        script = [sys.executable, f"{Path(__file__).parents[1]}/scripts/ppo.py", f"--output_dir={directory}/run"]
        subprocess.run([*script, *(f"--{k}={v}" for k, v in options.items())], check=True, stdout=subprocess.DEVNULL)
        theirs = json.loads(Path(directory, "run", "results.json").read_text())["splits"]

    config = fitting(PPOConfig(**options), "small", num_texts=1200)
    questions = dict(zip(("train", "heldout"), load_both(config, None, config.label_set()), strict=True))
    classifier, tokenizer = load_classifier(config.sft_model_path, "--sft_model_path")
    scores = grade_job(config, config.label_set(), questions).tables
    tokens = {split: tokenize(texts, tokenizer, max_input_length(tokenizer)) for split, texts in questions.items()}
    ref_logits = {split: predict_logits_NK(classifier, table) for split, table in tokens.items()}
    torch.manual_seed(config.seed)
    policy = Network(copy.deepcopy(classifier), tokens["train"])
    value = Network(value_network(classifier), tokens["train"])
    for update, mean in enumerate(ppo(policy, value, ref_logits["train"], scores["train"].score_NK, config), start=1):
        print(f"update {update}: reward {mean['reward']:.3f}, KL {mean['kl']:.3f} nats")
    for split, table in tokens.items():
        logp_NK = predict_logits_NK(policy.classifier, table).double().log_softmax(-1)
        ref_logp_NK, score_NK = ref_logits[split].double().log_softmax(-1), scores[split].score_NK.double()
        share = objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, config.beta)
        print(f"{split}: share of the optimum {share:.4f}; of scripts/ppo.py {theirs[split]['optimum_fraction']:.4f}")


if __name__ == "__main__":
    main()
