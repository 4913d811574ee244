"""PPO with its defaults on a user's data: 120 texts, a MiniLM classifier, a judge; accuracy on 300 gold rows, and time.

python benchmarks/own_data.py                    # the report: shop tickets, 27 intents
python benchmarks/own_data.py --data eightball   # the data that the defaults were chosen on: 3 labels

The classifier is the packaged MiniLM, fine-tuned on noisy labels. The judge gives the right label probability 0.8 and
errs on every tenth text. Further options are those of `eightball ppo`.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.cli.parser import parse
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import Questions
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, Scale
from eightball_ppo.graders.budget import Budget
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.logging import configure_logging
from eightball_ppo.runtime.run import read_results

DATASETS = Path(__file__).parents[1] / "datasets"
COLUMNS = {"tickets": ("text", "intent"), "eightball": ("question", "answer")}
TEXTS, GOLD, SFT_ROWS = 120, 300, 270
JUDGE_ERROR, LABEL_ERROR = 0.1, 0.3


def share(text: str, salt: str) -> float:
    """A number from 0 to 1 that the text decides."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{text}".encode()).digest()[:8], "big") / 2**64


def rows(data: str, split: str) -> list[tuple[str, str]]:
    """(text, right label) of a split."""
    text, label = COLUMNS[data]
    lines = (DATASETS / data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [(record[text], record.get(f"{label}_true", record[label])) for record in records]


class Oracle(Grader):
    """A judge that knows the right labels and errs on a tenth of the texts, always on the same."""

    deliberate, free = False, True
    scale: Scale = "log_prob"

    def __init__(self, labels: LabelSet, right: dict[str, str]):
        self.labels, self.right, self.fingerprint = labels, right, "oracle"
        self.settings: dict[str, Any] = {"grader": "oracle"}

    def answer(self, text: str) -> int:
        """The label id that it prefers."""
        right = self.labels.names.index(self.right[text])
        wrong = share(text, "error") < JUDGE_ERROR
        return (right + 1 + int(share(text, "which") * (len(self.labels) - 1))) % len(self.labels) if wrong else right

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """0.8 for the preferred label; the others share the rest."""
        for request in budget.allowed(requests):
            logp_K = [math.log(0.2 / (len(self.labels) - 1))] * len(self.labels)
            logp_K[self.answer(request.question)] = math.log(0.8)
            on_grade(Grade.from_scores(request, logp_K))


def prepare(data: str, directory: Path) -> tuple[Path, Questions, Questions, Oracle]:
    """The fine-tuned classifier, the texts, the gold rows and the judge."""
    labelled = rows(data, "preferences")
    start = rows(data, "sft") if data == "tickets" else labelled[TEXTS : TEXTS + SFT_ROWS]
    texts = labelled[:TEXTS]
    gold = [*rows(data, "heldout"), *labelled[TEXTS + (0 if data == "tickets" else SFT_ROWS) :]][:GOLD]
    labels = LabelSet.of(sorted({label for _, label in start}))
    drawn = [labels.names[int(share(text, "which") * len(labels))] for text, _ in start]
    noisy = [(text, other if share(text, "noise") < LABEL_ERROR else label)
             for (text, label), other in zip(start, drawn, strict=True)]  # fmt: skip
    file = directory / "data" / "sft.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"question": text, "answer": label}) + "\n" for text, label in noisy))
    (directory / "data" / "heldout.jsonl").write_text(
        "".join(json.dumps({"question": text, "answer": label}) + "\n" for text, label in gold)
    )
    classifier = directory / "classifier"
    if not classifier.exists():
        shared: dict[str, Any] = {"dataset_name": str(file.parent), "labels": list(labels.names), "disable_tqdm": True}
        sft.train(SFTConfig(output_dir=str(classifier), model_name_or_path="minilm", **shared,
                            per_device_train_batch_size=16))  # fmt: skip
    questions = Questions(data, [text for text, _ in texts])
    heldout = Questions("gold", [text for text, _ in gold], [labels.names.index(label) for _, label in gold])
    return classifier, questions, heldout, Oracle(labels, dict([*texts, *gold]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=COLUMNS, default="tickets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/own-data"))
    args, options = parser.parse_known_args()
    configure_logging()
    directory = args.output / args.data
    classifier, questions, gold, judge = prepare(args.data, directory)
    torch.set_num_threads(1)
    print("seed, right before, right after, optimum fraction, updates, processor seconds")
    for seed in args.seeds:
        started = time.process_time()
        words = ["--output_dir", str(directory / f"ppo-{seed}"), "--seed", str(seed), "--overwrite_output_dir"]
        words += [
            "--grade_store",
            str(directory / "grades.sqlite3"),
            "--disable_tqdm",
            "--labels",
            *judge.labels.names,
            *options,
        ]
        run = run_method(parse(PPOConfig, words), model=load_classifier(str(classifier), "classifier"), judge=judge,
                         train=questions, evaluation=gold)  # fmt: skip
        results = read_results(run)
        accuracy = [results[when]["heldout"]["gold_accuracy"] for when in ("reference", "splits")]
        fraction, seconds = results["splits"]["train"]["optimum_fraction"], time.process_time() - started
        numbers = f"{accuracy[0]:.3f}, {accuracy[1]:.3f}, {fraction:.3f}, {results['updates']}, {seconds:.0f}"
        print(f"{seed}, {numbers}", flush=True)


if __name__ == "__main__":
    main()
