"""The scripted judge is what the tests of graders rely on."""

import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

import pytest

from judge_server import FAULTS, JudgeServer

LABELS = ["Yes", "No", "Maybe"]
QUOTED = ['"Yes"', '"No"', "Maybe"]  # in prompts with quotes or without
CRITERIA = {label: f"the answer is {label}" for label in LABELS}


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        yield server


@pytest.fixture
def judge(server: JudgeServer) -> JudgeServer:
    server.reset()
    return server


def post(judge: JudgeServer, path: str, body: dict[str, Any], timeout: float = 5) -> Any:
    request = urllib.request.Request(judge.base_url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as reason:
        reason.close()
        raise


def ask(judge: JudgeServer, question: str, system: str = "Judge.", answer: str = "", **options: Any) -> Any:
    """The reply to the prompt about `question`, or about `answer` to it."""
    rest = f"Answer given: {answer}" if answer else f"Allowed answers: {', '.join(QUOTED)}"
    user = {"role": "user", "content": f"Question: {json.dumps(question)}\n{rest}"}
    messages = [{"role": "system", "content": system}, user]
    return post(judge, "/chat/completions", {"model": "judge", "messages": messages, "temperature": 0, **options})


def masses(reply: Any) -> dict[str, float]:
    top = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["token"]: math.exp(entry["logprob"]) for entry in top}


def label_masses(judge: JudgeServer, question: str, system: str = "Judge.") -> list[float]:
    mass = masses(ask(judge, question, system, logprobs=True, top_logprobs=20))
    return [mass[label] + mass[f" {label.lower()}"] for label in LABELS]


def choice(judge: JudgeServer, question: str, instructions: str = "Judge.") -> dict[str, Any]:
    asked = {"grade": {"type": "choice", "instructions": instructions, "criteria": CRITERIA}}
    body = {"model": "judge", "state": {"question": question}, "questions": asked}
    answers: dict[str, Any] = post(judge, "/systemone", body)["answers"]
    return answers


def test_probability_is_on_the_labels_and_on_one_other_token(judge: JudgeServer) -> None:
    mass = masses(ask(judge, 'Is it "so"?', logprobs=True, top_logprobs=20))
    assert len(mass) == 7 and math.fsum(mass.values()) == pytest.approx(1)
    assert mass[" the"] == pytest.approx(0.02) and mass["Yes"] == pytest.approx(9 * mass[" yes"])
    assert len(masses(ask(judge, "Is it so?", logprobs=True, top_logprobs=3))) == 3


def test_wishes_personas_and_both_endpoints_agree(judge: JudgeServer) -> None:
    judge.reset(wishes={"Is it so?": "No"})
    assert label_masses(judge, "Is it so?") == pytest.approx([0.98 * p for p in (0.075, 0.85, 0.075)])
    for question in ("Is it so?", "Does it rain?"):
        plain = label_masses(judge, question)
        for k, persona in enumerate(("You are an optimist.", "You are a pessimist.", "Do not commit yourself.")):
            moved = [6 * p if k == label else p for label, p in enumerate(plain)]
            moved = [0.98 * p / math.fsum(moved) for p in moved]
            assert label_masses(judge, question, persona) == pytest.approx(moved)
            p = choice(judge, question, persona)["grade"]["probabilities"]
            assert [0.98 * p[label] for label in LABELS] == pytest.approx(moved)


def test_ratings_follow_the_probabilities(judge: JudgeServer) -> None:
    judge.reset(wishes={"Is it so?": "No"})
    assert [ask(judge, "Is it so?", answer=a)["choices"][0]["message"]["content"] for a in LABELS] == ["2", "10", "2"]
    mass = masses(ask(judge, "Is it so?", answer="No", logprobs=True, top_logprobs=20))
    assert mass["10"] == pytest.approx(0.98 * 0.7) and math.fsum(mass.values()) == pytest.approx(1)


def test_schema_logprobs_and_usage_are_capabilities(judge: JudgeServer) -> None:
    judge.reset(wishes={"Is it so?": "Maybe"})
    form = {"type": "object", "properties": {"answer": {"type": "string", "enum": LABELS}}}
    schema = {"type": "json_schema", "json_schema": {"name": "grade", "schema": form}}
    reply = ask(judge, "Is it so?", response_format=schema, n=2)
    assert [c["message"]["content"] for c in reply["choices"]] == ['{"answer": "Maybe"}'] * 2
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + 2
    judge.reset(wishes={"Is it so?": "Maybe"}, schema=False, logprobs=False, usage=False)
    reply = ask(judge, "Is it so?", response_format=schema, logprobs=True, top_logprobs=20)
    assert reply["choices"][0]["message"]["content"] == "Maybe"
    assert reply["choices"][0]["logprobs"] is None and "usage" not in reply


def test_samples_differ_and_come_again(judge: JudgeServer) -> None:
    drawn = []
    for _ in range(2):
        judge.reset(sampled=True)
        replies = [ask(judge, "Is it so?", n=5, temperature=1) for _ in range(4)]
        drawn.append([[c["message"]["content"] for c in reply["choices"]] for reply in replies])
    assert drawn[0] == drawn[1] and len({label for reply in drawn[0] for label in reply}) > 1
    assert len({tuple(reply) for reply in drawn[0]}) > 1


def test_faults_come_so_often_for_each_question_then_stop(judge: JudgeServer) -> None:
    rules = [{"kind": "429", "match": "rain", "times": 2, "retry_after": 3}, {"kind": "wrong_label", "times": 1}]
    judge.reset(faults=rules)
    for question in ("Does it rain?", "Will it rain?"):
        for _ in range(2):
            with pytest.raises(urllib.error.HTTPError) as caught:
                ask(judge, question)
            assert caught.value.code == 429 and caught.value.headers["Retry-After"] == "3"
        assert ask(judge, question)["choices"][0]["message"]["content"] == "banana"
        assert ask(judge, question)["choices"][0]["message"]["content"] in LABELS
    stats = judge.stats()
    assert (stats["requests"], stats["answered"], stats["keys"]) == (8, 4, 0)
    assert stats["by_question"] == {"Does it rain?": 4, "Will it rain?": 4}


@pytest.mark.parametrize("kind", sorted(FAULTS - {"hang", "other_id", "other_key"}))
def test_faults_spoil_the_replies_of_both_endpoints(judge: JudgeServer, kind: str) -> None:
    def replies() -> Iterator[Any]:
        for asking in (
            lambda: ask(judge, "Is it so?", logprobs=True, top_logprobs=5),
            lambda: choice(judge, "Is it so?"),
        ):
            try:
                yield asking()
            except (OSError, ValueError, HTTPException) as reason:  # a status, what is no JSON, half of a reply
                yield type(reason)

    good = list(replies())
    judge.reset(faults=[{"kind": kind}])
    assert all(bad != fine for bad, fine in zip(replies(), good, strict=True))
    assert judge.stats()["requests"] == 2


def test_other_keys_ids_and_paths(judge: JudgeServer) -> None:
    body = {"state": {"question": "Is it so?"}, "questions": {"grade": {"criteria": CRITERIA}}}
    mine = {"X-Client-Request-Id": "mine", "Authorization": "Bearer x"}
    echoed = []
    for kind, key in (("other_key", "not_grade"), ("other_id", "grade")):
        judge.reset(faults=[{"kind": kind}])
        request = urllib.request.Request(judge.base_url + "/systemone", json.dumps(body).encode(), mine)
        with urllib.request.urlopen(request, timeout=5) as response:
            assert list(json.load(response)["answers"]) == [key]
            echoed.append(response.headers["X-Client-Request-Id"])
    assert echoed[0] == "mine" and echoed[1] not in ("mine", None)
    assert judge.stats()["keys"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post(judge, "/embeddings", {})


def test_a_judge_that_hangs_answers_nothing(judge: JudgeServer) -> None:
    judge.reset(faults=[{"kind": "hang", "times": 1}])
    with pytest.raises(TimeoutError):
        post(judge, "/systemone", {"state": {"question": "Is it so?"}, "questions": {}}, timeout=0.2)
    assert choice(judge, "Is it so?") and judge.stats()["answered"] == 1


def test_goes_down_and_comes_back(judge: JudgeServer) -> None:
    judge.reset(down_for={"after_requests": 1, "seconds": 0.2})
    ask(judge, "Is it so?")
    with pytest.raises(OSError):
        ask(judge, "Is it so?")
    time.sleep(0.4)
    ask(judge, "Is it so?")
    assert judge.stats()["answered"] == 2
