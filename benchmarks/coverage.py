"""Coverage of the 95 % intervals of `functional/statistics.py`, on synthetic grids with a known true value.

OMP_NUM_THREADS=1 python benchmarks/coverage.py                     # about 3 minutes
OMP_NUM_THREADS=1 python benchmarks/coverage.py --seeds 2 10        # other numbers of seeds
OMP_NUM_THREADS=1 python benchmarks/coverage.py --repeats 300 --resamples 2000

One row is one kind of grid of S seeds x Q questions, sampled `--repeats` times. `seeds' share` is the seeds' share of
the variance of the mean; every grid also has an error for each seed and question. `plain` is BCa over seeds and
questions, `ours` the reported interval, `one t` the alternative: a symmetric interval with Satterthwaite's degrees of
freedom. `length` is the mean half length over the true standard deviation of the estimate, 1.96 if that is known. The
last line is the share of grids of nine equal methods in which Holm's test calls a pair distinguishable; it should be
at most 0.05.

The bootstrap processes repeats in stacks that share the sampled indices (and, for the ratio, the denominators). Exits
with 1 if a coverage of `ours` is outside 0.92 to 0.98. With 2 seeds, which are not a default, it is up to 0.99.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from eightball_ppo.functional.statistics import RESAMPLES, Array, VarianceEstimate, compare, crossed_spread

LOWEST, HIGHEST = 0.92, 0.98
SHARES = {"questions dominate": 0.05, "balanced": 0.5, "seeds dominate": 0.95}
# N grids of S seeds x Q questions and their denominators; the true value of every grid is 0
Draw = Callable[[np.random.Generator, int, int, int, float], tuple[Array, Array | None]]


def additive(question_NQ: Array, error_NQ: Array, rng: np.random.Generator, S: int, share: float) -> Array:
    """Grids with these question effects (variance 1), this sd of the error, and normal seeds with their share."""
    N, Q = question_NQ.shape
    seed_NS = rng.normal(size=(N, S)) * np.sqrt(share / (1 - share) * S / Q)
    return question_NQ[:, None] + seed_NS[:, :, None] + error_NQ[:, None] * rng.normal(size=(N, S, Q))


def normal(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    return additive(rng.normal(size=(N, Q)), np.full((N, Q), 0.5), rng, S, share), None


def error_dominates(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    """Seeds that differ on every question far more than questions do, as in differences of similar methods."""
    return additive(rng.normal(size=(N, Q)), np.full((N, Q), 3.0), rng, S, share), None


def lognormal(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    """Shifted lognormal questions, skewness 6.2; the error grows with the question."""
    question_NQ = (rng.lognormal(size=(N, Q)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    return additive(question_NQ, 0.1 + 0.5 * np.abs(question_NQ), rng, S, share), None


def tail(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    """Realistic scores: 92 % of the questions near 0, the others between 0 and -5; the error grows with them."""
    rate, mean, square = 0.08, -5 * 2 / 3, 25 * 0.5  # of -5 Beta(2, 1)
    raw_NQ = np.where(rng.random((N, Q)) < rate, -5 * rng.beta(2, 1, (N, Q)), 0.05 * rng.normal(size=(N, Q)))
    deviation = np.sqrt(rate * square + (1 - rate) * 0.05**2 - (rate * mean) ** 2)
    question_NQ = (raw_NQ - rate * mean) / deviation
    return additive(question_NQ, 0.1 + 0.5 * np.abs(question_NQ), rng, S, share), None


def sparse(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    """Two methods that differ on 2 % of the questions, by the same amount in both directions."""
    question_NQ = (rng.random((N, Q)) < 0.02) * rng.choice([-1.0, 1.0], (N, Q)) / np.sqrt(0.02)
    return additive(question_NQ, 0.1 * np.abs(question_NQ), rng, S, share), None


def right_or_wrong(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, None]:
    """Differences of gold accuracy, -1, 0 or 1: two methods differ on a fifth of the questions."""
    parted_NQ, lean_NQ = rng.random((N, Q)) < 0.2, rng.uniform(-0.3, 0.3, (N, Q))
    question_variance = 0.2 * 4 * 0.3**2 / 3
    seed_NS = rng.normal(size=(N, S)) * np.sqrt(share / (1 - share) * S / Q * question_variance) / (0.2 * 2)
    chance_NSQ = 0.5 + lean_NQ[:, None] + seed_NS[:, :, None]
    return parted_NQ[:, None].astype(float) * np.where(rng.random((N, S, Q)) < chance_NSQ, 1.0, -1.0), None


def ratio(rng: np.random.Generator, N: int, S: int, Q: int, share: float) -> tuple[Array, Array]:
    """A share of each question's possible gain, minus the true share; gains are lognormal weights."""
    gain_Q = rng.lognormal(size=Q)
    rest_NSQ = additive(rng.normal(size=(N, Q)), np.full((N, Q), 0.5), rng, S, share)
    return 0.2 * gain_Q * rest_NSQ, gain_Q


KINDS: dict[str, Draw] = {
    "normal": normal,
    "error dominates": error_dominates,
    "lognormal": lognormal,
    "tail to -5": tail,
    "sparse": sparse,
    "right or wrong": right_or_wrong,
    "ratio of means": ratio,
}


def satterthwaite(spread: VarianceEstimate) -> Array:
    """Half length of the interval with one t for the whole variance; shape [O]."""
    seed_O, question_O, error_O = spread.variance_3O
    variance_O = seed_O + (question_O - error_O).clip(0.0)
    seeds, questions = spread.seeds - 1, spread.questions - 1
    squares_O = seed_O**2 / seeds + question_O**2 / questions + error_O**2 / (seeds * questions)
    return student.ppf(0.975, np.maximum(variance_O**2 / squares_O, seeds)) * np.sqrt(variance_O)


def coverages(draw: Draw, S: int, share: float, options: argparse.Namespace) -> list[tuple[float, float]]:
    """(coverage, half length over the true sd) of plain, ours and one t."""
    stack = 20 if draw is ratio else 400
    hit_NI, half_NI, estimates = [], [], []
    for first in range(0, options.repeats, stack):
        rng = np.random.default_rng([options.seed, S, int(1000 * share), first])
        N = min(stack, options.repeats - first)
        value_NSQ, denominator_Q = draw(rng, N, S, options.questions, share)
        contrast_NN = np.eye(N)
        spread = crossed_spread(value_NSQ, contrast_NN, denominator_Q, resamples=options.resamples, rng_seed=first)
        ours = spread.intervals()
        low_3N = np.array([spread.bca_low_O, [i.low for i in ours], spread.estimate_O - satterthwaite(spread)])
        high_3N = np.array([spread.bca_high_O, [i.high for i in ours], spread.estimate_O + satterthwaite(spread)])
        hit_NI.append(((low_3N <= 0) & (high_3N >= 0)).T)
        half_NI.append((high_3N - low_3N).T / 2)
        estimates.append(spread.estimate_O)
    deviation = float(np.concatenate(estimates).std())
    hit_I, half_I = np.concatenate(hit_NI).mean(0), np.concatenate(half_NI).mean(0) / deviation
    return list(zip(hit_I.tolist(), half_I.tolist(), strict=True))


def false_alarms(S: int, options: argparse.Namespace) -> float:
    """Share of grids of nine methods without any difference in which some pair is called distinguishable."""
    alarms = 0
    for grid in range(options.grids):
        rng = np.random.default_rng([options.seed, S, grid])
        question_Q = tail(rng, 1, 1, options.questions, 0.0)[0][0, 0]
        values: dict[str, dict[int, Array]] = {}
        for method in "abcdefghi":
            own_SQ = 0.5 * normal(rng, 1, S, options.questions, 0.5)[0][0]
            values[method] = {seed: question_Q + own_Q for seed, own_Q in enumerate(own_SQ)}
        alarms += any(pair.distinguishable for pair in compare(values, resamples=options.resamples, rng_seed=grid)[1])
    return alarms / options.grids


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5], help="seeds of each grid")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=2_000, help="grids of each row")
    parser.add_argument("--resamples", type=int, default=RESAMPLES)
    parser.add_argument("--grids", type=int, default=200, help="grids of nine equal methods; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| question effects | seeds' share | S | plain | ours | one t | MC error | length: plain, ours, one t |")
    print("|---|---|---|---|---|---|---|---|")
    outside = 0
    for name, draw in KINDS.items():
        for regime, share in SHARES.items():
            for S in options.seeds:
                plain, ours, one_t = coverages(draw, S, share, options)
                error = np.sqrt(ours[0] * (1 - ours[0]) / options.repeats)
                outside += not LOWEST <= ours[0] <= HIGHEST
                lengths = f"{plain[1]:.2f}, {ours[1]:.2f}, {one_t[1]:.2f}"
                print(
                    f"| {name} | {share:.0%}, {regime} | {S} | {plain[0]:.3f} | {ours[0]:.3f} | {one_t[0]:.3f} "
                    f"| {error:.3f} | {lengths} |",
                    flush=True,
                )
    print(f"\n{outside} of `ours` outside {LOWEST} to {HIGHEST}")
    for S in options.seeds if options.grids else []:
        share = false_alarms(S, options)
        print(
            f"{S} seeds: Holm's test finds a difference in {share:.3f} of {options.grids} grids of nine equal methods"
        )
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
