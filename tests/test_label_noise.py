"""Label noise and label maps over a grader, against numbers by hand."""

import math
from collections.abc import Sequence

import pytest
import torch
from test_sources import QUESTIONS, REFUSED, filled, logp, random_logp
from torch import Tensor

from conftest import cells
from eightball_ppo.graders.storage.derived import LabelMapSource, LabelNoiseSource
from eightball_ppo.graders.storage.score_table import OK, SKIPPED
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.labels import LabelSet

MANY = [f"Question {number}?" for number in range(2000)]


@pytest.fixture(scope="module")
def many() -> StoredGrader:
    return filled(random_logp, MANY)


def top_labels(source: LabelNoiseSource | StoredGrader, questions: Sequence[str] = MANY) -> Tensor:
    return source.read(questions).logp_NK.argmax(1)


def test_noise_of_rate_zero_is_the_grader_and_of_rate_one_never_agrees(many: StoredGrader) -> None:
    assert torch.equal(LabelNoiseSource(many, 0.0, 3).read(MANY).logp_NK, many.read(MANY).logp_NK)
    assert not (top_labels(LabelNoiseSource(many, 1.0, 3)) == top_labels(many)).any()


def test_noise_has_its_rate_and_moves_to_all_labels_evenly(many: StoredGrader) -> None:
    moved_N = (top_labels(LabelNoiseSource(many, 0.3, 0)) - top_labels(many)) % 3
    sigma = math.sqrt(0.3 * 0.7 / len(MANY))
    assert abs((moved_N != 0).double().mean().item() - 0.3) < 4 * sigma
    once, twice = int((moved_N == 1).sum()), int((moved_N == 2).sum())
    assert abs(once - twice) < 4 * math.sqrt(once + twice)


def test_noise_depends_on_the_seed_and_the_question_alone(many: StoredGrader) -> None:
    noisy = LabelNoiseSource(many, 0.3, 5)
    logp_NK = noisy.read(MANY).logp_NK
    assert torch.equal(noisy.read(MANY[::-1]).logp_NK, logp_NK.flip(0))
    assert torch.equal(noisy.read(MANY[100:110] * 2).logp_NK, logp_NK[100:110].repeat(2, 1))
    assert torch.equal(LabelNoiseSource(many, 0.3, 5).read(MANY).logp_NK, logp_NK)
    assert not torch.equal(LabelNoiseSource(many, 0.3, 6).read(MANY).logp_NK, logp_NK)
    assert torch.equal(logp_NK.sort(1).values, many.read(MANY).logp_NK.sort(1).values)  # the same scores, moved on
    assert LabelNoiseSource(many, 0.3, 5).fingerprint == "noisy:0.3:seed5(scripted)"


def test_noise_keeps_failed_grades_failed() -> None:
    inner = filled(
        lambda request: "refused" if request.question == QUESTIONS[2] else random_logp(request), QUESTIONS[:3]
    )
    grades = LabelNoiseSource(inner, 1.0, 0).read_chunk(QUESTIONS[:4])
    assert cells(grades, "status")[:, 0].tolist() == [OK, OK, REFUSED, SKIPPED]
    assert grades.logp_NK.isnan().any(1).tolist() == [False, False, True, True]
    assert grades.details == ("'Is it 2?': it refused",)


def test_a_label_map_adds_the_probabilities_of_labels_with_one_target() -> None:
    two = LabelSet.of(["Good", "Bad"])
    inner = filled(lambda _: logp(0.5, 0.2, 0.3), QUESTIONS[:2])
    grades = LabelMapSource(inner, [1, 0, 1], two).read_chunk(QUESTIONS[:3])
    assert grades.logp_NK[:2].exp().tolist() == [pytest.approx([0.2, 0.8])] * 2
    assert cells(grades, "score").shape == cells(grades, "status").shape == cells(grades, "graded_at").shape == (3, 2)
    assert grades.complete_N.tolist() == [True, True, False] and grades.logp_NK[2].isnan().all()
    swapped = LabelMapSource(inner, [1, 0, 2], LabelSet.of(["a", "b", "c"])).read(QUESTIONS[:1])
    assert swapped.logp_NK[0].exp().tolist() == pytest.approx([0.2, 0.5, 0.3])
    fingerprints = {LabelMapSource(inner, target, two).fingerprint for target in ([1, 0, 1], [0, 0, 1], [0, 1, 1])}
    assert "remapped:Yes=Bad,No=Good,Maybe=Bad(scripted)" in fingerprints and len(fingerprints) == 3


def test_a_label_map_keeps_tiny_probabilities_finite() -> None:
    inner = filled(lambda _: [0.0, -800.0, -801.0], QUESTIONS[:1])
    logp_NK = LabelMapSource(inner, [0, 1, 1], LabelSet.of(["Good", "Bad"])).read(QUESTIONS[:1]).logp_NK
    assert logp_NK[0].tolist() == pytest.approx([0.0, -800 + math.log1p(math.exp(-1))])
