"""Your own classifier and your own judge: a CSV of support tickets, a function that scores labels, better answers.

The tickets carry labels, and many of them are wrong. A classifier trained on them makes the same mistakes. The judge,
an ordinary function, knows which words speak for which label; in your project it may ask a bigger model. Distillation
teaches the classifier what the judge thinks, and a second file with gold labels measures whether that helped.

    python examples/own_classifier.py            # under 2 minutes on one core
"""

import csv
import random
from pathlib import Path

from eightball_ppo import DistillConfig, DistillTrainer
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.methods import sft

WORDS = {
    "billing": ["invoice", "charged", "refund", "price"],
    "delivery": ["parcel", "courier", "late", "tracking"],
    "account": ["password", "login", "email", "profile"],
}
PHRASES = ["I have a question about the {}.", "The {} is wrong!", "Who helps me with my {}?", "Again a problem: {}."]


def judge(texts: list[str], labels: list[str]) -> list[list[float]]:
    """A score of every label for every text, in any unit: here the words of the text that belong to the label."""
    return [[float(sum(word in text for word in WORDS[label])) for label in labels] for text in texts]


def write_tickets(directory: Path) -> tuple[str, str]:
    """tickets.csv, where 3 of 10 labels are wrong, and gold.csv, where all are right."""
    rng = random.Random(0)
    rows = [(phrase.format(word), label) for label in WORDS for word in WORDS[label] for phrase in PHRASES]
    rng.shuffle(rows)
    noisy = [(text, rng.choice(list(WORDS)) if rng.random() < 0.45 else label) for text, label in rows[:36]]
    for name, table in (("tickets.csv", noisy), ("gold.csv", rows[36:])):
        with (directory / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *table])
    return str(directory / "tickets.csv"), str(directory / "gold.csv")


def main(directory: Path = Path("own-classifier")) -> None:
    """Writes the tickets, trains a classifier on their labels, then on the judge's scores, and prints both."""
    directory.mkdir(exist_ok=True)
    tickets, gold = write_tickets(directory)
    classifier = str(directory / "classifier")  # yours is there already: any `transformers` text classifier
    if not Path(classifier).exists():
        sft.train(SFTConfig(output_dir=classifier, dataset_name=tickets, disable_tqdm=True))

    trainer = DistillTrainer(classifier, judge, DistillConfig(disable_tqdm=True), tickets, gold)
    before = trainer.evaluate()["eval_gold_accuracy"]
    trainer.train()
    after = trainer.evaluate()["eval_gold_accuracy"]
    trainer.save_model(directory / "better")
    print(trainer.predict(["The courier was late with my parcel."])[0]["label"])
    print(f"right on gold.csv: {before:.0%} before, {after:.0%} after")


if __name__ == "__main__":
    main()
