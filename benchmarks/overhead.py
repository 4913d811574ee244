"""Overhead of TRL's loop and our adapters over a bare PyTorch loop, with a MiniLM under LoRA as the policy.

OMP_NUM_THREADS=1 python benchmarks/overhead.py

The bare loop is the one of `examples/ppo_loop.py`. Both sides build the same networks from the same seed, sample as
many answers, and run the same forward and backward passes: the reference once, the policy for a rollout, then epochs x
minibatches of the policy and of the value head. No batch repeats a question, so deduplication saves nothing. The bare
loop has no trainer, no adapters, no collator, no logging. Rounds of both alternate in one process; the result is the
ratio of processor time, as median, lowest and highest round. Ours also measures the exact metrics, as often as a run
does: at this size at every third update. The bare loop measures nothing, so the ratio is printed with and without that
time.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import machine
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import Questions, load_split
from eightball_ppo.evaluation import ExactMetrics, GradedSplit
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import load_new_classifier, predict_logits_NK
from eightball_ppo.models.lora import adapters_off, with_lora
from eightball_ppo.models.tokenization import TokenTable, max_input_length, set_max_length, token_table
from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.supervised import MetricsCallback
from eightball_ppo.trl_adapters.batch_sizes import updates_between_metrics
from eightball_ppo.trl_adapters.build import build_models, build_policies

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import ppo_loop

RESULTS = Path(__file__).parent / "results" / "overhead.json"


class Job:
    """The start of both sides: questions, scores, a policy under LoRA."""

    def __init__(self, config: PPOConfig, questions: int):
        self.config = config
        self.labels = LabelSet.of(config.labels or [])
        self.texts = load_split(config, "train").texts[:questions]
        self.score_NK = torch.randn(questions, len(self.labels), generator=torch.Generator().manual_seed(0))
        self.measuring = 0.0  # processor seconds of the exact metrics

    def classifier(self) -> tuple[PreTrainedModel, TokenTable]:
        """The encoder under a new head, the same every time, and the tokens of the questions."""
        set_seed(0)
        model, tokenizer, _ = load_new_classifier("minilm", "--model_name_or_path", self.labels)
        set_max_length(tokenizer, model, None)
        return model.eval(), token_table(self.texts, tokenizer, max_input_length(tokenizer))


@contextmanager
def ours(job: Job, batch: int, output_dir: Path) -> Iterator[Callable[[], None]]:
    """TRL's trainer on our adapters, ready to run; its directory does not exist yet."""
    model, table = job.classifier()
    ref_logp_NK = predict_logits_NK(model, table).log_softmax(-1)
    exact = ExactMetrics(GradedSplit(Questions("benchmark", job.texts), job.score_NK, ref_logp_NK), job.config.beta)
    scores = BudgetedScores(job.score_NK)
    models = build_models(*build_policies(model, table, job.config), scores, scores, job.config)
    config = dataclasses.replace(job.config, output_dir=str(output_dir))
    every = updates_between_metrics(job.config, batch, len(table), len(table))
    classifier = models.policy.backbone.classifier

    def measure() -> dict[str, Any]:
        measured: dict[str, Any] = {}
        job.measuring += processor_seconds(
            lambda: measured.update(exact.metrics(predict_logits_NK(classifier, table, by_length=True)))
        )
        return measured

    with Run(config, "ppo") as run:
        trainer = ppo.build_trainer(config, models, batch, run.path, [MetricsCallback(run, "ppo", measure, every)])
        yield lambda: ppo.run_trainer(trainer, config)


class ValueHead(nn.Module):
    """Values [B, 1] of questions from cached hidden states [N, H] of the policy's trunk with the adapters off."""

    def __init__(self, summary_NH: Tensor):
        super().__init__()
        self.summary_NH, self.head = summary_NH, nn.Linear(summary_NH.shape[1], 1)

    def forward(self, row_B: Tensor) -> Tensor:
        return self.head(self.summary_NH[row_B])


@contextmanager
def bare(job: Job, batch: int, output_dir: Path) -> Iterator[Callable[[], None]]:
    """The same training with the example's loop, ready to run; it writes nothing."""
    model, table = job.classifier()
    policy = with_lora(model.requires_grad_(False), job.config)

    def run() -> None:
        set_seed(0)
        with torch.no_grad(), adapters_off(policy):
            outputs = [
                policy(**table.rows(rows_B, int(table.length_N[rows_B].max())), output_hidden_states=True)
                for rows_B in torch.arange(len(table)).split(256)
            ]
        value = ValueHead(torch.cat([output.hidden_states[-1][:, 0] for output in outputs]))
        ref_logits_NK = torch.cat([output.logits for output in outputs])
        updates = (job.config.total_episodes or 0) // batch
        rows = [torch.randperm(len(table))[:batch] for _ in range(updates)]
        for _ in ppo_loop.ppo(ppo_loop.Network(policy, table), value, ref_logits_NK, job.score_NK, job.config, rows):
            pass

    yield run


def processor_seconds(run: Callable[[], None]) -> float:
    """Processor time of `run`."""
    started = time.process_time()
    run()
    return time.process_time() - started


def spread(ratios: list[float]) -> dict[str, float]:
    """Of all rounds."""
    return {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    if args.questions % PPOConfig.num_mini_batches:
        parser.error(f"--questions {args.questions}: must be a multiple of {PPOConfig.num_mini_batches}")
    torch.set_num_threads(1)
    silence_libraries()
    batch = args.questions
    config = PPOConfig(
        use_peft=True,
        total_episodes=args.updates * batch,
        per_device_train_batch_size=batch,
        repeats_per_epoch=1,
        num_ppo_epochs=2,
        weight_decay=0.0,
        disable_tqdm=True,
    )
    job = Job(config, args.questions)
    sides = {"ours": ours, "bare": bare}
    seconds: dict[str, list[float]] = {name: [] for name in (*sides, "metrics")}
    for number in range(args.rounds + 1):
        job.measuring, took = 0.0, dict[str, float]()
        for name, build in sides.items():
            with tempfile.TemporaryDirectory() as directory, build(job, batch, Path(directory) / "run") as run:
                took[name] = processor_seconds(run)
        if number > 0:  # warm-up: imports and allocations are not measured
            for name, counted in {**took, "metrics": job.measuring}.items():
                seconds[name].append(counted)
    rounds = list(zip(*seconds.values(), strict=True))
    record = {
        "ratio": spread([mine / theirs for mine, theirs, _ in rounds]),
        "ratio_without_metrics": spread([(mine - metrics) / theirs for mine, theirs, metrics in rounds]),
        "processor_seconds": seconds,
        "updates": args.updates,
        "batch": batch,
        "load": os.getloadavg(),
        **machine(torch.get_num_threads()),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name in ("ratio", "ratio_without_metrics"):
        print("ours / bare, {}: median {median:.3f} ({lowest:.3f} to {highest:.3f})".format(name, **record[name]))
    for name, times in seconds.items():
        print(f"{name}: {median(times) / args.updates:.2f} s an update of {batch} episodes")


if __name__ == "__main__":
    main()
