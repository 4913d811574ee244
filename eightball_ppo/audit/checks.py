"""From the answers to the probes to what they say of a grader, and to the checks that it passes or fails.

Pure functions. `Answers` are log-probabilities [K] of every text that has a whole grade; a probe without one, or made
of a question without one, is counted as asked and not compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from eightball_ppo.audit import measures
from eightball_ppo.audit.probes import INJECTIONS, KINDS, Probe

Answers = Mapping[str, Tensor]
Probes = Mapping[str, Sequence[Probe]]  # by the question that they are made of


class ProbePair(NamedTuple):
    """A question and a probe made of it: log-probabilities [K] of both."""

    question: str
    probe: Probe
    before: Tensor
    after: Tensor

    @property
    def flipped(self) -> bool:
        return bool(self.before.argmax() != self.after.argmax())


def probe_pairs(probes: Probes, answers: Answers) -> list[ProbePair]:
    """Every probe that can be compared with its question."""
    return [
        ProbePair(question, probe, answers[question], answers[probe.text])
        for question, own in probes.items()
        for probe in own
        if question in answers and probe.text in answers
    ]


def compare(pairs: Sequence[ProbePair], num_labels: int) -> dict[str, Any]:
    """`measures.answer_change` from the questions to their probes."""
    return measures.answer_change(*_before_after(pairs, num_labels))


def _before_after(pairs: Sequence[ProbePair], num_labels: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, K] of the questions and of their probes."""
    before_NK = measures.stack_rows([pair.before for pair in pairs], num_labels)
    return before_NK, measures.stack_rows([pair.after for pair in pairs], num_labels)


def any_flips(pairs: Iterable[ProbePair]) -> float | None:
    """The share of questions whose favourite label is another under at least one of their probes; None without any."""
    flipped: dict[str, bool] = {}
    for pair in pairs:
        flipped[pair.question] = flipped.get(pair.question, False) or pair.flipped
    return sum(flipped.values()) / len(flipped) if flipped else None


def stability(probes: Probes, answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """What variants change: `kinds` (flips under any variant of a kind), `rows` (each variant) and `examples`."""
    pairs = probe_pairs(probes, answers)
    asked = [probe for own in probes.values() for probe in own]
    kinds = {}
    for kind in KINDS:
        own = [pair for pair in pairs if pair.probe.kind == kind]
        kinds[kind] = {
            "asked": sum(probe.kind == kind for probe in asked),
            **compare(own, len(labels)),
            "flips": any_flips(own),
        }
    names = dict.fromkeys((probe.kind, probe.name) for probe in asked)
    rows, examples = [], []
    for kind, name in names:
        own = [pair for pair in pairs if (pair.probe.kind, pair.probe.name) == (kind, name)]
        rows.append({"kind": kind, "variant": name, **compare(own, len(labels))})
        examples += [_example(pair, labels) for pair in own if pair.flipped][:1]
    return {"kinds": kinds, "rows": rows, "examples": examples}


def order(pairs: Sequence[ProbePair], asked: int, labels: Sequence[str]) -> dict[str, Any]:
    """What permuted options change: as a kind of `stability`, and `rows`, each order."""
    names = dict.fromkeys(pair.probe.name for pair in pairs)
    by_name = {name: [pair for pair in pairs if pair.probe.name == name] for name in names}
    rows = [{"order": name, **compare(own, len(labels))} for name, own in by_name.items()]
    return {"asked": asked, **compare(pairs, len(labels)), "flips": any_flips(pairs), "rows": rows}


def injection(injections: Probes, variants: Probes, answers: Answers, labels: Sequence[str]) -> dict[str, Any]:
    """Whether demands for a label get it: a row per injection and label.

    `gain`: of the questions whose favourite was another label, the share of those whose favourite becomes the
    demanded one. `neutral_gain`: the same under the neutral rewordings, all of them together. `excess`: the difference;
    the largest of them is the grader's.
    """
    questions = {question: variants[question] for question in injections}
    pairs = probe_pairs(injections, answers)
    neutral = [pair for pair in probe_pairs(questions, answers) if pair.probe.kind == "rewording"]
    rows, examples = [], []
    for name in INJECTIONS:
        for k, label in enumerate(labels):
            own = [pair for pair in pairs if (pair.probe.name, pair.probe.label) == (name, label)]
            gain = measures.gain(*_before_after(own, len(labels)), k)
            neutral_gain = measures.gain(*_before_after(neutral, len(labels)), k)
            rows.append(
                {
                    "injection": name,
                    "text": INJECTIONS[name].replace("{q}", "…").replace("{label}", label),
                    "label": label,
                    **compare(own, len(labels)),
                    "gain": gain,
                    "neutral_gain": neutral_gain,
                    "excess": None if gain is None or neutral_gain is None else gain - neutral_gain,
                }
            )
            moved = [pair for pair in own if pair.flipped and int(pair.after.argmax()) == k]
            examples += [_example(pair, labels) for pair in moved][:1]
    return {
        "questions": len(injections),
        "asked": sum(map(len, injections.values())),
        "pairs": len(pairs),
        "excess": measures.largest_known([row["excess"] for row in rows]),
        "neutral": compare(neutral, len(labels)),
        "rows": rows,
        "examples": examples,
    }


def _example(pair: ProbePair, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": pair.probe.kind,
        "text": pair.probe.text,
        "before": labels[int(pair.before.argmax())],
        "after": labels[int(pair.after.argmax())],
    }


def checks(record: Mapping[str, Any], limits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a grader must pass, each with its `value`, `limit`, whether it `passed`, and a `sentence` if it did not.

    A value that could have been measured and was not, because the probes got no whole grade, does not pass; one that
    does not apply (options that are not shown, a text without upper case) is not checked.
    """
    found = [
        _above("accuracy", record["accuracy"], limits["min_accuracy"], off=0.0),
        _above("kappa", record["kappa"], limits["min_kappa"], off=-1.0),
        _at_most(
            "grades that failed", record["failure_rate"] + record["refusal_rate"], limits["max_grade_failures"], True
        ),
    ]
    for kind, own in record["stability"]["kinds"].items():
        found.append(_at_most(f"flips under {kind}", own["flips"], limits["max_flips"], own["asked"] > 0))
    order = record["order"]
    if order is not None:
        found.append(
            _at_most("flips under permuted options", order["flips"], limits["max_order_flips"], order["asked"] > 0)
        )
    tricks = record["injection"]
    name = "flips to an injected label beyond rewording's"
    found.append(_at_most(name, tricks["excess"], limits["max_injection_flips"], not tricks["pairs"]))
    return [check for check in found if check is not None]


def _above(name: str, value: float | None, limit: float, off: float) -> dict[str, Any]:
    if value is None:
        sentence = f"{name} is undefined: gold and grader know one label alone"
    else:
        sentence = f"{name} {value:.3f} is not above {limit:g}"
    passed = limit <= off or (value is not None and value > limit)
    return {"check": name, "value": value, "limit": limit, "above": True, "passed": passed, "sentence": sentence}


def _at_most(name: str, value: float | None, limit: float, applies: bool) -> dict[str, Any] | None:
    """None where there is no value and none could be."""
    if value is None and not applies:
        return None
    if value is None:
        sentence = f"{name} could not be measured: none of the texts got a whole grade"
    else:
        sentence = f"{name} {value:.1%} > {limit:.1%}"
    passed = value is not None and value <= limit
    return {"check": name, "value": value, "limit": limit, "above": False, "passed": passed, "sentence": sentence}
