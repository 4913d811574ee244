"""Intervals, tests and sentences of a comparison of methods over seeds and questions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from eightball_ppo.comparison.wording import sentence
from eightball_ppo.functional.statistics import (
    Array,
    Interval,
    PairComparison,
    compare,
    crossed_spread,
    holm,
)

RESAMPLES = 500  # resamples, where their number does not matter


def grid(
    S: int, Q: int, *, seeds: float, questions: float = 1.0, error: float = 0.5, mean: float = 0.0, rng: int = 0
) -> Array:
    """Normal values of S seeds x Q questions with these sds of the effects."""
    generator = np.random.default_rng(rng)
    effects = seeds * generator.normal(size=(S, 1)) + questions * generator.normal(size=Q)
    return mean + effects + error * generator.normal(size=(S, Q))


def by_seed(value_SQ: Array) -> dict[int, Array]:
    return dict(enumerate(value_SQ))


def pair_of(a_SQ: Array, b_SQ: Array, resamples: int = RESAMPLES) -> PairComparison:
    return compare({"a": by_seed(a_SQ), "b": by_seed(b_SQ)}, resamples=resamples)[1][0]


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_one_seed_gives_the_bca_bootstrap_of_scipy_over_questions() -> None:
    value_Q = np.random.default_rng(0).lognormal(size=200)
    spread = crossed_spread(value_Q[None, None], np.eye(1), resamples=10_000, rng_seed=0)
    by_scipy = stats.bootstrap((value_Q,), np.mean, n_resamples=10_000, batch=1_000, method="BCa", rng=0)
    low, high = by_scipy.confidence_interval
    assert spread.bca_low_O[0] == pytest.approx(low) and spread.bca_high_O[0] == pytest.approx(high)
    # the reported one is longer by Student's t and by the n - 1 that the bootstrap lacks, no more
    interval = compare({"a": {7: value_Q}})[0]["a"]
    factor = stats.t.ppf(0.975, 199) / stats.norm.ppf(0.975) * value_Q.std(ddof=1) / 200**0.5
    factor /= by_scipy.standard_error
    assert interval.estimate == pytest.approx(value_Q.mean())
    assert interval.high - interval.estimate == pytest.approx(factor * (high - value_Q.mean()))
    assert (interval.seeds, interval.questions) == (1, 200)


@pytest.mark.parametrize("S", [2, 3, 5, 10])
def test_where_seeds_dominate_the_interval_is_that_of_students_t(S: int) -> None:
    value_SQ = grid(S, 50, seeds=100.0, questions=0.1, error=0.1, mean=3)
    interval = compare({"a": by_seed(value_SQ)})[0]["a"]
    mean_S = value_SQ.mean(1)
    half = stats.t.ppf(0.975, S - 1) * mean_S.std(ddof=1) / S**0.5
    assert interval.estimate == pytest.approx(mean_S.mean())
    assert interval.low < mean_S.mean() - 0.89 * half and interval.high > mean_S.mean() + 0.89 * half
    assert 0.89 < (interval.high - interval.low) / 2 / half < 1.25


def test_the_length_of_an_interval_by_hand() -> None:
    """half^2 = t(2)^2 MS_seed / SQ + t(Q-1)^2 (MS_question - MS_error) / SQ, the mean squares by their definition."""
    value_SQ = grid(3, 40, seeds=0.2)
    seed_S, question_Q, mean = value_SQ.mean(1), value_SQ.mean(0), value_SQ.mean()
    ms_seed = 40 * ((seed_S - mean) ** 2).sum() / 2
    ms_question = 3 * ((question_Q - mean) ** 2).sum() / 39
    ms_error = ((value_SQ - seed_S[:, None] - question_Q + mean) ** 2).sum() / 78
    spread = crossed_spread(value_SQ[None], np.eye(1), resamples=RESAMPLES, rng_seed=0)
    square = 4.302653**2 * ms_seed / 120 + 2.022691**2 * (ms_question - ms_error) / 120
    assert spread.half_O()[0] == pytest.approx(square**0.5, rel=1e-6)
    (low,), (high,) = spread.arms_2O()
    assert 0.9 <= low < 1.3 and 0.9 <= high < 1.3
    assert ends(spread.intervals()[0]) == pytest.approx((mean - low * square**0.5, mean + high * square**0.5))


def test_seeds_that_agree_by_chance_still_give_an_interval() -> None:
    """Equal counts of right answers, on other questions: neither seeds nor questions spread, but the error does."""
    right_SQ = 1.0 - np.eye(3).repeat(10, axis=1)
    interval = compare({"a": by_seed(right_SQ)})[0]["a"]
    assert interval.low < interval.estimate - 0.01 < interval.estimate + 0.01 < interval.high


@settings(max_examples=3, deadline=None)
@given(S=st.integers(1, 4), Q=st.integers(2, 30), shift=st.floats(-100, 100), rng=st.integers(0, 1000))
def test_a_method_against_itself_and_a_shifted_copy(S: int, Q: int, shift: float, rng: int) -> None:
    value_SQ = grid(S, Q, seeds=1.0, rng=rng)
    values = {"a": by_seed(value_SQ), "same": by_seed(value_SQ), "moved": by_seed(value_SQ + shift)}
    same, moved, _ = compare(values, resamples=RESAMPLES)[1]
    assert (same.difference.estimate, *ends(same.difference)) == (0, 0, 0)
    assert (same.p_value, same.p_holm, same.effect_size, same.distinguishable) == (1, 1, None, False)
    assert (moved.difference.estimate, *ends(moved.difference)) == pytest.approx((-shift,) * 3, abs=1e-9)
    assert moved.p_value == 0 or abs(shift) < 1e-9
    assert moved.effect_size is None


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 5), st.integers(10, 60), st.floats(-1, 1), st.sampled_from([0, 0.1, 1]), st.integers(0, 1000))
def test_p_is_below_5_percent_exactly_where_the_interval_excludes_0(
    S: int, Q: int, shift: float, seeds: float, rng: int
) -> None:
    a_SQ, b_SQ = grid(S, Q, seeds=seeds, mean=shift, rng=rng), grid(S, Q, seeds=seeds, rng=rng + 1)
    pair, same, mirror = compare({"a": by_seed(a_SQ), "b": by_seed(b_SQ), "A": by_seed(a_SQ)}, resamples=RESAMPLES)[1]
    low, high = ends(pair.difference)
    assert low < pair.difference.estimate < high
    assert (pair.p_value < 0.05) == (not low <= 0 <= high)
    assert pair.difference.estimate == pytest.approx((a_SQ - b_SQ).mean())
    mean_Q = (a_SQ - b_SQ).mean(0)
    assert pair.effect_size == pytest.approx(mean_Q.mean() / mean_Q.std(ddof=1))
    assert same.p_value == 1
    # not to the last digit: rounding decides whether a resample that is the data itself counts as below the estimate
    assert np.abs(np.add(ends(mirror.difference), (high, low))).max() < 0.02 * (high - low)
    assert mirror.p_value == pytest.approx(pair.p_value, rel=0.2)


def test_pairing_removes_shared_seed_and_question_effects() -> None:
    """Question and seed effects that both methods have do not blur their difference."""
    shared_SQ = grid(3, 300, seeds=1.0, questions=5.0)
    noise = np.random.default_rng(9).normal(size=(2, 3, 300)) * 0.1
    methods, (pair,) = compare({"a": by_seed(shared_SQ + 0.05 + noise[0]), "b": by_seed(shared_SQ + noise[1])})
    assert methods["a"].high - methods["a"].low > 1
    assert 0.03 < pair.difference.low < 0.05 < pair.difference.high < 0.08 and pair.distinguishable


def test_intervals_do_not_depend_on_the_other_methods() -> None:
    values = {name: by_seed(grid(3, 100, seeds=0.1, rng=i)) for i, name in enumerate("abc")}
    methods, pairs = compare(values, resamples=RESAMPLES)
    assert (methods, pairs) == compare(values, resamples=RESAMPLES)
    alone = compare({"a": values["a"]}, resamples=RESAMPLES)[0]["a"]
    assert ends(methods["a"]) == pytest.approx(ends(alone), rel=1e-9)
    assert ends(compare(values, resamples=RESAMPLES, rng_seed=1)[0]["a"]) != pytest.approx(ends(alone), rel=1e-9)
    assert [(pair.a, pair.b) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_pair_uses_the_seeds_that_both_methods_have() -> None:
    a_SQ, b_SQ, c_SQ = (grid(3, 80, seeds=0.1, rng=i) for i in range(3))
    values = {"a": by_seed(a_SQ), "b": {0: b_SQ[0], 2: b_SQ[2]}, "c": {1: c_SQ[1]}, "d": {}}
    methods, pairs = compare(values, resamples=RESAMPLES)
    assert {name: interval.seeds for name, interval in methods.items()} == {"a": 3, "b": 2, "c": 1}
    assert [(pair.a, pair.b, pair.difference.seeds) for pair in pairs] == [("a", "b", 2), ("a", "c", 1)]
    assert pairs[0].difference.estimate == pytest.approx((a_SQ[[0, 2]] - b_SQ[[0, 2]]).mean())
    assert pairs[1].difference.estimate == pytest.approx((a_SQ[1] - c_SQ[1]).mean())
    assert ends(pairs[0].difference) == pytest.approx(
        ends(pair_of(a_SQ[[0, 2]], b_SQ[[0, 2]], resamples=RESAMPLES).difference)
    )
    assert compare({}) == ({}, []) and compare({"d": {}}) == ({}, [])


def test_holm_by_hand_and_over_joined_families() -> None:
    values = {name: by_seed(grid(2, 60, seeds=0, mean=0.2 * i, rng=i)) for i, name in enumerate("abcd")}
    pairs = compare(values, resamples=RESAMPLES)[1]
    p_values = sorted(pair.p_value for pair in pairs)
    by_hand = np.minimum(np.maximum.accumulate([(6 - i) * p for i, p in enumerate(p_values)]), 1)
    assert sorted(pair.p_holm for pair in pairs) == pytest.approx(by_hand)
    assert all(pair.distinguishable == (pair.p_holm < 0.05) for pair in pairs)
    made = [replace(pairs[0], p_value=p) for p in (0.01, 0.04, 0.03, 0.005)]
    assert [pair.p_holm for pair in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [pair.distinguishable for pair in holm(made)] == [True, False, False, True]
    joined = holm([*pairs, *pairs])
    assert [pair.p_holm for pair in joined] == pytest.approx(
        multipletests([pair.p_value for pair in joined], method="holm")[1]
    )
    assert holm([]) == []


def test_ratio_of_means_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    most_Q = rng.lognormal(size=50)
    gain_MSQ = most_Q * (0.6 + 0.1 * rng.normal(size=(2, 3, 1)) + 0.3 * rng.normal(size=(2, 3, 50)))
    spread = crossed_spread(gain_MSQ, np.array([[1.0, 0.0], [1.0, -1.0]]), most_Q, resamples=4_000, rng_seed=0)
    assert spread.estimate_O[0] == pytest.approx(gain_MSQ[0].mean() / most_Q.mean())
    draws = []
    for _ in range(4_000):
        s, q = rng.integers(0, 3, 3), rng.integers(0, 50, 50)
        a, b = (gain_MSQ[m][np.ix_(s, q)].mean() / most_Q[q].mean() for m in (0, 1))
        draws.append((a, a - b))
    assert spread.bootstrap_error_O == pytest.approx(np.std(draws, axis=0), rel=0.05)
    # the delta method agrees with the bootstrap where questions rule, and the denominator's unit does not matter
    one, tenfold = (
        crossed_spread(unit * gain_MSQ[:1, :1], np.eye(1), unit * most_Q, resamples=4_000, rng_seed=0)
        for unit in (1, 10)
    )
    assert one.half_O()[0] == pytest.approx(2.01 * one.bootstrap_error_O[0], rel=0.1)
    assert ends(one.intervals()[0]) == pytest.approx(ends(tenfold.intervals()[0]))
    # a ratio whose numerator is a share of the denominator has no error, however the denominator spreads
    exact = compare({"a": by_seed(0.25 * np.stack([most_Q] * 3))}, denominator_Q=most_Q, resamples=RESAMPLES)[0]["a"]
    assert (exact.estimate, *ends(exact)) == pytest.approx((0.25,) * 3, abs=1e-12)
    assert exact.low == exact.high


def test_bad_arrays_are_refused_by_name() -> None:
    good, bad = np.arange(5.0), np.array([0, 1, np.nan, 2, 3])
    with pytest.raises(ValueError, match="b, seed 4: 1 values are not finite"):
        compare({"a": {4: good}, "b": {4: bad}})
    with pytest.raises(ValueError, match=r"b, seed 4: shape \(4,\)"):
        compare({"a": {4: good}, "b": {4: good[:4]}})
    with pytest.raises(ValueError, match=r"a, seed 4: shape \(1,\)"):
        compare({"a": {4: good[:1]}})
    with pytest.raises(ValueError, match="denominator_Q must be > 0, got 0"):
        compare({"a": {4: good}}, denominator_Q=0 * good)


AHEAD = "0.031 ± 0.020 S (95 % interval 0.011 to 0.051"
EQUAL = "PPO and SFT are not distinguishable in S"


@pytest.mark.parametrize(
    ("ends", "p_holm", "higher_is_better", "words"),
    [
        ((0.0112, 0.0508), 0.003, True, f"PPO is ahead of SFT by {AHEAD}, Holm p 0.003)"),
        ((-0.0508, -0.0112), 2e-4, True, f"SFT is ahead of PPO by {AHEAD}, Holm p < 0.001)"),
        ((-5.08, -1.12), 0.03, False, "PPO is ahead of SFT by 3.1 ± 2.0 S (95 % interval 1.1 to 5.1, Holm p 0.03)"),
        ((-0.01, 0.018), 1.0, True, f"{EQUAL} (difference 0.004, 95 % interval -0.010 to 0.018, Holm p 1)"),
    ],
)
def test_the_sentence_about_a_pair(
    ends: tuple[float, float], p_holm: float, higher_is_better: bool, words: str
) -> None:
    interval = Interval(sum(ends) / 2, *ends, 3, 600)
    pair = PairComparison("ppo", "sft", interval, p_holm / 3, p_holm, 0.1, p_holm < 0.05)
    assert sentence(pair, {"ppo": "PPO", "sft": "SFT"}, "S", higher_is_better=higher_is_better) == words
    assert " S at equal KL (" in sentence(pair, {}, "S", "at equal KL", higher_is_better=higher_is_better)
