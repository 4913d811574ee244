"""Wrong grades by cell and by call: how many, which, the same for all methods, and what each ask costs."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from short_methods import Make, loaded, train
from torch import Tensor

from eightball_ppo.config.noise import LabelNoise
from eightball_ppo.errors import InputError
from eightball_ppo.functional.noise import occurrence_B
from eightball_ppo.graders.per_call_scores import NoisyAnswers, PerCallScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.run import read_results

LABELS = LabelSet.of(["Yes", "No", "Maybe", "Later"])
ROWS = 500
TEXTS = [f"Question {row}?" for row in range(ROWS)]
SCORE_NK = torch.arange(ROWS * 4, dtype=torch.float32).view(ROWS, 4)  # a score tells its cell


def answers(rate: float, seed: int = 0, labels: LabelSet = LABELS) -> NoisyAnswers:
    columns = labels.columns_in(LABELS)
    return NoisyAnswers(SCORE_NK[:, columns], rate, seed, TEXTS, labels, "judge:1")


@pytest.mark.parametrize(
    ("text", "noise", "name"),
    [
        ("0", (0.0, "row"), ""),
        (0.3, (0.3, "row"), "0.3"),
        ("0.3:row", (0.3, "row"), "0.3"),
        ("0.25:cell", (0.25, "cell"), "0.25:cell"),
        ("1:call", (1.0, "call"), "1:call"),
        ("0:call", (0.0, "row"), ""),
    ],
)
def test_noise_is_read_as_it_is_written(text: str | float, noise: tuple[float, str], name: str) -> None:
    parsed = LabelNoise.parse(text)
    assert parsed == noise and parsed.name == name and LabelNoise.parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["0.3:", "0.3:word", "half", "nan", "", "0.3:cell:1", True, None])
def test_other_noise_is_refused_in_one_line(text: Any) -> None:
    with pytest.raises(InputError, match=r"--label_noise .*: RATE or RATE:KIND is needed") as error:
        LabelNoise.parse(text)
    assert "\n" not in str(error.value)


@given(st.lists(st.integers(0, 5), max_size=30))
@settings(max_examples=30)
def test_occurrences_are_those_of_a_counter(cells: list[int]) -> None:
    seen: Counter[int] = Counter()
    expected = []
    for cell in cells:
        expected.append(seen[cell])
        seen[cell] += 1
    assert occurrence_B(torch.tensor(cells, dtype=torch.long)).tolist() == expected


def test_wrong_cells_have_the_rate_and_show_all_other_labels_alike() -> None:
    assert torch.equal(answers(0.0).shown_label_NK(), torch.arange(4).expand(ROWS, 4))
    shift_NK = (answers(0.3).shown_label_NK() - torch.arange(4)) % 4
    share = (shift_NK > 0).float().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / shift_NK.numel()) ** 0.5
    wrong = [(shift_NK == shift).sum().item() for shift in (1, 2, 3)]
    assert max(wrong) - min(wrong) < 4 * (2 * sum(wrong) / 3) ** 0.5
    together_N = (shift_NK > 0).sum(1)
    assert (together_N == 4).float().mean() < 0.03  # 0.3^4 = 0.008: cells of a question are independent
    assert not ((answers(1.0).shown_label_NK() - torch.arange(4)) % 4 == 0).any()


def test_a_draw_depends_on_the_seed_the_text_the_label_and_the_ask_alone() -> None:
    rows_B, actions_B = torch.tensor([3, 3, 7]), torch.tensor([1, 2, 1])
    first = answers(0.5)(rows_B, actions_B, torch.tensor([0, 5, 9]))
    turned = answers(0.5)(rows_B.flip(0), actions_B.flip(0), torch.tensor([9, 5, 0]))
    assert torch.equal(first, turned.flip(0))
    other = LabelSet.of(["Later", "Maybe", "Yes", "No"])
    columns = LABELS.columns_in(other)
    score_NK = SCORE_NK[:, other.columns_in(LABELS)].gather(1, answers(0.5, labels=other).shown_label_NK())
    assert torch.equal(score_NK[:, columns], SCORE_NK.gather(1, answers(0.5).shown_label_NK()))
    assert not torch.equal(answers(0.5).shown_label_NK(), answers(0.5, seed=1).shown_label_NK())


def asked(scores: PerCallScores, batch: list[tuple[int, int]]) -> Tensor:
    rows_B, actions_B = torch.tensor(batch).T
    return scores(rows_B, actions_B)


def test_an_answer_that_is_asked_twice_is_noised_twice_and_paid_twice() -> None:
    scores = PerCallScores(answers(0.5), ROWS, 4)
    batch = [(row, 2) for row in range(200)] * 2
    first_B, second_B = asked(scores, batch).split(200)
    assert scores.calls == 400 and (first_B != second_B).float().mean() > 0.3
    third_B = asked(scores, batch[:200])
    assert scores.calls == 600 and (third_B != first_B).any() and (third_B != second_B).any()
    expected_B = torch.stack([first_B, second_B, third_B]).mean(0)
    torch.testing.assert_close(scores.known_score_NK()[:200, 2], expected_B)
    one_by_one = PerCallScores(answers(0.5), ROWS, 4)
    assert torch.equal(
        torch.cat([asked(one_by_one, [cell]) for cell in batch[:250]]), torch.cat([first_B, second_B])[:250]
    )


def test_full_rows_are_asked_as_often_as_the_budget_allows_and_averaged() -> None:
    once, often, few = (PerCallScores(answers(0.3), ROWS, 4, budget) for budget in (None, 40 * ROWS * 4 + 7, 11))
    assert once.buy_full_rows() == often.buy_favourites(True) == list(range(ROWS))
    assert once.calls == 4 * ROWS and often.calls == 40 * ROWS * 4 + 4 and len(few.buy_full_rows()) == 2
    assert torch.equal(once.known_score_NK(), once.score_NK) and not torch.equal(once.score_NK, SCORE_NK)
    mean_NK = 0.7 * SCORE_NK + 0.1 * (SCORE_NK.sum(1, keepdim=True) - SCORE_NK)
    error_NK = often.known_score_NK() - mean_NK
    assert error_NK.abs().mean() < 0.2 < (once.known_score_NK() - mean_NK).abs().mean()
    with pytest.raises(InputError, match="--grader_call_budget 3: one question takes 4 calls"):
        PerCallScores(answers(0.3), ROWS, 4, 3).buy_full_rows()


def test_answers_beyond_the_budget_are_what_is_known() -> None:
    scores = PerCallScores(answers(0.0), ROWS, 4, budget=3)
    assert asked(scores, [(0, 1), (0, 1), (1, 3), (0, 1), (9, 0)]).tolist() == [1, 1, 7, 1, 3] and scores.calls == 3
    assert asked(scores, [(1, 3), (2, 2)]).tolist() == [7, 3] and scores.calls == 3


def test_resumed_scores_give_the_next_answers() -> None:
    batch = [(row % 9, row % 4) for row in range(60)]
    straight, first, second = (PerCallScores(answers(0.5), ROWS, 4, 100) for _ in range(3))
    whole = [asked(straight, batch) for _ in range(2)]
    assert torch.equal(asked(first, batch), whole[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(asked(second, batch), whole[1]) and second.calls == 100


def test_cell_noise_is_the_same_for_all_methods_and_results_use_the_clean_scores(options: Make) -> None:
    tasks = [loaded(options(method, label_noise="0.4:cell")) for method in ("exact", "ppo")]
    clean_NK = tasks[0].grader_logp_NK["train"]
    score_NK = tasks[0].train_scores.score_NK
    assert torch.equal(score_NK, tasks[1].train_scores.score_NK)
    assert torch.equal(tasks[0].graded("train").score_NK, clean_NK.double())
    wrong_NK = score_NK != clean_NK
    assert 0.25 < wrong_NK.float().mean() < 0.55 and len(wrong_NK.sum(1).unique()) == 4
    assert (score_NK.unsqueeze(2) == clean_NK.unsqueeze(1)).any(2).all()  # each shows a score of its question
    torch.testing.assert_close(tasks[0].noisy_logp_NK, score_NK.log_softmax(-1))
    assert not tasks[0].train_scores.sums_to_one
    other = loaded(options("exact", label_noise="0.4:cell", seed=1)).train_scores.score_NK
    assert not torch.equal(other, score_NK)


def test_soft_targets_are_the_mean_of_the_answers_that_were_paid(options: Make) -> None:
    from eightball_ppo.methods import distill

    task = loaded(options("distill_soft", label_noise="0.5:call", grader_call_budget=9 * 180))
    task.train_scores.buy_favourites(complete=True)
    assert task.train_scores.calls == 9 * 180
    expected_NK = task.train_scores.known_score_NK().softmax(-1)
    torch.testing.assert_close(distill.targets_NK(task), expected_NK)
    hard = distill.targets_NK(replace(task, config=options("distill", label_noise="0.5:call")))
    assert torch.equal(hard.argmax(1), expected_NK.argmax(1))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "grpo", "exact", "distill", "best_of_n"])
def test_every_method_trains_on_noise_per_call_and_counts_its_asks(
    method: str, options: Make, no_figures: None
) -> None:
    short = {"exact": {"num_train_epochs": 2}, "distill": {"num_train_epochs": 2}}.get(method, {})
    results = read_results(train(method, options(method, label_noise="0.3:call", **short)))
    assert (results["label_noise"], results["label_noise_kind"]) == (0.3, "call")
    assert results["grader_calls"] == (results["episodes"] or {"best_of_n": 300}.get(method, 180))


def test_noise_per_call_with_sampled_answers_is_refused_on_two_processes(
    options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = options("ppo", label_noise="0.3:call")
    with pytest.raises(InputError, match=r"--label_noise 0.3:call: with sampled answers on one process only"):
        train("ppo", config)
    assert not Path(config.output_dir).exists()
    with pytest.raises(InputError, match=r"--baseline exact: needs all grades, so no --label_noise 0.3:call"):
        options("ppo", label_noise="0.3:call", baseline="exact")
