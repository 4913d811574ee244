"""Baselines of a comparison: logistic regressions on the labels that the grader likes best."""

from pathlib import Path

import numpy as np
import pytest
import torch
from short_methods import BASELINES, Make, loaded, train
from sklearn.linear_model import LogisticRegression

from eightball_ppo.errors import InputError
from eightball_ppo.methods import baselines
from eightball_ppo.models.frozen import with_features
from eightball_ppo.models.loading import load_classifier, new_frozen_classifier, predict_logits_NK, text_logits_NK
from eightball_ppo.models.tokenization import tokenize
from eightball_ppo.runtime.run import read_results


def test_a_regression_is_that_of_scikit_learn_mixed_with_one_uniform_answer() -> None:
    rng = np.random.default_rng(0)
    train_MF, other_NF, label_M = rng.normal(size=(40, 3)), rng.normal(size=(5, 3)), rng.integers(0, 2, 40) * 2
    logp_NK = baselines.log_probabilities_NK(train_MF, label_M, other_NF, 4)
    p_N2 = LogisticRegression(C=baselines.C, max_iter=2000).fit(train_MF, label_M).predict_proba(other_NF)
    expected_NK = np.zeros((5, 4))
    expected_NK[:, [0, 2]] = p_N2
    np.testing.assert_allclose(logp_NK.exp(), (40 * expected_NK + 0.25) / 41, atol=1e-6)
    one_NK = baselines.log_probabilities_NK(train_MF, 0 * label_M + 1, other_NF, 4)
    np.testing.assert_allclose(one_NK.exp(), np.tile([0.25, 40.25, 0.25, 0.25], (5, 1)) / 41, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", BASELINES)
def test_a_saved_baseline_answers_the_texts_of_its_run_and_others_as_the_reference(
    method: str, options: Make, no_figures: None
) -> None:
    config = options(method)
    directory = train(method, config)
    results, task = read_results(directory), loaded(config)
    assert results["grader_calls"] == 180 and results["fitted_questions"] == 60 and results["episodes"] == 0
    policy, tokenizer = load_classifier(str(directory), "run")
    label_N = task.grader_logp_NK["train"].argmax(-1)
    logits_NK = predict_logits_NK(policy, task.tokens["train"])
    assert (logits_NK.argmax(-1) == label_N).float().mean() > 0.9  # it was fitted to these
    heldout_NK = predict_logits_NK(policy, task.tokens["heldout"])
    agrees = (heldout_NK.argmax(-1) == task.grader_logp_NK["heldout"].argmax(-1)).float().mean()
    assert agrees > 0.4 and not torch.equal(heldout_NK, task.ref_logits_NK["heldout"])
    other = type(task.questions["train"])("others", ["A text that no split has, to be sure?"])
    torch.testing.assert_close(
        text_logits_NK(policy, tokenizer, other), text_logits_NK(task.classifier, tokenizer, other)
    )
    assert not list(Path(directory).rglob("*.pkl")) and not list(Path(directory).rglob("*.bin"))


@pytest.mark.slow
def test_under_a_budget_a_baseline_reads_no_grade_that_was_not_paid(
    options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fit(train, label_M, features, num_labels):
        seen.append(label_M)
        return torch.zeros(features.shape[0], num_labels)

    monkeypatch.setattr(baselines, "log_probabilities_NK", fit)
    results = read_results(train("bag_of_words", options("bag_of_words", grader_call_budget=30)))
    assert results["grader_calls"] == 30 and 15 <= results["fitted_questions"] < 30 == 30 * len(seen) / 2
    task = loaded(options("bag_of_words", grader_call_budget=30))
    rows = task.train_scores.buy_favourites(complete=False)
    assert seen[0].tolist() == task.grader_logp_NK["train"].argmax(-1)[rows].tolist()


def test_texts_without_a_word_are_refused_in_one_line(options: Make) -> None:
    task = loaded(options("bag_of_words"))
    object.__setattr__(task.questions["train"], "texts", ["?"] * 60)
    with pytest.raises(InputError, match="no question has a word for a bag of words; leave the method out"):
        baselines.fit(task, None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_frozen_linear_baseline_reads_the_mean_token_of_the_packaged_encoder(options: Make) -> None:
    task = loaded(options("frozen_linear"))
    encoder, tokenizer = new_frozen_classifier("minilm", "test", task.labels, 0)
    expected = with_features(encoder, tokenize(task.questions["heldout"], tokenizer, 32)).features_NH
    found = baselines._encoder_features(task)["heldout"]
    assert expected is not None and found.shape == (40, 384)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
