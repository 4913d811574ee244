"""What observed cells say of the others where a row sums to one, against plain loops; and what a budget buys then."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from eightball_ppo.config.graded import ScoreType
from eightball_ppo.functional import partial_rows
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.graders.budgeted_scores import BudgetedScores

seeds = st.integers(0, 10**6)


def made(seed: int, labels: int, rows: int = 12) -> tuple[Tensor, Tensor]:
    """Log-probabilities and observed cells, at most K - 1 of a row, as a budget leaves them."""
    generator = torch.Generator().manual_seed(seed)
    logp_NK = (3 * torch.randn(rows, labels, generator=generator)).log_softmax(-1)
    rank_NK = torch.rand(rows, labels, generator=generator).argsort(-1)
    return logp_NK, rank_NK < torch.randint(0, labels, (rows, 1), generator=generator)


@settings(max_examples=20)
@given(seeds, st.integers(2, 7))
def test_posterior_keeps_what_is_observed_and_shares_the_rest_by_the_prior(seed: int, labels: int) -> None:
    logp_NK, observed_NK = made(seed, labels)
    prior = [
        (sum(math.exp(logp_NK[n, k]) for n in range(12) if observed_NK[n, k]) + 1 / labels)
        / (sum(observed_NK[n, k].item() for n in range(12)) + 1)
        for k in range(labels)
    ]
    found_NK = partial_rows.posterior_logp_NK(logp_NK, observed_NK, partial_rows.label_prior_K(logp_NK, observed_NK))
    for n in range(12):
        seen = [k for k in range(labels) if observed_NK[n, k]]
        left = max(1 - sum(math.exp(logp_NK[n, k].item()) for k in seen), partial_rows.MIN_MASS)
        of_unseen = sum(prior[k] for k in range(labels) if k not in seen)
        for k in range(labels):
            expected = math.exp(logp_NK[n, k].item()) if k in seen else left * prior[k] / of_unseen
            assert math.exp(found_NK[n, k].item()) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@settings(max_examples=20)
@given(seeds, st.integers(2, 7))
def test_all_cells_but_one_give_the_row(seed: int, labels: int) -> None:
    logp_NK, _ = made(seed, labels)
    observed_NK = torch.ones_like(logp_NK, dtype=torch.bool)
    observed_NK[torch.arange(12), torch.arange(12) % labels] = False
    found_NK = partial_rows.posterior_logp_NK(logp_NK, observed_NK, torch.ones(labels))
    assert (found_NK.exp() - logp_NK.double().exp()).abs().max() < 2e-7


@settings(max_examples=20)
@given(seeds, st.integers(2, 7))
def test_favourite_is_known_if_and_only_if_no_rest_can_overtake_it(seed: int, labels: int) -> None:
    logp_NK, observed_NK = made(seed, labels)
    known_N = partial_rows.favourite_known_N(logp_NK, observed_NK)
    for n in range(12):
        seen = [math.exp(logp_NK[n, k].item()) for k in range(labels) if observed_NK[n, k]]
        left = max(1 - sum(seen), partial_rows.MIN_MASS)
        assert known_N[n] == (len(seen) >= labels - 1 or max(seen, default=0) > left)
    posterior_NK = partial_rows.posterior_logp_NK(logp_NK, observed_NK, torch.ones(labels))
    assert torch.equal(posterior_NK.argmax(1)[known_N], logp_NK.argmax(1)[known_N])


@settings(max_examples=20)
@given(seeds, st.integers(2, 7))
def test_cells_until_the_favourite_are_the_fewest(seed: int, labels: int) -> None:
    logp_NK, _ = made(seed, labels)
    cells_N = partial_rows.cells_until_favourite_N(logp_NK)
    first_NK = torch.arange(labels).expand(12, -1) < cells_N[:, None]
    assert partial_rows.favourite_known_N(logp_NK, first_NK).all()
    one_less_NK = torch.arange(labels).expand(12, -1) < (cells_N - 1)[:, None]
    assert not partial_rows.favourite_known_N(logp_NK, one_less_NK)[cells_N > 1].any() and cells_N.min() >= 1


def scores_of(seed: int, labels: int, budget: int, score_type: ScoreType = "log_prob") -> BudgetedScores:
    logp_NK, _ = made(seed, labels)
    return BudgetedScores(convert_scores(logp_NK, score_type), budget, seed, score_type, sums_to_one=True)


@settings(max_examples=20)
@given(seeds, st.integers(2, 7), st.integers(6, 90), st.booleans())
def test_favourites_that_are_bought_are_the_true_ones_within_the_budget(
    seed: int, labels: int, budget: int, complete: bool
) -> None:
    scores = scores_of(seed, labels, budget)
    rows = scores.buy_favourites(complete)
    assert scores.calls <= budget and scores.observed_NK.sum(1).max() <= max(1, labels - 1) and rows == sorted(rows)
    assert torch.equal(scores.known_logp_NK().argmax(1)[rows], scores.score_NK.argmax(1)[rows])
    if complete:
        assert scores.calls == min(budget, 12 * (labels - 1))
    elif scores.calls < budget:
        assert len(rows) == 12  # all are known, and no more is asked


@pytest.mark.parametrize("score_type", ["log_prob", "probability", "logit_margin"])
def test_sampled_answers_get_the_scores_that_observed_ones_leave(score_type: ScoreType) -> None:
    """By hand: of the first question 0.7 is observed, of the second nothing, of the third all but the last."""
    p_NK = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    scores = BudgetedScores(convert_scores(p_NK.log(), score_type), 3, 0, score_type, sums_to_one=True)
    rows_B, actions_B = torch.tensor([[0, 0], [2, 0], [2, 1], [2, 2], [0, 1], [0, 2], [1, 0]]).T
    found_B = scores(rows_B, actions_B)
    prior = [(0.9 + 1 / 3) / 3, (0.5 + 1 / 3) / 2, (1 / 3) / 1]
    rest = [0.3 * prior[k] / (prior[1] + prior[2]) for k in (1, 2)]
    p_B = torch.tensor([0.7, 0.2, 0.5, 0.3, *rest, prior[0] / sum(prior)])
    expected_B = {"log_prob": p_B.log(), "probability": p_B, "logit_margin": p_B.logit()}[score_type]
    torch.testing.assert_close(found_B, expected_B, atol=1e-5, rtol=1e-5)
    assert scores.calls == 3 and not scores.observed_NK[2, 2]


def test_the_last_label_of_a_question_is_never_asked() -> None:
    scores = scores_of(1, 3, 99)
    rows_B, actions_B = torch.arange(36) // 3, torch.arange(36) % 3
    found_B = scores(rows_B, actions_B)
    assert scores.calls == 24 and not scores.observed_NK[:, 2].any()
    torch.testing.assert_close(found_B, scores.score_NK.flatten(), atol=1e-3, rtol=1e-4)


def test_budget_buys_a_row_for_one_call_less_than_it_has_labels() -> None:
    scores = scores_of(3, 5, 11)
    rows = scores.buy_full_rows()
    assert len(rows) == 2 and scores.calls == 8 and scores.observed_NK.sum(1).unique().tolist() == [0, 4]
    torch.testing.assert_close(scores.known_score_NK()[rows], scores.score_NK[rows], atol=1e-3, rtol=1e-4)
    ratings = BudgetedScores(tiny.scores(12, 5), 11)
    assert len(ratings.buy_favourites(True)) == 2 and ratings.calls == 10


def test_resumed_budget_gives_the_same_scores() -> None:
    first, second = scores_of(5, 4, 9), scores_of(5, 4, 9)
    rows_B, actions_B = torch.randint(0, 12, (30,)), torch.randint(0, 4, (30,))
    first(rows_B[:7], actions_B[:7])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(rows_B, actions_B), second(rows_B, actions_B)) and second.calls == 9
