"""People as graders: who is drawn, what their votes are as scores, and that no one who grades is gold."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from packaged_files import RATINGS, TWEETS

from eightball_ppo.auditing import run as audit
from eightball_ppo.config.methods import ExactConfig, PPOConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig
from eightball_ppo.data import Questions, packaged
from eightball_ppo.data.packaged import ratings_by_text
from eightball_ppo.data.ratings import SENTIMENTS, sentiment, vote
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, GradeRequest
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.judges import as_grader
from eightball_ppo.graders.raters import Panel, RaterAnswers, RaterGrader, gold_of_others, vote_logp_BK
from eightball_ppo.graders.registry import check_graders, panels_of
from eightball_ppo.graders.training_scores import training_scores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.inputs import load_splits

LABELS = LabelSet.of(SENTIMENTS)
OTHER_ORDER = LabelSet.of(("positive", "negative", "neutral"))


def grades(panel: Panel, labels: LabelSet = LABELS, texts: list[str] | None = None) -> dict[str, Grade]:
    found: list[Grade] = []
    asked = list(ratings_by_text("tweets")) if texts is None else texts
    RaterGrader("tweets", panel, labels).grade(map(GradeRequest, asked), found.append, Budget())
    return {grade.request.question: grade for grade in found}


def test_a_vote_is_a_sign_and_a_class_a_mean_beyond_a_half() -> None:
    assert [SENTIMENTS[vote(rating)] for rating in (-4, -1, 0, 1, 4)] == [
        *["negative", "negative", "neutral"],
        *["positive", "positive"],
    ]
    means = {(-1, 0): "negative", (-1, 0, 0): "neutral", (0, 1, 0): "neutral", (0, 1): "positive", (4, -4): "neutral"}
    assert {ratings: SENTIMENTS[sentiment(ratings)] for ratings in means} == means


def test_a_panel_has_the_first_raters_of_one_order_of_the_text_and_the_seed() -> None:
    ratings = [0] * 15
    nine = {f"text {i}": Panel(9, 0).of(f"text {i}", ratings) for i in range(300)}
    assert all(len(set(drawn)) == 9 and Panel(3, 0).of(text, ratings) == drawn[:3] for text, drawn in nine.items())
    assert all(Panel(9, 1).of(text, ratings) != drawn for text, drawn in nine.items())
    first = Counter(drawn[0] for drawn in nine.values())
    assert len(first) == 15 and max(first.values()) < 40  # of 20 each


def test_votes_become_the_posterior_mean_and_ties_go_with_the_first_vote() -> None:
    p_BK = vote_logp_BK(torch.tensor([[2, 2, 0], [1, 0, 2], [0, 1, 2]]), 3).exp()
    torch.testing.assert_close(p_BK[0], torch.tensor([1.5, 0.5, 2.5], dtype=torch.float64) / 4.5, atol=1e-3, rtol=0)
    assert p_BK.argmax(1).tolist() == [2, 1, 0]
    torch.testing.assert_close(p_BK.sum(1), torch.ones(3, dtype=torch.float64))


def test_one_rater_gives_most_of_the_probability_to_what_he_or_she_voted_for(packaged_dir: Path) -> None:
    for text, grade in grades(Panel(1, 0)).items():
        ratings = ratings_by_text("tweets")[text]
        (rater,) = Panel(1, 0).of(text, ratings)
        others = math.log(0.5 / 2.501)
        expected = [others] * 3
        expected[vote(ratings[rater])] = math.log(1.501 / 2.501)
        assert grade.scores == pytest.approx(expected)


def test_scores_follow_the_order_of_the_labels_and_the_fingerprint_does_not(packaged_dir: Path) -> None:
    here, there = grades(Panel(3, 0)), grades(Panel(3, 0), OTHER_ORDER)
    columns = OTHER_ORDER.columns_in(LABELS)
    assert all(there[text].scores == tuple(here[text].scores[k] for k in columns) for text in here)
    fingerprint = RaterGrader("tweets", Panel(3, 0), LABELS).fingerprint
    assert RaterGrader("tweets", Panel(3, 0), OTHER_ORDER).fingerprint == fingerprint
    others = {RaterGrader("tweets", panel, LABELS).fingerprint for panel in (Panel(3, 1), Panel(2, 0))}
    for file in (packaged_dir / RATINGS, packaged_dir / TWEETS):
        file.write_text(re.sub("^5_1\t.*\n", "", file.read_text(encoding="utf-8-sig"), flags=re.MULTILINE))
    packaged._read.cache_clear()
    assert fingerprint not in others and len(others) == 2
    assert RaterGrader("tweets", Panel(3, 0), LABELS).fingerprint not in {fingerprint, *others}


def test_a_text_that_no_one_rated_is_a_failed_grade(packaged_dir: Path) -> None:
    (grade,) = grades(Panel(1, 0), texts=["Never seen"]).values()
    assert (grade.status, grade.detail, grade.scores) == ("failed", "no one rated this text", ())


@pytest.mark.parametrize("panels", [[Panel(1, 0)], [Panel(3, 0), Panel(1, 5)]])
def test_gold_is_the_class_of_those_raters_who_do_not_grade(packaged_dir: Path, panels: list[Panel]) -> None:
    texts, ratings = list(ratings_by_text("tweets")), ratings_by_text("tweets")
    of_all = [OTHER_ORDER.id_of(SENTIMENTS[sentiment(ratings[text])]) for text in texts]
    gold = gold_of_others(Questions("tweets", texts, of_all), "tweets", panels, OTHER_ORDER).label_ids
    assert gold is not None and gold != of_all
    for text, label in zip(texts, gold, strict=True):
        drawn = {rater for panel in panels for rater in panel.of(text, ratings[text])}
        rest = [ratings[text][rater] for rater in range(len(ratings[text])) if rater not in drawn]
        assert len(rest) < len(ratings[text]) and OTHER_ORDER.names[label] == SENTIMENTS[sentiment(rest)]


def test_a_run_is_measured_by_the_raters_who_do_not_grade_it(packaged_dir: Path) -> None:
    """Whether the grades are made in the run or come from a table; with another grader all raters are gold."""

    def gold(**options: Any) -> list[int]:
        config = ExactConfig(dataset_name="tweets", labels=list(SENTIMENTS), **options)
        label_ids = load_splits(config)["heldout"].label_ids
        assert label_ids is not None
        return label_ids

    by_all = gold(grader="rule:positive")
    rows = packaged.packaged_data("tweets").splits["heldout"]
    assert by_all == [SENTIMENTS.index(row.label) for row in rows]
    questions = Questions("heldout", [row.text for row in rows], by_all)
    for spec in ("rater:5:2", "noisy:0.1:rater:5:2"):
        assert gold(grader=spec) == gold_of_others(questions, "tweets", [Panel(5, 2)], LABELS).label_ids != by_all


def test_specs_name_the_size_of_the_panel_and_its_seed() -> None:
    assert panels_of("rater,rater:3,noisy:0.1:rater:5:7,rule:a") == [Panel(1, 0), Panel(3, 0), Panel(5, 7)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({"grader": spec}, f"--grader {spec}: rater, rater:RATERS, rater:RATERS:SEED")
            for spec in ("rater:0", "rater:x", "rater:1:")
        ],
        ({"grader": "rater:1:2:3"}, "--grader rater:1:2:3: rater, rater:RATERS, rater:RATERS:SEED, or"),
        ({"grader": "rater:8"}, "some texts of tweets have 8 raters, and one at least is needed .* draw at most 7"),
        (
            {"dataset_name": "trec6"},
            "--grader rater: --dataset_name trec6: is not rated by single people; these are: tw",
        ),
        ({"labels": ["good", "bad"]}, "labels differ: --labels has .* the raters of tweets has"),
    ],
)
def test_raters_that_cannot_grade_are_refused(packaged_dir: Path, options: dict[str, Any], message: str) -> None:
    config = GradeConfig(**{"grader": "rater", "dataset_name": "tweets", "labels": list(SENTIMENTS), **options})
    with pytest.raises(InputError, match=message):
        check_graders(config, config.label_set())


def test_an_audit_and_a_list_of_judges_refuse_raters(packaged_dir: Path) -> None:
    config = AuditConfig(grader="noisy:0.1:rater", dataset_name="tweets", labels=list(SENTIMENTS))
    with pytest.raises(InputError, match=r"--grader noisy:0\.1:rater: an audit words texts differently"):
        audit.run(config)
    with pytest.raises(InputError, match="judge rater: raters decide what is gold; name them alone"):
        as_grader(["rater", "rule:positive"], LABELS, config=config)


def asked(answers: RaterAnswers, cells: torch.Tensor, ask: int) -> torch.Tensor:
    return answers(cells[:, 0], cells[:, 1], torch.full((len(cells),), ask))


def test_raters_drawn_at_every_call_give_their_shares_on_average_and_differ_between_calls(packaged_dir: Path) -> None:
    texts = list(ratings_by_text("tweets"))[:4]
    answers = RaterAnswers(texts, "tweets", Panel(1, 0, True), OTHER_ORDER, "probability")
    cells = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    score_CB = torch.stack([asked(answers, cells, ask) for ask in range(2000)])
    votes = [[OTHER_ORDER.id_of(SENTIMENTS[vote(rating)]) for rating in ratings_by_text("tweets")[t]] for t in texts]
    low, high = 0.5 / 2.501, 1.501 / 2.501
    for row, of_text in enumerate(votes):
        for k in range(3):
            share = of_text.count(k) / len(of_text)
            found_C = score_CB[:, 3 * row + k]
            assert found_C.double().mean().item() == pytest.approx(share * high + (1 - share) * low, abs=0.03)
            assert len(found_C.unique()) == (2 if 0 < share < 1 else 1)


def test_an_answer_depends_on_the_text_the_label_the_ask_and_the_seed_alone(packaged_dir: Path) -> None:
    texts = list(ratings_by_text("tweets"))
    cells = torch.stack([torch.arange(len(texts)), torch.zeros(len(texts), dtype=torch.long)], 1)

    def answers(seed: int, order: LabelSet = LABELS) -> RaterAnswers:
        return RaterAnswers(texts, "tweets", Panel(3, seed, True), order, "log_prob")

    first_B = asked(answers(0), cells, 0)
    assert torch.equal(first_B, asked(answers(0), cells, 0))
    assert not torch.equal(first_B, asked(answers(0), cells, 1))
    assert not torch.equal(first_B, asked(answers(1), cells, 0))
    moved = torch.stack([cells[:, 0], torch.full((len(texts),), OTHER_ORDER.id_of(LABELS.names[0]))], 1)
    assert torch.equal(first_B, asked(answers(0, OTHER_ORDER), moved, 0))


def test_raters_of_every_call_have_the_votes_of_all_as_grade_and_the_class_of_all_as_gold(packaged_dir: Path) -> None:
    panel, text = Panel.parse("2:call", "rater:2:call"), next(iter(ratings_by_text("tweets")))
    assert panel == Panel(2, 0, True)
    ratings = ratings_by_text("tweets")[text]
    assert sorted(panel.of(text, ratings)) == list(range(len(ratings)))
    questions = Questions("tweets", [text], [0])
    gold = gold_of_others(questions, "tweets", [panel], LABELS).label_ids
    assert gold is not None and LABELS.names[gold[0]] == SENTIMENTS[sentiment(ratings)]


def test_ppo_pays_for_every_answer_of_raters_that_are_drawn_at_every_call(packaged_dir: Path) -> None:
    """Its options know it: one process, a value model, no other noise, no calibration."""
    raters: dict[str, Any] = {"grader": "rater:1:call", "dataset_name": "tweets", "labels": list(SENTIMENTS)}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"baseline": "exact"}, "--baseline exact: needs all grades, so no --grader rater:1:call"),
        ({"calibrate": True}, "--calibrate: needs grades that stay, not --grader rater:1:call"),
        ({"label_noise": "0.1"}, "--label_noise 0.1: --grader rater:1:call is noise already"),
    ]
    for options, message in refused:
        with pytest.raises(InputError, match=message):
            PPOConfig(**raters, **options)
    config = PPOConfig(**raters)
    logp_NK = torch.full((3, 3), 1 / 3).log()
    texts = list(ratings_by_text("tweets"))[:3]
    scores, _ = training_scores(config, logp_NK, 1.0, True, texts, config.label_set(), "f")
    rows_B, actions_B = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 2])
    scores(rows_B, actions_B)
    assert scores.calls == 4
    with pytest.raises(InputError, match="raters who are drawn at every call stand alone"):
        check_graders(PPOConfig(**raters | {"grader": "rater:1,rater:1:call"}), config.label_set())
