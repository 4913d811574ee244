"""How often single raters and panels name the class that the other raters agree on, in the rated data sets.

python benchmarks/raters.py
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

import torch
from sklearn.metrics import cohen_kappa_score

from eightball_ppo.data.packaged import RATED, ratings_by_text
from eightball_ppo.data.ratings import SENTIMENTS, sentiment, vote
from eightball_ppo.graders.raters import Panel, vote_logp_BK

SIZES = (1, 3, 5, 9)


def exact_accuracy(ratings: Sequence[int]) -> float:
    """The expected accuracy of one rater of a text, drawn at random, against all others."""
    others = ([*ratings[:i], *ratings[i + 1 :]] for i in range(len(ratings)))
    return fmean(vote(rating) == sentiment(rest) for rating, rest in zip(ratings, others, strict=True))


def judged(text: str, ratings: Sequence[int], panel: Panel) -> tuple[int, int]:
    """(the label with the most votes of a panel, the class that the other raters give)."""
    drawn = panel.of(text, ratings)
    votes_1M = torch.tensor([[vote(ratings[rater]) for rater in drawn]])
    others = [rating for rater, rating in enumerate(ratings) if rater not in drawn]
    return int(vote_logp_BK(votes_1M, len(SENTIMENTS)).argmax()), sentiment(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="draws of every panel")
    options = parser.parse_args()
    print(f"accuracy and kappa against the raters who were not drawn, means of {options.seeds} draws")
    for name in RATED:
        rated = ratings_by_text(name)
        print(f"{name}: {len(rated)} texts; one rater, exact: {fmean(map(exact_accuracy, rated.values())):.3f}")
        for size in SIZES:
            accuracy, kappa = [], []
            for seed in range(options.seeds):
                pairs = [judged(text, ratings, Panel(size, seed)) for text, ratings in rated.items()]
                accuracy.append(fmean(answer == gold for answer, gold in pairs))
                kappa.append(cohen_kappa_score(*zip(*pairs, strict=True)))
            print(f"  {size} raters: accuracy {fmean(accuracy):.3f}, kappa {fmean(kappa):.3f}")


main()
