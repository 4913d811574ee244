"""Records and before/after tables."""

import pytest
import torch

from eightball_ppo.data import Questions
from eightball_ppo.evaluation import GradedSplit, before_after, describe, evaluate
from eightball_ppo.functional import objective
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["a", "b"])
QUESTIONS = Questions("q", ["one?", "two?"], [0, 1])
REFERENCE = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
SPLIT = GradedSplit(QUESTIONS, torch.tensor([[1.0, 0.0], [0.0, 2.0]]), REFERENCE)


def test_record_equals_hand_computed_numbers() -> None:
    policy = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).log()
    record = evaluate(policy, SPLIT, 0.5, LABELS)
    assert record["questions"] == 2
    assert record["expected_score"] == pytest.approx((0.8 + 0.8) / 2)
    # KL to uniform = log 2 - entropy: 0.1927 and 0.0201
    assert record["kl"] == pytest.approx((0.192745 + 0.020136) / 2, abs=1e-5)
    assert record["objective"] == pytest.approx(0.8 - 0.5 * record["kl"])
    assert record["gold_accuracy"] == 0.5 and record["gold_probability"] == pytest.approx(0.6)
    assert record["label_histogram"] == pytest.approx({"a": 0.7, "b": 0.3})
    assert record["greedy_histogram"] == {"a": 1.0, "b": 0.0}


def test_only_gold_labels_give_a_gold_accuracy() -> None:
    for label_ids, kind in ((None, None), ([0, 1], "label")):
        questions = Questions("q", ["one?", "two?"], label_ids, gold=False)
        record = describe(REFERENCE, REFERENCE, questions, LABELS)
        assert "gold_accuracy" not in record and "gold_probability" not in record and record["kl"] == 0
        assert ("label_accuracy" in record) == (kind is not None)


def test_optimum_fraction_is_zero_at_the_reference_and_one_at_the_optimum_for_any_beta() -> None:
    assert evaluate(REFERENCE, SPLIT, 0.5, LABELS)["optimum_fraction"] == 0
    for beta in (0.01, 1.0, 100.0, 1e4):  # in float32 the exact optimum measured 2.08 at beta 10,000
        optimum_NK = objective.optimum_logp_NK(REFERENCE.double(), SPLIT.score_NK.double(), beta)
        assert evaluate(optimum_NK, SPLIT, beta, LABELS)["optimum_fraction"] == pytest.approx(1, abs=1e-3)


def test_before_after_table_counts_fifty_samples_and_the_change() -> None:
    before, after = torch.zeros(2, 2), torch.tensor([[20.0, 0.0], [0.0, 0.0]])
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    table = before_after(SPLIT, before, after, LABELS, seed=0)
    assert torch.equal(torch.rand(3), expected)  # the global generator is not used
    assert table["question"].tolist() == ["one?", "two?"] and table["gold_label"].tolist() == ["a", "b"]
    assert (table["before_count_a"] + table["before_count_b"]).tolist() == [50, 50]
    assert table["after_count_a"][0] == 50 and table["change"].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert table.equals(before_after(SPLIT, before, after, LABELS, seed=0))
