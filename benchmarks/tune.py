"""Searches the start of a student, and learning rate and weight decay of every method, on validation texts.

python benchmarks/tune.py --search start                   # of the small classifier, judged by distillation
python benchmarks/tune.py --search steps                   # every method, on the small classifier
python benchmarks/tune.py --search steps --student frozen  # the head of a frozen MiniLM

A third of the texts of `rl.jsonl` is for validation. A trial counts the validation texts whose most probable answer is
the grader's. Held-out rows play no part. Every method gets the same number of trials; each trial is a mean over seeds,
each with its own reference. The winner of a method has the highest validation accuracy among those trials whose
`optimum_fraction` on the training texts is within 0.02 of the method's best. Trains runs/reward if it is missing.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.config.registry import METHODS, load
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import load_both
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import sft
from eightball_ppo.methods.defaults import resolve_defaults
from eightball_ppo.methods.inputs import Inputs, LoadedModel, load_splits
from eightball_ppo.methods.task import Task, load_task, logits_NK
from eightball_ppo.models.frozen import with_features
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.tokenization import max_input_length, tokenize
from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.supervised import train_classifier

VALIDATION = "0.33"  # of the texts, by a hash of each
STUDENTS: dict[str, dict[str, Any]] = {
    "small": {},
    "frozen": {"model_name_or_path": "minilm", "freeze_encoder": True},
    "encoder": {"model_name_or_path": "minilm", "num_train_epochs": 1},
}
TOLERANCE = 0.02  # of optimum_fraction


class Start(NamedTuple):
    """How the small classifier begins."""

    initializer_range: float = 0.1
    word_dropout: float = 0.0
    sft_epochs: float = 3


STARTS = (
    *(Start(deviation) for deviation in (1.0, 0.3, 0.1, 0.03)),
    Start(word_dropout=0.3),
    *(Start(sft_epochs=epochs) for epochs in (1, 10)),
)


class Step(NamedTuple):
    """How far an optimizer step goes, and how much of the weights it takes away."""

    learning_rate: float
    weight_decay: float


def grid(low: float, high: float, decay: float) -> tuple[Step, ...]:
    """Four trials."""
    return tuple(Step(rate, strength) for rate in (low, high) for strength in (0.0, decay))


STEPS: dict[str, dict[str, tuple[Step, ...]]] = {
    "small": {
        "distill": grid(0.005, 0.01, 0.1),
        "distill_boltzmann": grid(0.005, 0.01, 0.1),
        "ppo": grid(0.012, 0.024, 0.03),
        "rloo": grid(0.01, 0.02, 0.1),
        "grpo": grid(0.01, 0.02, 0.1),
        "exact": grid(0.005, 0.01, 0.1),
    },
    "frozen": {
        "distill": grid(0.01, 0.02, 0.03),
        "distill_boltzmann": grid(0.02, 0.04, 0.03),
        "ppo": grid(0.04, 0.08, 0.03),
        "rloo": grid(0.02, 0.04, 0.1),
        "grpo": grid(0.02, 0.04, 0.1),
        "exact": grid(0.02, 0.04, 0.03),
    },
}


class Trial(NamedTuple):
    """Means over seeds: validation accuracy, share of the optimum on training texts, processor seconds of training."""

    setting: Any
    accuracy: float
    optimum_fraction: float
    seconds: float


def drop_words(model: PreTrainedModel, share: float) -> None:
    """Lets training hide a share of the words (Iyyer et al. 2015), in `model` and in its copies."""

    def hide(module: Any, args: Any, inputs: dict[str, Any]) -> Any:
        if not module.training:
            return None
        mask_BT = inputs["attention_mask"]
        return args, {**inputs, "attention_mask": mask_BT * (torch.rand(mask_BT.shape) >= share)}

    model.register_forward_pre_hook(hide, with_kwargs=True)


class Lab:
    """Trains references and policies in this process, with the default options.

    Args:
        student: A key of `STUDENTS`.
        directory: For what a training writes.
    """

    def __init__(self, student: str, directory: str):
        self.student = student
        self.directories: Iterator[str] = (f"{directory}/{number}" for number in itertools.count())

    def reference(self, seed: int, start: Start | None = None) -> LoadedModel:
        """A classifier after SFT, and its tokenizer."""
        epochs = {} if start is None else {"num_train_epochs": start.sft_epochs}
        options = {**STUDENTS[self.student], **epochs, "output_dir": next(self.directories)}
        config = with_labels(SFTConfig(seed=seed, disable_tqdm=True, **options))
        labels = config.label_set()
        questions, _ = load_both(config, labels, labels)
        set_seed(seed)
        model, tokenizer, config = sft.new_policy(config, labels, questions)
        if start is not None:
            model.embedding.weight.data.mul_(start.initializer_range / model.config.initializer_range)
            if start.word_dropout:
                drop_words(model, start.word_dropout)
        table = with_features(model, tokenize(questions, tokenizer, max_input_length(tokenizer)))
        assert questions.label_ids is not None
        with Run(config, "sft") as run:
            train_classifier(model, tokenizer, table, questions.label_ids, config, run, "sft")
        return model, tokenizer

    def task(self, seed: int, start: Start | None = None, **options: Any) -> Task[Any]:
        """Graded texts to learn from and to measure on, for a new reference; the options are those of the data."""
        config = ExactConfig(seed=seed, output_dir=next(self.directories), **options)
        config = with_labels(replace(config, score_type="log_prob", disable_tqdm=True))
        return load_task(config, load_splits(config), Inputs(model=self.reference(seed, start)))

    def train(self, task: Task[Any], method: str, **options: Any) -> tuple[Task[Any], dict[str, Tensor], float]:
        """The task of one training, the policy's logits [N, K] of each split, and processor seconds."""
        spec, given = METHODS[method], task.config
        shared = {"seed": given.seed, "score_type": given.score_type, "labels": given.labels, "disable_tqdm": True}
        config = spec.config_class(output_dir=next(self.directories), **shared, **spec.fixed, **options)
        config = resolve_defaults(config, task.classifier, len(task.questions["train"]))
        scores = BudgetedScores(task.train_scores.score_NK, None, given.seed)
        task, started = replace(task, config=config, recorded_config=None, train_scores=scores), time.process_time()
        with Run(config, method) as run:
            policy = load(spec.fit)(task, run)
        seconds = time.process_time() - started
        return task, {split: logits_NK(policy, table) for split, table in task.tokens.items()}, seconds


def trial(lab: Lab, task: Task[Any], method: str, **options: Any) -> tuple[float, float, float]:
    """Validation accuracy, share of the optimum on training texts, and processor seconds of one training."""
    whole = {"threshold": 0.0} if method == "distill" else {}  # no search within the search
    task, logits, seconds = lab.train(task, method, **whole, **options)
    records = {split: task.record(split, table_NK) for split, table_NK in logits.items()}
    return records["heldout"]["judge_agreement"], records["train"]["optimum_fraction"], seconds


def winner(trials: list[Trial]) -> Trial:
    """The trial with the highest validation accuracy among those that reach the optimum about as well as the best."""
    best = max(trial.optimum_fraction for trial in trials)
    return max(
        (trial for trial in trials if trial.optimum_fraction >= best - TOLERANCE), key=lambda trial: trial.accuracy
    )


def print_trials(name: str, trials: list[Trial]) -> None:
    """Rows of the table; the winner's setting is bold."""
    best = winner(trials)
    for trial in trials:
        setting = f"**{trial.setting}**" if trial is best else trial.setting
        numbers = f"{trial.accuracy:.3f} | {trial.optimum_fraction:.4f} | {trial.seconds:.1f}"
        print(f"| {name} | {setting} | {numbers} |", flush=True)


def search_starts(lab: Lab, seeds: int, kl_coef: float) -> None:
    """Prints a row for every start, judged by distillation at its default rate."""
    trials = []
    for start in STARTS:
        tasks = (lab.task(seed, start, dataset_test_split=VALIDATION) for seed in range(seeds))
        runs = [trial(lab, task, "distill", kl_coef=kl_coef) for task in tasks]
        trials.append(Trial(", ".join(f"{value:g}" for value in start), *map(mean, zip(*runs, strict=True))))
    print_trials("distill", trials)


def search_steps(lab: Lab, methods: list[str], seeds: int, kl_coef: float) -> None:
    """Prints a row for every method, learning rate and weight decay."""
    tasks = [lab.task(seed, dataset_test_split=VALIDATION) for seed in range(seeds)]
    for method in methods:
        trials = []
        for step in STEPS[lab.student][method]:
            runs = [trial(lab, task, method, kl_coef=kl_coef, **step._asdict()) for task in tasks]
            trials.append(Trial(f"{step.learning_rate:g}, {step.weight_decay:g}", *map(mean, zip(*runs, strict=True))))
        print_trials(method, trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", choices=("start", "steps"), required=True)
    parser.add_argument("--student", choices=STEPS, default="small")
    parser.add_argument("--methods", nargs="+", choices=STEPS["small"], default=list(STEPS["small"]))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kl_coef", type=float, default=0.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    settings = {"start": "initializer_range, word_dropout, SFT epochs", "steps": "learning rate, weight decay"}
    setting = settings[options.search]
    print(f"| method | {setting} | validation accuracy | optimum_fraction, training texts | processor s |")
    print("|---|---|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(options.student, directory)
        if options.search == "start":
            search_starts(lab, options.seeds, options.kl_coef)
        else:
            search_steps(lab, options.methods, options.seeds, options.kl_coef)


if __name__ == "__main__":
    main()
