"""Graders by their specs, the kinds of scores, and label maps."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import read_rows
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, GradeRequest, convert_scores
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import GraderSpec, check_graders, load_graders, parse_grader
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [row["question"] for row in read_rows("heldout")[:40]]


def load(config: GradeConfig, directory: Path, labels: LabelSet = LABELS) -> GradeSource:
    """The source that `config` names, with a new store."""
    return load_graders(config, labels, GradeStore(directory / "grades.sqlite3"), Budget())


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_score_kinds_by_their_formulas(labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp_NK = (3 * torch.randn(5, labels, generator=generator, dtype=torch.float64)).log_softmax(-1)
    p_NK = logp_NK.exp()
    assert torch.equal(convert_scores(logp_NK, "log_prob"), logp_NK)
    torch.testing.assert_close(convert_scores(logp_NK, "probability"), p_NK)
    torch.testing.assert_close(
        convert_scores(logp_NK, "logit_margin"), logp_NK - (1 - p_NK).log(), atol=1e-6, rtol=1e-6
    )


def test_logit_margin_is_finite_where_the_probability_rounds_to_one() -> None:
    logp_1K = torch.tensor([[40.0, 0.0, 0.0]]).log_softmax(-1)
    margin_1K = convert_scores(logp_1K, "logit_margin")
    assert torch.isfinite(margin_1K).all() and margin_1K[0, 0].item() == pytest.approx(40 - 0.6931, abs=1e-3)


def test_a_rule_gives_its_label_98_percent() -> None:
    grades: list[Grade] = []
    RuleGrader("No", LABELS).grade([GradeRequest("a"), GradeRequest("b")], grades.append, Budget())
    assert [grade.request.question for grade in grades] == ["a", "b"] and grades[0].status == "ok"
    assert [math.exp(score) for score in grades[1].scores] == pytest.approx([0.01, 0.98, 0.01])


def test_a_random_head_depends_on_its_seed_alone() -> None:
    first, again, other = (BertGrader.random_head(LABELS, seed) for seed in (0, 0, 1))
    logp_NK = first.logp_BK(QUESTIONS)
    assert torch.equal(logp_NK, again.logp_BK(QUESTIONS)) and first.fingerprint == again.fingerprint
    assert not torch.allclose(logp_NK, other.logp_BK(QUESTIONS)) and first.fingerprint != other.fingerprint
    torch.testing.assert_close(logp_NK.exp().sum(1), torch.ones(len(QUESTIONS)))


def test_reward_model_grades_do_not_depend_on_the_batch(reward_run: Path) -> None:
    grader = BertGrader.from_directory(str(reward_run))
    together_NK = grader.logp_BK(QUESTIONS)
    alone_NK = torch.cat([grader.logp_BK([question]) for question in QUESTIONS[:10]])
    torch.testing.assert_close(together_NK[:10], alone_NK, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        *[("bret", "unknown grader; did you mean bert?"), ("rule", "which label?")],
        ("optimist", "optimist is a prompt; pass --grader llm (or api) --grader_prompt optimist"),
        ("rule:Perhaps", "unknown label; known: ['Yes', 'No', 'Maybe']"),
        *[("random-head:x", "the seed must be a whole number"), ("bert:runs/reward", "--reward_model_path")],
        *[("llm:smol", "--grader_model"), ("noisy:0.3", "noisy:RATE:GRADER is needed")],
        *[("noisy:1.5:bert", "RATE from 0 to 1"), ("noisy:0.1:brt", "did you mean bert?")],
        *[("bert,", "unknown grader"), ("api", "which model? pass --grader_model")],
    ],
)
def test_bad_specs_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_graders(GradeConfig(grader=spec), LABELS)


def test_specs_are_parsed_to_names_arguments_and_noise() -> None:
    assert parse_grader("random-head:7") == [GraderSpec("random-head", "7")]
    assert parse_grader("bert,noisy:0.3:noisy:0.1:rule:No") == [
        GraderSpec("bert"),
        GraderSpec("rule", "No", (0.1, 0.3)),
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["Yes=Good", "No=Bad"], "'Maybe' is left out"),
        (["Yes=Good", "No=Good", "Maybe=Good"], "'Bad' is left out"),
        (["Yes=Fine"], "--grader_label_map Yes=Fine: GRADER_LABEL=LABEL is needed"),
        (["Yes"], "GRADER_LABEL=LABEL is needed"),
    ],
)
def test_incomplete_label_maps_are_refused(reward_run: Path, tmp_path: Path, entries: list[str], message: str) -> None:
    config = GradeConfig(reward_model_path=str(reward_run), grader_label_map=entries)
    with pytest.raises(InputError, match=re.escape(message)):
        load(config, tmp_path, LabelSet.of(["Good", "Bad"]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GradeConfig(grader="bert,rule:No", grader_weights=[1.0]), "1 given, --grader bert,rule:No names 2 graders"),
        (GradeConfig(grader="bert,rule:No", grader_weights=[1.0, 0.0]), "every weight must be above 0"),
        (GradeConfig(grader="rule:No", grader_label_map=["a=b"]), "--grader_label_map: is for grader bert"),
        (GradeConfig(grader="api", grader_model="m"), "which server? pass --grader_base_url"),
        (GradeConfig(grader="api", grader_model="m", grader_base_url="localhost:80"), "an address like http"),
        (GradeConfig(grader="api", grader_model="m", grader_base_url="http://h/v1?key=k"), "no query; keys go into"),
        (GradeConfig(grader="llm", grader_model="models/nowhere"), "--grader_model models/nowhere: no such directory"),
        (GradeConfig(grader="llm", grader_model="./nowhere"), "--grader_model ./nowhere: no such directory"),
        (GradeConfig(grader="llm", grader_model="m", grader_prompt="nowhere"), "--grader_prompt nowhere: neither a"),
        (GradeConfig(grader="llm", grader_model="m", grader_verbalizers=["Yes=a", "No=A"]), "'A'"),
        (GradeConfig(grader="llm", grader_model="m", grader_verbalizers=["Perhaps=a"]), "LABEL=word|word is needed"),
    ],
)
def test_bad_grader_options_are_refused_before_loading(config: GradeConfig, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_graders(config, LABELS)
