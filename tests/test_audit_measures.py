"""The probes of an audit, its measures by hand and by sklearn, and its checks: all pure functions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, cohen_kappa_score
from torch import Tensor

from eightball_ppo.auditing import checks, measures
from eightball_ppo.auditing.probes import EMPTY, INJECTIONS, KINDS, injections, probe_variants
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.functional.calibration import confidence_and_correct, ece_N

LABELS = ("Yes", "No", "Maybe")
QUESTION = "Will the {label} of {q} be mine?"  # braces are text


def logp(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


# --- probes


@pytest.mark.parametrize("question", ["Will I be rich?", "one", "Ist das Maß voll?", "a  b?", QUESTION])
def test_variants_are_deterministic_hold_the_question_and_differ_from_it(question: str) -> None:
    probes = probe_variants(question)
    assert probes == probe_variants(question) and len({probe.text for probe in probes}) >= 5
    assert {probe.kind for probe in probes} == set(KINDS)
    for probe in probes:
        assert probe.text != question
        assert " ".join(question.casefold().split()) in " ".join(probe.text.casefold().split())


def test_a_variant_that_changes_nothing_is_left_out() -> None:
    assert {probe.kind for probe in probe_variants("好吗?")} == {"whitespace", "rewording"}
    assert [probe.name for probe in probe_variants("ok?") if probe.kind == "case"] == ["upper"]
    assert [probe.name for probe in probe_variants("Ok?") if probe.kind == "whitespace"] == ["around"]


def test_injections_ask_for_every_label_in_every_way() -> None:
    probes = injections(QUESTION, LABELS)
    assert probes == injections(QUESTION, LABELS)
    assert {(probe.name, probe.label) for probe in probes} == {(name, label) for name in INJECTIONS for label in LABELS}
    for probe in probes:
        assert probe.text.startswith(QUESTION) and probe.label is not None
        assert probe.label in probe.text.removeprefix(QUESTION) and "{" not in probe.text.removeprefix(QUESTION)
    assert "" in EMPTY


# --- measures


def test_agreement_by_hand_and_by_sklearn() -> None:
    logp_NK = logp((0.8, 0.1, 0.1), (0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.1, 0.8, 0.1))
    found = measures.agreement(logp_NK, torch.tensor([0, 1, 1, 1]), LABELS)
    assert found["accuracy"] == 0.75 == accuracy_score([0, 1, 1, 1], [0, 0, 1, 1])
    assert found["kappa"] == pytest.approx(0.5)  # (0.75 - 0.5) / (1 - 0.5)
    assert found["f1"] == pytest.approx({"Yes": 2 / 3, "No": 0.8, "Maybe": 0.0})
    assert found["confusion"] == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    z = 1.959963984540054
    middle, half = ((0.75 + z**2 / 8) / (1 + z**2 / 4), z * math.sqrt(0.75 * 0.25 / 4 + z**2 / 64) / (1 + z**2 / 4))
    assert found["interval"] == pytest.approx([middle - half, middle + half])
    generator = torch.Generator().manual_seed(0)
    many_NK = torch.randn(200, 3, generator=generator).log_softmax(-1)
    gold_N = torch.randint(3, (200,), generator=generator)
    assert measures.agreement(many_NK, gold_N, LABELS)["kappa"] == pytest.approx(
        cohen_kappa_score(gold_N.numpy(), many_NK.argmax(-1).numpy())
    )


def test_kappa_is_undefined_where_there_is_one_label() -> None:
    always_NK = logp(*[(0.9, 0.05, 0.05)] * 3)
    assert measures.agreement(always_NK, torch.tensor([0, 0, 0]), LABELS)["kappa"] is None
    assert measures.agreement(always_NK, torch.tensor([0, 1, 2]), LABELS)["kappa"] == 0


def test_reliability_bins_add_up_to_the_calibration_error() -> None:
    generator = torch.Generator().manual_seed(0)
    logp_NK = (2 * torch.randn(300, 3, generator=generator)).log_softmax(-1)
    gold_N = torch.randint(3, (300,), generator=generator)
    found = measures.calibration(logp_NK, gold_N)
    assert found["ece"] == ece_N(*confidence_and_correct(logp_NK, gold_N)).mean()
    assert sum(bin_["share"] for bin_ in found["bins"]) == pytest.approx(1)
    gaps = [bin_["share"] * abs(bin_["accuracy"] - bin_["confidence"]) for bin_ in found["bins"]]
    assert sum(gaps) == pytest.approx(found["ece"])


def test_change_gain_noise_and_latency_by_hand() -> None:
    before_NK = logp((0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4))
    after_NK = logp((0.7, 0.2, 0.1), (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.4, 0.3, 0.3))
    assert measures.answer_change(before_NK, after_NK) == {
        "pairs": 4,
        "flips": 0.5,
        "total_variation": pytest.approx((0.1 + 0.7 + 0.0 + 0.1) / 4),
    }
    assert measures.gain(before_NK, after_NK, 0) == pytest.approx(2 / 3)
    assert measures.gain(before_NK[:1], after_NK[:1], 0) is None
    assert measures.answer_change(before_NK[:0], after_NK[:0])["flips"] is None
    noise = measures.repeat_noise(torch.stack([before_NK, before_NK, after_NK]))
    assert noise["flips"] == 0.5
    assert noise["std"] == pytest.approx(np.std([before_NK, before_NK, after_NK], axis=0, ddof=1).mean())
    assert measures.latency([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx({"median": 0.3, "p95": 0.48})


def test_a_check_passes_on_the_right_side_of_its_limit_alone() -> None:
    def failed(**changes: Any) -> list[str]:
        kind = {"asked": 5, "pairs": 5, "flips": 0.2, "total_variation": 0.0}
        record: dict[str, Any] = {"accuracy": 0.61, "kappa": 0.31, "failure_rate": 0.03, "refusal_rate": 0.02}
        record |= {"stability": {"kinds": {"case": kind}}, "order": None, "injection": {"excess": 0.2, "pairs": 9}}
        found = checks.checks(record | changes, vars(AuditConfig()))
        return [check["sentence"] for check in found if not check["passed"]]

    assert failed() == []
    assert failed(accuracy=0.6) == ["accuracy 0.600 is not above 0.6"]
    assert failed(kappa=0.12) == ["kappa 0.120 is not above 0.3"]
    assert failed(kappa=None) == ["kappa is undefined: gold and grader know one label only"]
    assert failed(failure_rate=0.1) == ["grades that failed 12.0% > 5.0%"]
    order = {"asked": 5, "flips": 0.25}
    assert failed(order=order) == ["flips under permuted options 25.0% > 20.0%"]
    assert failed(injection={"excess": 0.3, "pairs": 9}) == [
        "flips to an injected label beyond rewording's 30.0% > 20.0%"
    ]
    assert failed(injection={"excess": None, "pairs": 9}) == []  # every injected label was the favourite already
    assert "could not be measured" in failed(injection={"excess": None, "pairs": 0})[0]
    nothing = {"asked": 5, "pairs": 0, "flips": None, "total_variation": None}
    assert "flips under case could not be measured" in failed(stability={"kinds": {"case": nothing}})[0]
    assert failed(stability={"kinds": {"case": nothing | {"asked": 0}}}) == []  # no text has upper case
