"""What the two students reach: held-out gold accuracy, and the share of the optimum on training texts beside `exact`'s.

python benchmarks/students.py --student small
python benchmarks/students.py --student frozen

Everything has its defaults; a seed has its own reference. Held-out rows are measured once, after `benchmarks/tune.py`
has chosen the defaults on other texts. The older rows are the first 300. Trains runs/reward if it is missing.
"""

import argparse
import itertools
import tempfile
from collections import defaultdict
from statistics import mean
from typing import Any

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tune import STUDENTS, Lab

from eightball_ppo.config.registry import METHODS
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.logging import silence_libraries

OLDER = 300


def accuracies(task: Task[Any], answer_N: Tensor) -> tuple[float, float]:
    """Gold accuracy on the older held-out rows, and on all, of answers [N] to them."""
    right_N = (answer_N == torch.tensor(task.questions["heldout"].label_ids)).double()
    return right_N[:OLDER].mean().item(), right_N.mean().item()


def bag_of_words(task: Task[Any]) -> Tensor:
    """Answers [N] to the held-out rows of a logistic regression on the grader's answers to the training texts."""
    counts, texts = CountVectorizer(), {split: list(questions.texts) for split, questions in task.questions.items()}
    regression = LogisticRegression(max_iter=1000)
    regression.fit(counts.fit_transform(texts["train"]), task.grader_logp_NK["train"].argmax(-1).numpy())
    return torch.from_numpy(regression.predict(counts.transform(texts["heldout"])))


def print_row(name: str, numbers: list[tuple[float, ...]]) -> None:
    """A row of the table: means over seeds."""
    means = " | ".join(f"{mean(column):.3f}" for column in zip(*numbers, strict=True))
    print(f"| {name} | {len(numbers)} | {means} |", flush=True)


def measure(lab: Lab, methods: list[str], seeds: int, kl_coefs: list[float]) -> None:
    """Prints the table; distillation to hard labels does not read the KL coefficient, and runs at the first alone."""
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for seed in range(seeds):
        task = lab.task(seed)
        for method, kl_coef in itertools.product(methods, kl_coefs):
            if method == "distill" and kl_coef != kl_coefs[0]:
                continue
            trained, logits, seconds = lab.train(task, method, kl_coef=kl_coef)
            fraction = trained.record("train", logits["train"])["optimum_fraction"]
            name = method if method == "distill" else f"{method}, beta {kl_coef:g}"
            rows[name].append((*accuracies(task, logits["heldout"].argmax(-1)), fraction, seconds))
            print(f"seed {seed}", end=" ")
            print_row(name, rows[name][-1:])
    print("| policy | seeds | gold, older 300 | gold, all 600 | optimum_fraction, training texts | processor s |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, numbers in rows.items():
        print_row(name, numbers)
    print_row("bag of words", [accuracies(task, bag_of_words(task))])
    print_row("the grader", [accuracies(task, task.grader_logp_NK["heldout"].argmax(-1))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", choices=STUDENTS, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["distill", "ppo", "exact"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kl_coefs", type=float, nargs="+", default=[0.1, 2.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    silence_libraries()
    with tempfile.TemporaryDirectory() as directory:
        measure(Lab(options.student, directory), options.methods, options.seeds, options.kl_coefs)


if __name__ == "__main__":
    main()
