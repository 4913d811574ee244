"""The demo without a browser: which runs it takes, what the ball answers, what the page is made of."""

import json
import math
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from eightball_ppo import predict
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.data import Questions
from eightball_ppo.demo import address, app, views
from eightball_ppo.demo.charts import round_ticks
from eightball_ppo.demo.session import (
    MAX_QUESTION_LENGTH,
    DemoSession,
    InvalidQuestion,
    beta_grid,
    beta_index,
    optimum,
    policy_point,
)
from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import GradedSplit, before_after, evaluate
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.models.loading import load_classifier, text_logits_NK
from eightball_ppo.runtime.run import write_config

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [
    "Will I be rich?",
    "Is it over?",
    "Will <b>she</b> ${call} {{me}}?",
    "Do I win?",
    "Tea or coffee?",
    "Am I late?",
]
NASTY = ["<script>alert(1)</script>?", "'; DROP TABLE runs; --", "🎱🔮 will it? 💸", "{{ 7*7 }} ${7*7}", "a\ud800b"]


def make_runs(root: Path, sft_run: Path) -> Path:
    """`root` with runs sft, reward, ppo and distill in it, small and made in a second."""
    shutil.copytree(sft_run, root / "sft")
    judge = BertGrader.random_head(LABELS, 1)
    judge.model.save_pretrained(root / "reward")
    judge.tokenizer.save_pretrained(root / "reward")
    for seed, method in enumerate(("ppo", "distill")):
        run = root / method
        shutil.copytree(sft_run, run)
        model = AutoModelForSequenceClassification.from_pretrained(run)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.4 * torch.randn_like(parameter))
        model.save_pretrained(run)
        sft, reward = str(root / "sft"), str(root / "reward")
        write_config(run, PPOConfig(output_dir=str(run), kl_coef=0.5, sft_model_path=sft, reward_model_path=reward))
        _write_records(run, root / "sft", judge, method)
    return root


def _write_records(run: Path, sft: Path, judge: BertGrader, method: str) -> None:
    heldout = Questions("held out", QUESTIONS, [0, 1, 2, 0, 2, 1])
    before_NK, after_NK = (text_logits_NK(*load_classifier(str(path), "--runs"), heldout) for path in (sft, run))
    graded = GradedSplit(heldout, judge.logp_BK(QUESTIONS).double(), before_NK.double().log_softmax(-1))
    before_after(graded, before_NK, after_NK, LABELS, 0).to_parquet(run / "before_after.parquet")
    own, reference = (evaluate(x.double().log_softmax(-1), graded, 0.5, LABELS) for x in (after_NK, before_NK))
    results = {"method": method, "seed": 0, "beta": 0.5, "episodes": 480 * (method == "ppo"), "grader_calls": 18}
    results |= {"splits": {"heldout": own}, "reference": {"heldout": reference}}
    (run / "results.json").write_text(json.dumps(results))
    rows: list[dict[str, Any]] = [{"stage": "other", "exact/kl": 9.0, "step": 1}]
    for step in range(1, 5):
        exact = {"exact/expected_score": -4.0 / step, "exact/kl": 0.1 * step, "exact/optimum_fraction": 0.2 * step}
        rows.append({"stage": method, "step": step, **exact} | ({"episode": 120 * step} if method == "ppo" else {}))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sft_run: Path) -> Path:
    return make_runs(tmp_path_factory.mktemp("demo") / "runs", sft_run)


@pytest.fixture(scope="module")
def ball(runs: Path) -> DemoSession:
    return DemoSession(DemoConfig(runs=[str(runs / "distill"), str(runs / "ppo")]))


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A run of one's own, to break."""
    return Path(shutil.copytree(runs / "ppo", tmp_path / "run"))


def changed(run: Path, **options: Any) -> DemoConfig:
    """A demo of `run` with other options in its config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | options))
    return DemoConfig(runs=[str(run)])


# --- what the ball says


@pytest.mark.parametrize("question", [*QUESTIONS, *NASTY[:4]])
def test_the_ball_says_what_predict_says(question: str, ball: DemoSession, runs: Path) -> None:
    answer = ball.ask(f"  {question} ")
    for policy, logp_K in zip(ball.all_policies, answer.logp_PK, strict=True):
        config = PredictConfig(question=question, model_name_or_path=str(policy.directory))
        asked, label, probability = predict.answers(config)[0]
        assert asked == answer.question
        assert logp_K.exp().tolist() == pytest.approx(list(probability.values()), abs=1e-6)
    assert ball.top_answer(answer) == (label, pytest.approx(probability[label], abs=1e-6))
    grader = BertGrader.from_directory(str(runs / "reward"))
    assert answer.grader_logp_K is not None
    torch.testing.assert_close(answer.grader_logp_K.float(), grader.logp_BK([question])[0])


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b", "\x00", None])
def test_no_question_is_no_crash(text: Any, ball: DemoSession) -> None:
    with pytest.raises(InvalidQuestion, match="needs a question"):
        ball.ask(text)


def test_a_question_may_be_long_but_not_without_end(ball: DemoSession) -> None:
    assert ball.ask("rich " * (MAX_QUESTION_LENGTH // 5)).truncated == ("sft", "distill", "ppo")
    assert ball.ask("Will I be rich?").truncated == ()
    with pytest.raises(InvalidQuestion, match="100,000 characters"):
        ball.ask("x" * 100_000)
    assert ball.ask(NASTY[4]).question == "a?b"


def test_twenty_at_once_each_get_their_own(ball: DemoSession) -> None:
    questions = [f"Will {'very ' * (i % 7)}number {i} win?" for i in range(60)]
    alone = [ball.ask(question) for question in questions]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(ball.ask, questions))
    for one, other in zip(alone, together, strict=True):
        assert one.question == other.question
        torch.testing.assert_close(one.logp_PK, other.logp_PK)


def test_the_slider_goes_from_the_reference_to_the_favourite(ball: DemoSession) -> None:
    answer = ball.ask(QUESTIONS[0])
    assert answer.score_K is not None
    spots = [optimum(answer, price) for price in ball.betas]
    assert spots[0].probability_K == pytest.approx(answer.logp_PK[0].exp().tolist()) and spots[0].kl == 0
    assert max(spots[-1].probability_K) == 1 and spots[-1].probability_K[int(answer.score_K.argmax())] == 1
    assert spots[-1].expected_score == pytest.approx(answer.score_K.max().item())
    assert spots[-2].kl == pytest.approx(spots[-1].kl) and spots[1].kl == pytest.approx(0, abs=1e-3)
    for before, after in pairwise(spots):
        assert after.kl >= before.kl - 1e-9 and after.expected_score >= before.expected_score - 1e-9
    own, best = policy_point(answer, answer.logp_PK[-1]), optimum(answer, 0.5)
    assert best.expected_score - 0.5 * best.kl >= own.expected_score - 0.5 * own.kl


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.1, 0.123, 7.0, 300.0, 1e-5])
def test_the_trained_price_is_on_the_slider(beta: float) -> None:
    found = beta_grid(beta)
    assert found[beta_index(found, beta)] == beta and math.isinf(found[0]) and found[-1] == 0
    assert found == sorted(set(found), reverse=True)


def test_the_score_is_that_of_the_run(copied: Path) -> None:
    own = DemoSession(changed(copied, score_type="probability"))
    answer = own.ask(QUESTIONS[0])
    assert answer.score_K is not None and answer.grader_logp_K is not None
    torch.testing.assert_close(answer.score_K, answer.grader_logp_K.exp())


# --- which runs, which judge


def test_the_default_and_the_reference(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=re.escape("runs/ppo: no finished run; train one first: python scripts/ppo.py")
    ):
        DemoSession(DemoConfig())
    shutil.copytree(runs, tmp_path / "runs")
    own = DemoSession(DemoConfig())
    assert [policy.name for policy in own.all_policies] == ["sft", "distill", "ppo"]
    moved = changed(tmp_path / "runs" / "ppo", sft_model_path="elsewhere/sft", reward_model_path="elsewhere/reward")
    with pytest.raises(InputError, match=r"its reference cannot be loaded .*elsewhere/sft"):
        DemoSession(moved)
    own = DemoSession(DemoConfig(runs=["runs/sft", "runs/ppo"]))
    assert [policy.name for policy in own.all_policies] == ["sft", "ppo"] and own.judge.grader is None
    assert "elsewhere/reward is missing" in own.judge.note
    own = DemoSession(DemoConfig(runs=["runs/ppo", "runs/sft"], reward_model_path="runs/reward"))
    assert own.ask("Rich?").score_K is not None


@pytest.mark.parametrize(
    ("grader", "asked"),
    [
        ("rule:No", True),
        ("random-head:3", True),
        ("api", False),
        ("llm", False),
        ("noisy:0.1:bert", False),
        ("bert,rule:No", False),
    ],
)
def test_a_judge_that_costs_is_not_asked(grader: str, asked: bool, copied: Path) -> None:
    own = DemoSession(changed(copied, grader=grader, grader_model="a/model", grader_base_url="http://10.0.0.1:1/v1"))
    answer = own.ask("Will I win?")
    assert (answer.score_K is not None) == asked == (own.judge.grader is not None)
    page = views.answers_view(own, answer) + views.beta_view(own, answer, 3)
    assert ("The demo does not call the grader of this run." in page) != asked
    if grader == "rule:No":
        assert answer.grader_logp_K is not None and int(answer.grader_logp_K.argmax()) == 1


def other_labels(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    names = ["Yes", "No", "Perhaps"]
    config["id2label"], config["label2id"] = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    (run / "config.json").write_text(json.dumps(config))


def put(name: str, text: str) -> Any:
    return lambda run: (run / name).write_text(text)


def gone(name: str) -> Any:
    return lambda run: (run / name).unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (gone("results.json"), r"--runs .*run: no finished run, results.json is missing or damaged; name"),
        (put("results.json", "{"), "results.json is missing or damaged"),
        (put("results.json", '{"method": "grade"}'), "--runs .*run: holds grades and no policy"),
        (put("results.json", '{"method": "audit"}'), "--runs .*run: holds an audit and no policy"),
        (put("results.json", '{"method": "reward"}'), "pass it as --reward_model_path"),
        (put("results.json", '{"method": "ppo"}'), "its results.json lacks splits"),
        (put("manifest.json", "{}"), "holds a comparison, not a run"),
        (gone("config.yaml"), "config.yaml is missing"),
        (put("config.yaml", "seed: 0"), "its config.yaml lacks kl_coef"),
        (gone("config.json"), "holds no config.json"),
        (gone("model.safetensors"), "--runs .*run: not a loadable checkpoint"),
        (put("model.safetensors", "no weights"), "not a loadable checkpoint"),
        (other_labels, "labels differ: --runs .*run has .*Perhaps.*sft has"),
        (put("before_after.parquet", "no table"), "before_after.parquet is damaged"),
        (put("metrics.jsonl", "{"), "metrics.jsonl is damaged"),
    ],
)
def test_a_bad_run_is_one_line(harm: Any, said: str, copied: Path) -> None:
    harm(copied)
    with pytest.raises(InputError, match=said) as error:
        app.build(DemoConfig(runs=[str(copied)]))
    assert "\n" not in str(error.value)


def test_bad_runs_and_models_by_name(runs: Path, copied: Path) -> None:
    for given, said in (
        (["nowhere"], "--runs nowhere: no such directory"),
        ([str(runs / "ppo"), str(runs / "ppo")], "named twice"),
        ([str(runs / "sft")], "the reference alone"),
        ([str(runs / "sft"), str(runs / "ppo"), str(runs / "sft")], "a second run of method sft"),
    ):
        with pytest.raises(InputError, match=said):
            DemoSession(DemoConfig(runs=given))
    with pytest.raises(InputError, match="--reward_model_path nowhere/at/all: no such directory"):
        DemoSession(DemoConfig(runs=[str(copied)], reward_model_path="nowhere/at/all"))
    other_labels(copied)
    with pytest.raises(InputError, match="labels differ"):
        DemoSession(DemoConfig(runs=[str(runs / "ppo")], reward_model_path=str(copied)))
    two = DemoSession(DemoConfig(runs=[str(runs / "ppo"), str(shutil.copytree(runs / "ppo", copied.parent / "again"))]))
    assert [policy.name for policy in two.policies] == ["ppo ppo", "ppo again"]


def test_the_address_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^--server_port {port}: is taken; pass another$"):
            app.run(DemoConfig(runs=["nowhere"], server_port=port))
    with pytest.raises(InputError, match=r"^--server_name 203.0.113.7: no address of this machine; pass 127.0.0.1"):
        app.run(DemoConfig(runs=["nowhere"], server_name="203.0.113.7", server_port=port))
    assert address.url_of("0.0.0.0", 80) == "http://127.0.0.1:80" and address.url_of("::1", 80) == "http://[::1]:80"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'eightball-ppo\[demo\]'"):
        app.run(DemoConfig())


# --- what the page is made of


def test_nothing_that_is_typed_or_read_becomes_markup(ball: DemoSession) -> None:
    for text in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'):
        answer = ball.ask(text)
        pages = [views.answer_view(ball, answer), views.error_view(text), views.ball_view(text)]
        assert not [page for page in pages if "<script" in page or "<img" in page]
        assert "&lt;" in pages[0]
    table, examples = views.changes_view(ball)
    flips = pd.read_parquet(ball.last.directory / "before_after.parquet")
    assert "<b>" not in table and examples and set(examples) <= set(flips["question"])


@pytest.mark.parametrize("label", ["Yes", "Outlook not so good", "x" * 300, "W" * 24, "a b c d e f g h i j k l m"])
def test_any_label_fits_the_window(label: str) -> None:
    lines, size = views.window_lines(label)
    assert 1 <= len(lines) <= 3 and all(len(line) <= 11 for line in lines) and 8 <= size <= 34


def test_bars_say_their_value(ball: DemoSession) -> None:
    page = views.answers_view(ball, ball.ask("Will I win?"))
    meters = re.findall(r'role="meter" aria-label="([^"]+)".*?aria-valuenow="([\d.]+)"', page)
    assert len(meters) == 4 * 3 and meters[0][0] == "Reference: Yes" and meters[-1][0] == "Reward model: Maybe"
    assert sum(float(value) for _, value in meters) == pytest.approx(400, abs=1)
    assert "meter" not in views.answers_view(ball, None)


def test_flips_curves_and_numbers(ball: DemoSession) -> None:
    frame = pd.read_parquet(ball.last.directory / "before_after.parquet")
    columns = [[f"{when}_probability_{name}" for name in LABELS.names] for when in ("before", "after")]
    before, after = (frame[own].to_numpy().argmax(1) for own in columns)
    page, _ = views.changes_view(ball)
    assert page.count('class="q"') == (before != after).sum() > 0
    assert page.count('"correct"') + page.count('"wrong"') == (before != after).sum()
    curves = views.curves_view(ball)
    assert (
        curves.count("<polyline") == 6 and "PPO: 480 episodes" in curves and "Distillation: 4 optimizer steps" in curves
    )
    assert "ppo from 0.10 to 0.40" in curves
    numbers = views.numbers_view(ball)
    assert f"{ball.last.results['splits']['heldout']['kl']:.3f}" in numbers and numbers.count("<tr>") == 4


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.9, -0.1), (2.0, 2.0), (-1e-9, 0), (0.2, 12345.0)])
def test_round_numbers_enclose(low: float, high: float) -> None:
    marks = round_ticks(low, high)
    assert marks[0] <= low + 1e-9 and marks[-1] >= high - 1e-9 and 2 <= len(marks) <= 8


@pytest.fixture
def without_gradio() -> Iterator[None]:
    """Whoever imports it while this stands, fails."""
    patch = pytest.MonkeyPatch()
    patch.setitem(sys.modules, "gradio", None)
    yield
    patch.undo()


def test_the_ball_needs_no_gradio(without_gradio: None, runs: Path) -> None:
    assert DemoSession(DemoConfig(runs=[str(runs / "ppo")])).ask("Will I win?").question
