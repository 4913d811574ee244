"""Fuzzes judges' replies: every API mode must read a grade from a reply or give the reason for its failure.

OMP_NUM_THREADS=1 nice python benchmarks/fuzz_replies.py --seconds 300

An input is a server's reply: any JSON, or a chat completion (or a `/systemone` answer) with a part replaced. All four
modes parse it, for a label and for a rating. Valid results are K log-probabilities whose probabilities sum to one, a
rating from 1 to 10, or a BadReplyError with its reason. Anything else is a bug: the benchmark prints the smallest input
that shows it and exits with 1.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from eightball_ppo.graders.api.modes import MODES, SAMPLING, JudgeTask, choices_of, scores_of_verdicts
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, GradeRequest
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.verbalizers import parse_verbalizers
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

AT_ONCE = 500  # inputs sampled with one seed
LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers(["Maybe=Maybe|Perhaps"], LABELS)
JUDGED = {
    request: JudgeTask(Prompt.load(prompt, LABELS), LABELS, WORDS)
    for request, prompt in ((GradeRequest("Is it?"), "wanted_answer"), (GradeRequest("Is it?", "No"), "rubric"))
}

GOOD = ["Yes", "no", "Maybe", "Perhaps", "1", "10", "7", '{"answer": "Yes"}', '{"rating": 7}', "Rating: 7/10"]
FRAGMENTS = ["Yes", "May", "be", "1", "0", "/10", '"', "**", ".", " ", "\n", "{", "}", "[", '"answer":', "I'm sorry"]
FRAGMENTS += ["\u2019", "\ud800", "\x00", "\u0663"]
said = st.sampled_from(GOOD) | st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=5).map("".join)
odd_numbers = st.floats() | st.integers() | st.sampled_from([0.0, -0.0, 1e-3, -1e308, 10**400, -(10**400)])
logprobs = st.floats(-3, 0) | st.floats(-3, 0) | odd_numbers
anything = st.recursive(
    st.none() | st.booleans() | odd_numbers | said,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(said, inner, max_size=3),
    max_leaves=8,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`usual`, and sometimes any JSON."""
    return st.integers(0, 39).flatmap(lambda draw: usual if draw else anything)


def fields(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of which sometimes a field is any JSON or missing."""
    some = {name: mostly(strategy) for name, strategy in usual.items()}
    return st.integers(0, 19).flatmap(
        lambda draw: st.fixed_dictionaries(some) if draw else st.fixed_dictionaries({}, optional=some)
    )


tokens = fields(token=said, logprob=logprobs)
positions = fields(token=said, top_logprobs=st.lists(tokens, max_size=3))
choices = fields(
    message=fields(content=said, refusal=st.sampled_from([None, None, None, "I won't."])),
    finish_reason=st.sampled_from(["stop", "stop", "length", "content_filter"]),
    logprobs=fields(content=st.lists(positions, max_size=3)),
)
probabilities = st.sampled_from([LABELS.names, tuple(map(str, range(1, 11)))]).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from([1 / len(names)]) | odd_numbers for name in names})
)
answers = fields(answer=fields(probabilities=mostly(probabilities)))
replies = fields(choices=st.lists(choices, min_size=1, max_size=2)) | fields(answers=answers) | anything


def read(reply: dict[str, Any], tally: Counter[str]) -> None:
    """Reads `reply` in every mode and counts the results. Raises AssertionError for an invalid grade."""
    for request, judged in JUDGED.items():
        for name, mode in MODES.items():
            kind = f"{name}, {'label' if request.label is None else 'rating'}"
            try:
                if isinstance(mode, SAMPLING):
                    verdicts = [mode.verdict(judged, choice, request) for choice in choices_of(reply)]
                    scores = scores_of_verdicts(verdicts, judged, request, 1.0)
                else:
                    scores, missing = mode.read(judged, reply, request)
                    assert math.isfinite(missing), kind
            except BadReplyError as error:
                assert error.status in ("failed", "refused") and 0 < len(str(error)) <= MAX_DETAIL_LENGTH, kind
                tally[f"{kind}: {error.status}"] += 1
                continue
            if request.label is None:
                assert len(scores) == len(LABELS) and abs(math.fsum(map(math.exp, scores)) - 1) < 1e-9, (kind, scores)
            else:
                assert len(scores) == 1 and 1 - 1e-9 <= scores[0] <= 10 + 1e-9, (kind, scores)
            tally[f"{kind}: ok"] += 1


def fuzz(seconds: float, most: int, first_seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Samples inputs for `seconds`, at most `most`. Returns (results, exceptions with their inputs)."""
    tally: Counter[str] = Counter()
    failures: list[str] = []
    until, number = time.monotonic() + seconds, first_seed
    while time.monotonic() < until and tally["inputs"] < most:

        @seed(number)
        @settings(
            max_examples=min(AT_ONCE, most - tally["inputs"]),
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(replies.filter(lambda reply: isinstance(reply, dict)))
        def one(reply: dict[str, Any]) -> None:
            tally["inputs"] += 1
            read(as_sent(reply), tally)

        try:
            one()
        except Exception as error:
            failures.append(f"seed {number}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}")
        number += 1
    return tally, failures


def as_sent(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply as our client parses it: a number above 4,300 digits, for example, is no JSON there."""
    return dict(json.loads(json.dumps(reply)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first inputs")
    options = parser.parse_args(argv)
    tally, failures = fuzz(options.seconds, sys.maxsize, options.seed)
    inputs = tally.pop("inputs")
    for name, count in sorted(tally.items()):
        print(f"{name:<28} {count:>9,}")
    for failure in failures:
        print(failure)
    print(
        f"{inputs:,} replies in {options.seconds:g} s, read in {2 * len(MODES)} ways each: {len(failures)} exceptions"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
