"""Intervals, tests and sentences of a comparison of methods over seeds, references and questions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from eightball_ppo.comparison.wording import sentence
from eightball_ppo.functional.intervals import Array, Draw, Interval, Values, VarianceEstimate, estimate_variance
from eightball_ppo.functional.statistics import PairComparison, compare_pair, holm, reverse


def grid(
    S: int, Q: int, *, seeds: float, questions: float = 1.0, error: float = 0.5, mean: float = 0.0, rng: int = 0
) -> Array:
    """Normal values of S seeds x Q questions with these sds of the effects."""
    generator = np.random.default_rng(rng)
    effects = seeds * generator.normal(size=(S, 1)) + questions * generator.normal(size=Q)
    return mean + effects + error * generator.normal(size=(S, Q))


def draws(value_SQ: Array, references: int = 1) -> dict[Draw, Array]:
    """Seed s with reference s % references."""
    return {Draw(seed % references, seed): value_Q for seed, value_Q in enumerate(value_SQ)}


def mean_of(values: Values) -> VarianceEstimate:
    spread = estimate_variance([(1.0, values)])
    assert spread is not None
    return spread


def pair_of(a: Values, b: Values, margin: float = 0.02, bounds: Any = (-np.inf, np.inf)) -> PairComparison:
    pair = compare_pair(("a", a), ("b", b), margin, bounds)
    assert pair is not None
    return pair


def test_one_seed_gives_students_t_over_questions_and_no_verdict() -> None:
    value_Q = np.random.default_rng(0).lognormal(size=200)
    interval = mean_of({Draw(0, 7): value_Q}).interval()
    low, high = stats.ttest_1samp(value_Q, 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert (interval.seeds, interval.references, interval.questions) == (1, 1, 200)
    pair = pair_of({Draw(0, 0): value_Q}, draws(grid(3, 200, seeds=0.1)))
    assert (pair.verdict, pair.seeds_needed, pair.questions_needed) == (None, None, None)


@pytest.mark.parametrize("S", [2, 3, 10])
def test_where_seeds_dominate_one_method_has_students_t_over_seeds(S: int) -> None:
    value_SQ = grid(S, 50, seeds=100.0, questions=0.1, error=0.1, mean=3)
    interval = mean_of(draws(value_SQ)).interval()
    low, high = stats.ttest_1samp(value_SQ.mean(1), 0).confidence_interval()
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-3)


def test_where_seeds_dominate_a_difference_is_welchs_test_of_independent_samples() -> None:
    a_SQ, b_SQ = grid(5, 50, seeds=30.0, questions=0.0, error=0.1), grid(3, 50, seeds=100.0, questions=0.0, rng=1)
    pair, welch = pair_of(draws(a_SQ), draws(b_SQ)), stats.ttest_ind(a_SQ.mean(1), b_SQ.mean(1), equal_var=False)
    low, high = welch.confidence_interval()
    assert (pair.difference.low, pair.difference.high) == pytest.approx((low, high), rel=1e-3)
    assert pair.p_value == pytest.approx(welch.pvalue, rel=1e-3) and pair.difference.seeds == 3
    shuffled = {Draw(0, seed): a_SQ[(seed + 2) % 5] for seed in range(5)}  # a seed's number means nothing elsewhere
    assert pair_of(shuffled, draws(b_SQ)).p_value == pytest.approx(pair.p_value)


def test_the_length_of_a_difference_by_hand() -> None:
    """half^2 = t^2 V_error + t^2 (V_seeds - V_error) + t^2 (V_questions - V_error), each part by its definition."""
    a_SQ, b_SQ = grid(3, 40, seeds=0.3), grid(4, 40, seeds=0.2, rng=1)
    parts = [value_SQ.mean(1).var(ddof=1) / len(value_SQ) for value_SQ in (a_SQ, b_SQ)]
    dof = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    error = 0.0
    for value_SQ in (a_SQ, b_SQ):
        rest_SQ = value_SQ - value_SQ.mean(0) - value_SQ.mean(1, keepdims=True) + value_SQ.mean()
        error += (rest_SQ**2).sum() / ((len(value_SQ) - 1) * 39) / (len(value_SQ) * 40)
    questions = (a_SQ.mean(0) - b_SQ.mean(0)).var(ddof=1) / 40 - error
    t_seeds, t_questions, t_error = (stats.t.ppf(0.975, df) for df in (dof, 39, 39 * dof))
    square = t_seeds**2 * (sum(parts) - error) + t_questions**2 * questions + t_error**2 * error
    spread = estimate_variance([(1.0, draws(a_SQ)), (-1.0, draws(b_SQ))])
    assert spread is not None and spread.half() == pytest.approx(square**0.5)
    assert spread.estimate == pytest.approx(a_SQ.mean() - b_SQ.mean())


def test_references_are_a_random_factor_that_methods_share() -> None:
    """What references add to both methods leaves their difference alone, and makes each of them uncertain."""
    rng = np.random.default_rng(0)
    shift_R = 5 * rng.normal(size=3)
    a_SQ, b_SQ = (grid(9, 60, seeds=0.05, mean=mean, rng=i) for i, mean in ((1, 0.5), (1, 0.0)))
    moved = [v + shift_R[np.arange(9) % 3, None] for v in (a_SQ, b_SQ + 0.1 * rng.normal(size=(9, 60)))]
    alone, pair = mean_of(draws(moved[0], 3)), pair_of(draws(moved[0], 3), draws(moved[1], 3))
    reference_means = [moved[0][r::3].mean() for r in range(3)]
    low, high = stats.ttest_1samp(reference_means, 0).confidence_interval()
    assert (alone.interval().low, alone.interval().high) == pytest.approx((low, high), rel=0.05)
    assert pair.difference.high - pair.difference.low < 0.5 and pair.difference.references == 3
    assert pair.verdict == "ahead"
    moved[1] += 3 * rng.normal(size=(9, 1))
    each_its_own = pair_of(draws(moved[0], 9), draws(moved[1], 9))  # one seed for each reference: a paired t-test
    paired = stats.ttest_rel(moved[0].mean(1), moved[1].mean(1))
    assert each_its_own.p_value == pytest.approx(paired.pvalue, rel=1e-3)


def test_seeds_that_agree_by_chance_still_give_an_interval() -> None:
    """Equal counts of right answers, on other questions: neither seeds nor questions spread, but the error does."""
    interval = mean_of(draws(1.0 - np.eye(3).repeat(10, axis=1))).interval()
    assert interval.low < interval.estimate - 0.01 < interval.estimate + 0.01 < interval.high


def test_the_ends_of_an_interval_are_possible_values() -> None:
    right_SQ = np.ones((3, 40))
    right_SQ[0, 0] = 0
    assert mean_of(draws(right_SQ)).interval((0.0, 1.0)).high == 1.0
    pair = pair_of(draws(right_SQ), draws(1 - right_SQ), bounds=(-1.0, 1.0))
    assert pair.difference.high == 1.0 > pair.difference.estimate


@settings(max_examples=5, deadline=None)
@given(S=st.integers(2, 4), Q=st.integers(2, 30), shift=st.floats(-100, 100), rng=st.integers(0, 1000))
def test_a_method_without_spread_against_itself_and_a_shifted_copy(S: int, Q: int, shift: float, rng: int) -> None:
    value_SQ = np.repeat(grid(1, Q, seeds=1.0, rng=rng), S, axis=0)
    same, moved = pair_of(draws(value_SQ), draws(value_SQ)), pair_of(draws(value_SQ), draws(value_SQ + shift))
    assert (same.difference.estimate, same.difference.low, same.difference.high) == (0, 0, 0)
    assert (same.p_value, same.verdict) == (1, "equal")
    ends = (moved.difference.estimate, moved.difference.low, moved.difference.high)
    assert ends == pytest.approx((-shift,) * 3, abs=1e-9)
    assert moved.verdict == ("equal" if abs(shift) < 0.02 else "ahead")


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 5), st.integers(10, 60), st.floats(-1, 1), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 1000))
def test_p_is_below_5_percent_exactly_where_the_interval_excludes_0(
    S: int, Q: int, shift: float, seeds: float, rng: int
) -> None:
    a, b = draws(grid(S, Q, seeds=seeds, mean=shift, rng=rng)), draws(grid(S, Q, seeds=seeds, rng=rng + 1))
    pair, mirror = pair_of(a, b), pair_of(b, a)
    low, high = pair.difference.low, pair.difference.high
    assert low < pair.difference.estimate < high
    assert (pair.p_value < 0.05) == (not low <= 0 <= high)
    turned = reverse(mirror)
    assert (turned.a, turned.b, turned.p_value) == ("b", "a", pytest.approx(pair.p_value))
    assert (turned.difference.low, turned.difference.high) == pytest.approx((low, high))


def test_two_methods_are_equal_where_the_90_percent_interval_lies_within_the_margin() -> None:
    a, b = draws(grid(5, 400, seeds=0.01, error=0.1)), draws(grid(5, 400, seeds=0.01, error=0.1, rng=2))
    spread = estimate_variance([(1.0, a), (-1.0, b)])
    assert spread is not None
    half, distance = spread.half(0.1), abs(spread.estimate)
    assert pair_of(a, b, margin=distance + 1.01 * half).verdict == "equal"
    assert pair_of(a, b, margin=distance + 0.99 * half).verdict != "equal"
    assert pair_of(a, b, margin=0.0).p_equal > 0.5


def test_what_it_takes_to_decide_is_what_would_be_detected() -> None:
    """With that many seeds, or texts, a difference of the margin is 2.8 standard deviations."""
    a, b = draws(grid(5, 300, seeds=0.05, questions=0.1)), draws(grid(5, 300, seeds=0.05, questions=0.1, rng=1))
    pair, spread = pair_of(a, b, margin=0.05), estimate_variance([(1.0, a), (-1.0, b)])
    assert spread is not None and pair.seeds_needed is not None and pair.seeds_needed > 5
    scaled = spread.seeds * 5 / pair.seeds_needed + spread.questions
    assert (0.05 / scaled**0.5) == pytest.approx(1.96 + 0.8416, rel=0.03)
    assert pair_of(a, b, margin=0.001).seeds_needed is None  # the texts alone are too few for that
    assert pair.detectable == pytest.approx(spread.half() + 0.8416 * spread.deviation, rel=1e-3)


def test_holm_by_hand_and_over_joined_families() -> None:
    pair = pair_of(draws(grid(2, 60, seeds=0)), draws(grid(2, 60, seeds=0, rng=1)))
    made = [replace(pair, p_value=p, p_equal=1.0) for p in (0.01, 0.04, 0.03, 0.005)]
    assert [pair.p_holm for pair in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [pair.verdict for pair in holm(made)] == ["ahead", "undecided", "undecided", "ahead"]
    joined = holm([*made, *made])
    assert [pair.p_holm for pair in joined] == pytest.approx(
        multipletests([pair.p_value for pair in joined], method="holm")[1]
    )
    assert holm([]) == []


def test_methods_without_a_common_reference_cannot_be_compared() -> None:
    value_SQ = grid(2, 20, seeds=0.1)
    assert compare_pair(("a", {Draw(0, 0): value_SQ[0]}), ("b", {Draw(1, 1): value_SQ[1]}), 0.02) is None


def test_bad_arrays_are_refused() -> None:
    good = np.arange(5.0)
    for bad, message in (
        (np.array([0, 1, np.nan, 2, 3]), "1 values are not finite"),
        (good[:4], r"shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            pair_of({Draw(0, 4): good}, {Draw(0, 4): bad})
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        mean_of({Draw(0, 4): good[:1]})


AHEAD = "0.031 S (95 % interval 0.011 to 0.051"


@pytest.mark.parametrize(
    ("ends", "verdict", "higher_is_better", "words"),
    [
        ((0.0112, 0.0508), "ahead", True, f"PPO is ahead of SFT by {AHEAD}, Holm p 0.003)"),
        ((-0.0508, -0.0112), "ahead", True, f"SFT is ahead of PPO by {AHEAD}, Holm p 0.003)"),
        ((-5.08, -1.12), "ahead", False, "PPO is ahead of SFT by 3.1 S (95 % interval 1.1 to 5.1, Holm p 0.003)"),
        (
            *((-0.01, 0.018), "equal", True),
            "PPO and SFT are equal within 0.02 S (difference 0.004, 95 % interval -0.010 to 0.018, Holm p < 0.001)",
        ),
        (
            *((-0.02, 0.028), "undecided", True),
            "PPO against SFT: undecided in S (difference 0.004, 95 % interval -0.020 to 0.028; needs about 7 seeds / "
            "1,200 texts for 0.02, detects 0.033)",
        ),
        (
            *((-0.02, 0.028), None, True),
            "PPO minus SFT: 0.004 S (95 % interval -0.020 to 0.028 over texts; one seed says nothing about others)",
        ),
    ],
)
def test_the_sentence_about_a_pair(ends: tuple[float, float], verdict: Any, higher_is_better: bool, words: str) -> None:
    interval = Interval(sum(ends) / 2, *ends, 3, 1, 600)
    pair = PairComparison("ppo", "sft", interval, 0.001, 2e-4, 0.003, 2e-4, verdict, 0.0331, 7, 1200)
    names = {"ppo": "PPO", "sft": "SFT"}
    assert sentence(pair, names, "S", 0.02, higher_is_better=higher_is_better) == words


def test_a_pair_that_neither_seeds_nor_texts_alone_decide_says_so() -> None:
    pair = PairComparison("a", "b", Interval(0, -1, 1, 3, 1, 60), 1, 1, 1, 1, "undecided", 0.2, None, None)
    assert "; more seeds alone, or texts alone, are not enough for 0.02, detects 0.2)" in sentence(pair, {}, "S", 0.02)
    assert sentence(pair, {}, "S") == "a against b: undecided in S (difference 0.0, 95 % interval -1.0 to 1.0)"
