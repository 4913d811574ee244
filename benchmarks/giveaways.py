"""What words alone give away of the gold labels of `datasets/eightball`: held-out accuracy of two logistic regressions.

python benchmarks/giveaways.py

Both are trained on `preferences.jsonl`, one on function words (scikit-learn's `ENGLISH_STOP_WORDS`), one on all words.
The table has the accuracy on all held-out rows, on the first 300, which are older, on the others, and for each label.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.linear_model import LogisticRegression

EIGHTBALL = Path(__file__).parents[1] / "datasets" / "eightball"
OLDER = 300  # held-out rows


def vectorizers() -> dict[str, CountVectorizer]:
    """One for each regression; function words have one letter, too, which a `CountVectorizer` drops by default."""
    words = sorted(ENGLISH_STOP_WORDS)
    return {
        "function words": CountVectorizer(vocabulary=words, token_pattern=r"\b\w+\b"),
        "bag of words": CountVectorizer(),
    }


def rows_of(split: str) -> tuple[list[str], np.ndarray]:
    """The questions of a file and their gold labels [N]."""
    rows = [json.loads(line) for line in (EIGHTBALL / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["question"] for row in rows], np.array([row["answer"] for row in rows])


def right_N(vectorizer: CountVectorizer) -> np.ndarray:
    """Whether the regression predicts the gold label, for each held-out row."""
    (train, label_T), (heldout, label_N) = rows_of("preferences"), rows_of("heldout")
    model = LogisticRegression(max_iter=1000).fit(vectorizer.fit_transform(train), label_T)
    return model.predict(vectorizer.transform(heldout)) == label_N


def main() -> None:
    """Prints the table."""
    _, label_N = rows_of("heldout")
    older_N = np.arange(len(label_N)) < OLDER
    groups = {"all": older_N | True, "older": older_N, "newer": ~older_N}
    groups |= {label: label_N == label for label in np.unique(label_N)}
    print("| regression on |", " | ".join(f"{name} ({group.sum()})" for name, group in groups.items()), "|")
    print("|---" * (len(groups) + 1) + "|")
    for name, vectorizer in vectorizers().items():
        right = right_N(vectorizer)
        print(f"| {name} |", " | ".join(f"{right[group].mean():.3f}" for group in groups.values()), "|")


if __name__ == "__main__":
    main()
