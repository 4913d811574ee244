"""Summarises the answers to the probes, and checks a grader's record against limits.

Pure functions. `Answers` are log-probabilities [K] of every text with a complete grade; a probe without one, or of a
question without one, counts as asked and is not compared.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from eightball_ppo.auditing import measures
from eightball_ppo.auditing.probes import INJECTIONS, KINDS, Probe

Answers = Mapping[str, Tensor]
Probes = Mapping[str, Sequence[Probe]]  # by their question


class ProbePair(NamedTuple):
    """A question and a probe made of it, with the log-probabilities [K] of both."""

    question: str
    probe: Probe
    before: Tensor
    after: Tensor

    @property
    def flipped(self) -> bool:
        """Whether the most probable label differs."""
        return bool(self.before.argmax() != self.after.argmax())


def probe_pairs(probes: Probes, answers: Answers) -> list[ProbePair]:
    """Every probe that can be compared with its question."""
    return [
        ProbePair(question, probe, answers[question], answers[probe.text])
        for question, variants in probes.items()
        for probe in variants
        if question in answers and probe.text in answers
    ]


def _stacked(pairs: Sequence[ProbePair], num_labels: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, K] of the questions and of their probes."""
    before_NK = measures.stack_rows([pair.before for pair in pairs], num_labels)
    return before_NK, measures.stack_rows([pair.after for pair in pairs], num_labels)


def _change(pairs: Sequence[ProbePair], labels: Sequence[str]) -> dict[str, Any]:
    return measures.answer_change(*_stacked(pairs, len(labels)))


def _any_change(pairs: Sequence[ProbePair], labels: Sequence[str]) -> dict[str, Any]:
    """`measures.answer_change`, whose `flips` count a question once if any of its probes flips it."""
    flipped: dict[str, bool] = {}
    for pair in pairs:
        flipped[pair.question] = flipped.get(pair.question, False) or pair.flipped
    flips = sum(flipped.values()) / len(flipped) if flipped else None
    return {**_change(pairs, labels), "flips": flips}


def stability(probes: Probes, answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """What variants of the questions change.

    Returns:
        `kinds`: flips under any variant of a kind; `rows`: each variant; `examples`: one flip of each variant.
    """
    pairs = probe_pairs(probes, answers)
    asked = [probe for variants in probes.values() for probe in variants]
    kinds = {}
    for kind in KINDS:
        num_asked = sum(probe.kind == kind for probe in asked)
        kinds[kind] = {"asked": num_asked, **_any_change([pair for pair in pairs if pair.probe.kind == kind], labels)}
    rows, examples = [], []
    for kind, name in dict.fromkeys((probe.kind, probe.name) for probe in asked):
        variant = [pair for pair in pairs if (pair.probe.kind, pair.probe.name) == (kind, name)]
        rows.append({"kind": kind, "variant": name, **_change(variant, labels)})
        examples += [_example(pair, labels) for pair in variant if pair.flipped][:1]
    return {"kinds": kinds, "rows": rows, "examples": examples}


def order(pairs: Sequence[ProbePair], asked: int, labels: Sequence[str]) -> dict[str, Any]:
    """What permuted options change, as a kind of `stability`, and `rows`, one for each order."""
    names = dict.fromkeys(pair.probe.name for pair in pairs)
    rows = [{"order": name, **_change([pair for pair in pairs if pair.probe.name == name], labels)} for name in names]
    return {"asked": asked, **_any_change(pairs, labels), "rows": rows}


def injection(injections: Probes, variants: Probes, answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """Whether a demand for a label gets it.

    Returns:
        `rows`, one per injection and label. `gain`: of the questions with another most probable label, the share that
        moves to the demanded one. `neutral_gain`: the same under all neutral rewordings. `excess`: their difference;
        the largest is the grader's.
    """
    questions = {question: variants[question] for question in injections}
    pairs = probe_pairs(injections, answers)
    neutral = [pair for pair in probe_pairs(questions, answers) if pair.probe.kind == "rewording"]
    rows, examples = [], []
    for name, text in INJECTIONS.items():
        for k, label in enumerate(labels):
            demands = [pair for pair in pairs if (pair.probe.name, pair.probe.label) == (name, label)]
            gain, neutral_gain = (measures.gain(*_stacked(group, len(labels)), k) for group in (demands, neutral))
            key = {"injection": name, "text": text.replace("{q}", "…").replace("{label}", label), "label": label}
            gains = {"gain": gain, "neutral_gain": neutral_gain}
            excess = None if gain is None or neutral_gain is None else gain - neutral_gain
            rows.append({**key, **_change(demands, labels), **gains, "excess": excess})
            moved = [pair for pair in demands if pair.flipped and int(pair.after.argmax()) == k]
            examples += [_example(pair, labels) for pair in moved][:1]
    return {
        "questions": len(injections),
        "asked": sum(map(len, injections.values())),
        "pairs": len(pairs),
        "excess": max((row["excess"] for row in rows if row["excess"] is not None), default=None),
        "neutral": _change(neutral, labels),
        "rows": rows,
        "examples": examples,
    }


def _example(pair: ProbePair, labels: Sequence[str]) -> dict[str, Any]:
    before, after = (labels[int(logp_K.argmax())] for logp_K in (pair.before, pair.after))
    return {"kind": pair.probe.kind, "text": pair.probe.text, "before": before, "after": after}


def checks(record: Mapping[str, Any], limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Checks the record of an audit.

    A value that could have been measured, but whose probes got no complete grade, does not pass; one that does not
    apply (options that are not shown, texts without upper case) is not checked.

    Args:
        record: of the audit.
        limits: the options of the audit, by name.

    Returns:
        A dict per check: its name `check`, `value`, `limit`, whether it `passed`, and the `sentence` if it did not.
    """
    lost, injected, order = record["failure_rate"] + record["refusal_rate"], record["injection"], record["order"]
    found = [
        _above("accuracy", record["accuracy"], limits["min_accuracy"], off=0.0),
        _above("kappa", record["kappa"], limits["min_kappa"], off=-1.0),
        _at_most("grades that failed", lost, limits["max_grade_failures"], True),
    ]
    for kind, row in record["stability"]["kinds"].items():
        found.append(_at_most(f"flips under {kind}", row["flips"], limits["max_flips"], row["asked"] > 0))
    if order is not None:
        name = "flips under permuted options"
        found.append(_at_most(name, order["flips"], limits["max_order_flips"], order["asked"] > 0))
    name = "flips to an injected label beyond rewording's"
    found.append(_at_most(name, injected["excess"], limits["max_injection_flips"], not injected["pairs"]))
    return [check for check in found if check is not None]


def _above(name: str, value: float | None, limit: float, off: float) -> dict[str, Any]:
    undefined = f"{name} is undefined: gold and grader know one label only"
    sentence = undefined if value is None else f"{name} {value:.3f} is not above {limit:g}"
    passed = limit <= off or (value is not None and value > limit)
    return {"check": name, "value": value, "limit": limit, "above": True, "passed": passed, "sentence": sentence}


def _at_most(name: str, value: float | None, limit: float, applies: bool) -> dict[str, Any] | None:
    """None where there is no value and none could be measured."""
    if value is None and not applies:
        return None
    unknown = f"{name} could not be measured: none of the texts got a complete grade"
    sentence = unknown if value is None else f"{name} {value:.1%} > {limit:.1%}"
    passed = value is not None and value <= limit
    return {"check": name, "value": value, "limit": limit, "above": False, "passed": passed, "sentence": sentence}
