"""Coverage of the 95 % intervals of `functional/intervals.py` and false alarms of the headline, on synthetic runs.

OMP_NUM_THREADS=1 python benchmarks/coverage.py                 # about 10 minutes
OMP_NUM_THREADS=1 python benchmarks/coverage.py --repeats 300   # a look
OMP_NUM_THREADS=1 python benchmarks/coverage.py --power runs/compare/summary.json   # a comparison's own variances

A row is one kind of difference of two methods whose true value is 0, sampled `--repeats` times with S seeds of each
method over R references on Q questions. `draws' share` is the share that seeds and references have of the variance of
the mean (with references, half of it theirs); every question also has an error of its own under each seed. `length` is
the mean half length over the true standard deviation of the estimate, 1.96 if that is known. The last rows break an
assumption: seeds that are lognormal, of which 15 % collapse, or questions in clusters of 10 with an intraclass
correlation of 0.3. Then come false alarms: the share of comparisons of equal methods in which the headline calls one of
them ahead.

Exits with 1 if a well-behaved row is outside 0.93 to 0.98 by more than two Monte Carlo errors, or the headline's share
of false alarms above 0.06.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eightball_ppo.functional.intervals import Array, Draw, estimate_variance
from eightball_ppo.functional.statistics import PairComparison, compare_pair, holm

LOWEST, HIGHEST, ALARMS = 0.93, 0.98, 0.06
SHARES = {"questions dominate": 0.05, "balanced": 0.5, "draws dominate": 0.95}
DESIGNS = ((3, 1), (5, 1), (10, 1), (10, 3), (5, 5))  # seeds, references
Generator = np.random.Generator
Questions = Callable[[Generator, int], tuple[Array, Array]]  # effects of variance 1, and the sd of their errors
Seeds = Callable[[Generator, int], Array]  # effects of variance 1


def normal(rng: Generator, Q: int) -> tuple[Array, Array]:
    return rng.normal(size=Q), np.full(Q, 0.5)


def error_dominates(rng: Generator, Q: int) -> tuple[Array, Array]:
    """Seeds that differ on every question far more than questions do, as in differences of similar methods."""
    return rng.normal(size=Q), np.full(Q, 3.0)


def lognormal(rng: Generator, Q: int) -> tuple[Array, Array]:
    """Shifted lognormal questions, skewness 6.2; the error grows with the question."""
    effect_Q = (rng.lognormal(size=Q) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    return effect_Q, 0.1 + 0.5 * np.abs(effect_Q)


def tail(rng: Generator, Q: int) -> tuple[Array, Array]:
    """Realistic scores: 92 % of the questions near 0, the others between 0 and -5; the error grows with them."""
    rate, mean, square = 0.08, -5 * 2 / 3, 25 * 0.5  # of -5 Beta(2, 1)
    raw_Q = np.where(rng.random(Q) < rate, -5 * rng.beta(2, 1, Q), 0.05 * rng.normal(size=Q))
    effect_Q = (raw_Q - rate * mean) / np.sqrt(rate * square + (1 - rate) * 0.05**2 - (rate * mean) ** 2)
    return effect_Q, 0.1 + 0.5 * np.abs(effect_Q)


def sparse(rng: Generator, Q: int) -> tuple[Array, Array]:
    """Two methods that differ on 2 % of the questions, by the same amount in both directions."""
    effect_Q = (rng.random(Q) < 0.02) * rng.choice([-1.0, 1.0], Q) / np.sqrt(0.02)
    return effect_Q, 0.1 * np.abs(effect_Q)


def clustered(rng: Generator, Q: int) -> tuple[Array, Array]:
    """Clusters of 10 questions with an intraclass correlation of 0.3, which intervals take for independent."""
    cluster_Q = rng.normal(size=-(-Q // 10)).repeat(10)[:Q]
    return np.sqrt(0.3) * cluster_Q + np.sqrt(0.7) * rng.normal(size=Q), np.full(Q, 0.5)


def lognormal_seeds(rng: Generator, S: int) -> Array:
    return np.asarray((rng.lognormal(size=S) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e))


def collapsing_seeds(rng: Generator, S: int) -> Array:
    """15 % of the seeds collapse; the others are close together."""
    raw_S = -(rng.random(S) < 0.15).astype(float) + 0.1 * rng.normal(size=S)
    return np.asarray((raw_S + 0.15) / np.sqrt(0.15 * 0.85 + 0.01))


def normal_seeds(rng: Generator, S: int) -> Array:
    return rng.normal(size=S)


WELL_BEHAVED: dict[str, tuple[Questions, Seeds]] = {
    "normal": (normal, normal_seeds),
    "error dominates": (error_dominates, normal_seeds),
    "lognormal questions": (lognormal, normal_seeds),
    "tail to -5": (tail, normal_seeds),
    "sparse": (sparse, normal_seeds),
}
BROKEN: dict[str, tuple[Questions, Seeds]] = {
    "lognormal seeds": (normal, lognormal_seeds),
    "15 % of the seeds collapse": (normal, collapsing_seeds),
    "questions in clusters": (clustered, normal_seeds),
}


def runs(
    rng: Generator, kinds: tuple[Questions, Seeds], S: int, R: int, Q: int, share: float
) -> list[dict[Draw, Array]]:
    """Two methods, a and b: questions and references act on their difference, seeds on each of them.

    Where the seeds are not normal, those of b do not differ: two methods of the same kind would hide the skewness.
    """
    effect_Q, error_Q = kinds[0](rng, Q)
    variance = share / (1 - share) / Q  # of the draws' part of the mean
    of_references = variance / 2 if R > 1 else 0.0
    reference_R = rng.normal(size=R) * np.sqrt(of_references * R)
    found = []
    for method in (1, 0):
        of_seeds = (variance - of_references) * S * (0.5 if kinds[1] is normal_seeds else method)
        seed_S = kinds[1](rng, S) * np.sqrt(of_seeds)
        error_SQ = error_Q * rng.normal(size=(S, Q)) / np.sqrt(2)
        base = [method * (effect_Q + reference_R[s % R]) + seed_S[s] + error_SQ[s] for s in range(S)]
        found.append({Draw(s % R, s): value_Q for s, value_Q in enumerate(base)})
    return found


def coverage(kinds: tuple[Questions, Seeds], S: int, R: int, share: float, options: argparse.Namespace) -> Array:
    """(coverage, half length over the true sd)."""
    rng = np.random.default_rng([options.seed, S, R, int(1000 * share)])
    hits, halves, estimates = 0, [], []
    for _ in range(options.repeats):
        a, b = runs(rng, kinds, S, R, options.questions, share)
        spread = estimate_variance([(1.0, a), (-1.0, b)])
        assert spread is not None
        halves.append(spread.half())
        estimates.append(spread.estimate)
        hits += abs(spread.estimate) <= halves[-1]
    return np.array([hits / options.repeats, np.mean(halves) / np.std(estimates)])


def equal_pair(rng: Generator, S: int, R: int, options: argparse.Namespace) -> tuple[PairComparison, PairComparison]:
    """Two equal methods of about 0.8 of gold accuracy, at two values of beta; `a` does not depend on beta."""
    effect_Q, shift_R = rng.normal(size=options.questions), 0.3 * rng.normal(size=R)

    def method() -> dict[Draw, Array]:
        logit_SQ = 1.8 + effect_Q + shift_R[np.arange(S) % R, None] + 0.3 * rng.normal(size=(S, 1))
        right_SQ = (logit_SQ + rng.normal(size=(S, options.questions)) > 0).astype(float)
        return {Draw(s % R, s): right_Q for s, right_Q in enumerate(right_SQ)}

    a = method()
    pairs = [compare_pair(("a", a), ("b", method()), 0.02) for _ in range(2)]
    assert pairs[0] is not None and pairs[1] is not None
    return pairs[0], pairs[1]


def false_alarms(S: int, R: int, options: argparse.Namespace) -> float:
    """Share of comparisons of equal methods whose headline, at two betas, calls one ahead."""
    rng = np.random.default_rng([options.seed, S, R])
    alarms = [any(p.verdict == "ahead" for p in holm(equal_pair(rng, S, R, options))) for _ in range(options.grids)]
    return float(np.mean(alarms))


def one_by_one(options: argparse.Namespace) -> float:
    """The same if seeds are added, 3 to 10, until a method is ahead: no test is meant for that."""
    alarms = 0
    for repeat in range(options.grids):
        found = False
        for S in range(3, 11):
            rng = np.random.default_rng([options.seed, repeat])
            effect_Q = rng.normal(size=options.questions)
            a_SQ, b_SQ = (effect_Q + rng.normal(size=(10, 1)) + rng.normal(size=(10, options.questions)) for _ in "ab")
            a, b = ({Draw(0, s): value_SQ[s] for s in range(S)} for value_SQ in (a_SQ, b_SQ))
            pair = compare_pair(("a", a), ("b", b), 0.0)
            found = found or (pair is not None and pair.verdict == "ahead")
        alarms += found
    return alarms / options.grids


def power(summary: Path, repeats: int) -> None:
    """How often the primary pairs would be called ahead if they differed by 0.05, given their own variances."""
    from scipy.stats import norm

    for row in json.loads(summary.read_text(encoding="utf-8"))["pairs"]:
        if row["primary"]:
            half = (row["high"] - row["low"]) / 2
            deviation = (row["detectable"] - half) / norm.ppf(0.8)
            draws: NDArray[np.float64] = np.random.default_rng(0).normal(0.05, deviation, repeats)
            share = float((np.abs(draws) > half).mean())
            print(
                f"{row['a']} against {row['b']}, beta {row['beta']:g}: 0.05 of {row['metric']} detected in {share:.3f}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=2_000, help="samples of each row")
    parser.add_argument("--grids", type=int, default=1_000, help="comparisons of equal methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--power", type=Path, help="summary.json of a comparison; nothing else is done")
    options = parser.parse_args()
    if options.power:
        power(options.power, options.repeats)
        return 0
    print("| difference | draws' share | S | R | coverage | MC error | length |\n|---|---|--:|--:|--:|--:|--:|")
    outside = 0
    for name, kinds in {**WELL_BEHAVED, **BROKEN}.items():
        for regime, share in SHARES.items():
            for S, R in DESIGNS:
                covered, length = coverage(kinds, S, R, share, options)
                error = np.sqrt(covered * (1 - covered) / options.repeats)
                outside += name in WELL_BEHAVED and not LOWEST - 2 * error <= covered <= HIGHEST + 2 * error
                row = (name, f"{share:.0%}, {regime}", S, R, f"{covered:.3f}", f"{error:.3f}", f"{length:.2f}")
                print(f"| {' | '.join(map(str, row))} |", flush=True)
    print(f"\n{outside} well-behaved rows outside {LOWEST} to {HIGHEST}")
    worst = 0.0
    for S, R in DESIGNS:
        share = false_alarms(S, R, options)
        worst = max(worst, share)
        print(f"S {S}, R {R}: the headline calls one of two equal methods ahead in {share:.3f} of {options.grids}")
    print(f"seeds added one by one, 3 to 10, until one is ahead: {one_by_one(options):.3f}")
    return int(outside > 0 or worst > ALARMS)


if __name__ == "__main__":
    sys.exit(main())
