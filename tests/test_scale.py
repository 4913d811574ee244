"""Many questions: few SQL statements, few bytes, and the same numbers with any chunk size."""

import gc
import math
import tracemalloc
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eightball_ppo import evaluation
from eightball_ppo.data import Questions, texts
from eightball_ppo.data.texts import ArrowTexts, first_occurrence_N
from eightball_ppo.evaluation import GradedSplit, before_after, evaluate
from eightball_ppo.functional import objective
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.graders.storage.score_table import missing_mass
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.methods import task as tasks
from eightball_ppo.models.tokenization import TokenTable

LABELS = LabelSet.of(EIGHTBALL_LABELS)
MANY = [f"Will parcel number {number} come?" for number in range(5000)]


class PaidRule(RuleGrader):
    """A rule whose calls cost, and that may break on the way."""

    free = False
    breaks_at: int | None = None

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        for number, request in enumerate(requests):
            if number == self.breaks_at:
                raise KeyboardInterrupt
            on_grade(Grade.from_scores(request, self._logp_K, missing=0.25 if number % 2 else 0.0))


def stored(grader: RuleGrader) -> StoredGrader:
    return StoredGrader(grader, GradeStore(":memory:"), Budget(), 1.0, progress=False)


def statements(source: StoredGrader, work: Callable[[], Any]) -> list[str]:
    """The first words of the SQL statements that `work` runs."""
    seen: list[str] = []
    source._store.register("nobody", {})  # opens the file
    assert source._store._connection is not None
    source._store._connection.set_trace_callback(lambda sql: seen.append(sql.split()[0]))
    work()
    source._store._connection.set_trace_callback(None)
    return seen


@given(st.lists(st.lists(st.text(max_size=2), max_size=4), max_size=4), st.slices(12))
def test_concatenated_texts_behave_as_one_list(parts: list[list[str]], cut: slice) -> None:
    expected = [text for part in parts for text in part]
    joined = ArrowTexts.concatenate(parts)
    assert list(joined) == expected and len(joined) == len(expected)
    assert [joined[row] for row in range(-len(expected), len(expected))] == expected * 2
    assert joined[cut] == expected[cut]
    with pytest.raises(IndexError):
        joined[len(expected)]


@given(st.lists(st.sampled_from(["a", "b", "aa", "bb", "cc", "ä", ""])), st.booleans())
def test_first_occurrences_are_found_despite_hash_collisions(drawn: list[str], collide: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if collide:
            patch.setattr(texts, "hash", len, raising=False)
        rows = np.flatnonzero(first_occurrence_N(drawn))
    assert [drawn[row] for row in rows] == list(dict.fromkeys(drawn))


def test_free_grades_are_committed_in_batches_and_paid_ones_singly() -> None:
    free, paid = stored(RuleGrader("Yes", LABELS)), stored(PaidRule("Yes", LABELS))
    seen = statements(free, lambda: free.fill(MANY * 2))
    assert seen.count("COMMIT") == math.ceil(len(MANY) / StoredGrader.WRITE_BATCH)
    assert "COMMIT" not in statements(paid, lambda: paid.fill(MANY))  # SQLite commits every statement by itself
    assert free.read(MANY).count == paid.read(MANY).count == {"ok": 15000, "failed": 0, "refused": 0, "skipped": 0}
    assert torch.equal(free.read(MANY[:9]).logp_NK, paid.read(MANY[:9]).logp_NK)


@pytest.mark.parametrize("kind", [RuleGrader, PaidRule])
def test_grades_made_before_a_grader_breaks_are_kept(kind: type[RuleGrader], monkeypatch: pytest.MonkeyPatch) -> None:
    source = stored(grader := PaidRule("Yes", LABELS))
    grader.free, grader.breaks_at = kind.free, 1500
    with pytest.raises(KeyboardInterrupt):
        source.fill(MANY)
    assert source.read(MANY).count["ok"] == 1500 * len(LABELS)


def test_reading_a_split_equals_reading_one_chunk() -> None:
    source = stored(PaidRule("Yes", LABELS))
    source.fill(MANY[:-3])
    split, chunk = source.read(MANY), source.read_chunk(MANY)
    assert (
        torch.equal(split.logp_NK.nan_to_num(9), chunk.logp_NK.nan_to_num(9)) and split.logp_NK.dtype == torch.float32
    )
    assert (
        np.array_equal(split.complete_N, chunk.complete_N) and split.count == chunk.count and split.calls == chunk.calls
    )
    assert split.num_ok == chunk.num_ok == len(MANY) - 3 and split.cells_NK is None
    assert missing_mass([split]) == {"mean": 0.25 * (chunk.num_ok // 2) / chunk.num_ok, "max": 0.25}
    assert missing_mass([source.read(MANY[-3:])]) is None


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that Python and numpy held while `work` ran; torch's tensors are not counted."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_filling_and_reading_take_few_bytes_a_question() -> None:
    """Apart from a chunk, which is as large for few questions."""
    few, many = [f"Question {i}?" for i in range(5000)], [f"Question {i}?" for i in range(15000)]
    source = stored(RuleGrader("Yes", LABELS))
    filled = [peak_bytes(lambda questions=questions: source.fill(questions)) for questions in (few, many)]  # type: ignore[misc]
    read = [peak_bytes(lambda questions=questions: source.read(questions)) for questions in (few, many)]  # type: ignore[misc]
    assert (filled[1] - filled[0]) / 10000 < 50
    assert (read[1] - read[0]) / 10000 < 10


def random_split(questions: int, seed: int = 0) -> tuple[GradedSplit, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ref, policy, score = (torch.randn(questions, len(LABELS), generator=generator).log_softmax(-1) for _ in range(3))
    gold = torch.randint(len(LABELS), (questions,), generator=generator).tolist()
    return GradedSplit(Questions("q", MANY[:questions], gold), score, ref), policy


def test_records_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    split, logp_NK = random_split(100)
    expected, reference = (evaluate(policy, split, 0.1, LABELS) for policy in (logp_NK, split.ref_logp_NK))
    distance_N = objective.frontier_distance_N(
        *(policy.double() for policy in (logp_NK, split.ref_logp_NK, split.score_NK))
    )
    assert expected["frontier_distance"] == pytest.approx(distance_N.mean().item(), rel=1e-6)
    table = before_after(split, split.ref_logp_NK, logp_NK, LABELS, seed=3)
    monkeypatch.setattr(evaluation, "EVAL_BATCH_SIZE", 7)
    for record, policy in ((expected, logp_NK), (reference, split.ref_logp_NK)):
        for name, value in evaluate(policy, split, 0.1, LABELS).items():
            assert value == pytest.approx(record[name], rel=1e-6, abs=1e-12), name
    assert table.equals(before_after(split, split.ref_logp_NK, logp_NK, LABELS, seed=3))


def test_metrics_of_many_training_questions_use_a_sample_independent_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_METRIC_QUESTIONS", 20)
    split, _ = random_split(60)

    def subset(rows: list[int]) -> Any:
        return tasks._metric_subset(
            SimpleNamespace(  # type: ignore[arg-type]
                questions={"train": split.questions.subset(rows)},
                grader_logp_NK={"train": split.score_NK[rows]},
                ref_logits_NK={"train": split.ref_logp_NK[rows]},
                tokens={"train": TokenTable.of([[len(split.questions.texts[row])] for row in rows])},
                config=SimpleNamespace(score_type="log_prob"),
            )
        )

    assert subset(list(range(20))) is None
    sample = subset(list(range(60)))
    chosen = [MANY.index(text) for text in sample.graded.questions.texts]
    assert len(chosen) == len(set(chosen)) == 20 == len(sample.tokens) and chosen != list(range(20))
    assert torch.equal(sample.graded.score_NK, split.score_NK[chosen].double())
    backwards = subset(list(range(60))[::-1])
    assert set(backwards.graded.questions.texts) == set(sample.graded.questions.texts)
