"""Labels are a set of names: their order changes no fingerprint, no stored grade, no audit and no score."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_sources import QUESTIONS, Scripted

from conftest import LABELS as NAMES
from conftest import read_rows, write_rows
from eightball_ppo.auditing import run as audit
from eightball_ppo.config.methods import DistillConfig
from eightball_ppo.config.stages import AuditConfig, GradeConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.derived import EnsembleSource, LabelNoiseSource, reorder
from eightball_ppo.graders.storage.sources import GradeSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import GradeTable, write_table
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.inputs import Inputs, load_splits
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.methods.task import load_task
from eightball_ppo.models.label_inference import in_model_order, with_labels
from eightball_ppo.models.loading import load_classifier

LABELS = LabelSet.of(NAMES)
OTHER = LabelSet.of(["Maybe", "Yes", "No"])
API: dict[str, Any] = {"grader": "api", "grader_model": "m", "grader_base_url": "http://h/v1", "api_mode": "schema"}
JUDGE = """
from pathlib import Path

def judge(texts, labels):
    with Path(__file__).with_suffix(".calls").open("a") as file:
        file.writelines(f"{text}\\n" for text in texts)
    return [[float(label == "Maybe") for label in labels] for _ in texts]
"""


def by_name(request: GradeRequest, labels: LabelSet) -> list[float]:
    """Log-probabilities that depend on question and label name alone."""
    values = [len(request.question) % 7 + sum(map(ord, name)) % 5 for name in labels.names]
    return torch.tensor(values, dtype=torch.float64).log_softmax(-1).tolist()


def scripted(labels: LabelSet) -> Scripted:
    return Scripted(lambda request: by_name(request, labels), labels=labels)


def behind(grader: Scripted, store: GradeStore) -> StoredGrader:
    return StoredGrader(grader, store, Budget(), 1.0, progress=False)


def test_graders_with_their_labels_in_another_order_share_stored_grades() -> None:
    store = GradeStore(":memory:")
    first = behind(scripted(LABELS), store)
    score_NK = first.fill(QUESTIONS).score_NK
    grader = scripted(OTHER)
    again = behind(grader, store).fill(QUESTIONS)
    assert not grader.requests and torch.equal(again.score_NK, score_NK[:, OTHER.columns_in(LABELS)])
    more = behind(grader, store).fill(["Another one?"])
    assert torch.equal(first.read(["Another one?"]).score_NK[:, OTHER.columns_in(LABELS)], more.score_NK)


def noisy_scores(source: GradeSource, labels: LabelSet) -> torch.Tensor:
    noisy = reorder(LabelNoiseSource(reorder(source, labels), 0.5, 3), labels)
    return noisy.read(QUESTIONS).score_NK[:, LABELS.columns_in(labels)]


def test_noise_ensembles_and_tables_give_a_label_the_same_score_in_any_order(tmp_path: Path) -> None:
    members = [behind(scripted(labels), GradeStore(":memory:")) for labels in (LABELS, OTHER)]
    for member in members:
        member.fill(QUESTIONS)
    mixed = EnsembleSource(members, [1.0, 2.0])
    assert torch.allclose(mixed.read(QUESTIONS).score_NK, members[0].read(QUESTIONS).score_NK)
    assert torch.equal(noisy_scores(members[0], LABELS), noisy_scores(members[0], OTHER))
    assert not torch.equal(noisy_scores(members[0], OTHER), members[0].read(QUESTIONS).score_NK)
    file = tmp_path / "grades.parquet"
    write_table(members[1], QUESTIONS, file)
    table = GradeTable(str(file), LABELS)
    assert torch.equal(reorder(table, LABELS).read(QUESTIONS).score_NK, members[0].read(QUESTIONS).score_NK)
    assert torch.equal(noisy_scores(table, LABELS), noisy_scores(table, OTHER))
    with pytest.raises(InputError, match=r"lacks \['Perhaps'\]"):
        reorder(table, LabelSet.of(["Yes", "No", "Perhaps"]))


@pytest.mark.parametrize("options", [API, {"grader": "rule:No"}, {"grader": "rule:No,rule:Yes"}])
def test_graders_by_name_have_one_fingerprint_for_every_order(options: dict[str, Any]) -> None:
    with GradeStore(":memory:") as store:
        sources = [load_graders(GradeConfig(**options), labels, store, Budget()) for labels in (LABELS, OTHER)]
    assert len({source.fingerprint for source in sources}) == 1
    assert [source.labels for source in sources] == [LABELS, OTHER]


def test_a_reward_model_with_the_names_in_another_order_grades(reward_run: Path, tmp_path: Path) -> None:
    config = GradeConfig(reward_model_path=str(reward_run))
    with GradeStore(tmp_path / "grades.sqlite3") as store:
        ours, other = (load_graders(config, labels, store, Budget()).fill(QUESTIONS[:3]) for labels in (LABELS, OTHER))
    assert torch.equal(other.score_NK, ours.score_NK[:, OTHER.columns_in(LABELS)])


def test_audit_and_distill_in_other_orders_share_grades_and_verdict(sft_run: Path, tmp_path: Path) -> None:
    rows = read_rows("heldout")[:12]
    write_rows(tmp_path / "gold.jsonl", rows)
    (tmp_path / "judge.py").write_text(JUDGE)
    shared: dict[str, Any] = {"grader": f"python:{tmp_path}/judge.py:judge", "disable_tqdm": True}
    shared["grade_store"] = str(tmp_path / "grades.sqlite3")
    questions: dict[str, Any] = {
        "gold_file": str(tmp_path / "gold.jsonl"),
        "audit_questions": 1,
        "labels": ["Maybe", "No", "Yes"],
    }
    audit.run(AuditConfig(output_dir=str(tmp_path / "audit"), **questions, **shared))
    calls = (tmp_path / "judge.calls").read_text()
    assert all(row["question"] in calls for row in rows)

    texts, gold = [row["question"] for row in rows], [LABELS.id_of(row["answer"]) for row in rows]
    given: dict[str, Any] = {"train": Questions("gold", texts[:6])}
    given["evaluation"] = Questions("gold", texts[6:], gold[6:])
    model = load_classifier(str(sft_run), "--sft_model_path")
    config = DistillConfig(
        output_dir=str(tmp_path / "run"), labels=["No", "Yes", "Maybe"], num_train_epochs=1, **shared
    )
    with pytest.raises(InputError, match="failed its audit"):
        run_method(config, model=model, **given)
    config = replace(in_model_order(config, LABELS), allow_weak_grader=True)
    inputs = Inputs(model, None, **given)
    assert load_task(config, load_splits(config, inputs), inputs).labels == LABELS
    assert (tmp_path / "judge.calls").read_text() == calls


def test_labels_that_are_given_follow_the_order_of_the_classifier(sft_run: Path) -> None:
    config = DistillConfig(sft_model_path=str(sft_run), labels=list(OTHER.names))
    assert with_labels(config).labels == list(NAMES)
    config.labels = ["Yes", "No"]
    assert with_labels(config).labels == ["Yes", "No"]  # and the check of names refuses them
