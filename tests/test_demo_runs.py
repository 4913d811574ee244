"""Which runs and graders the demo takes, and what it refuses."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from demo_runs import QUESTIONS, make_runs

from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import address, app, loading, views
from eightball_ppo.demo.session import DemoSession
from eightball_ppo.errors import InputError
from eightball_ppo.models.loading import load_classifier


@pytest.fixture(scope="module")
def runs(once: Callable[..., Path], sft_run: Path) -> Path:
    return once("demo", lambda directory: make_runs(directory, sft_run))


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A run to break."""
    return Path(shutil.copytree(runs / "ppo", tmp_path / "run"))


def changed(run: Path, **options: Any) -> DemoConfig:
    """A demo of `run` with other options in its config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | options))
    return DemoConfig(runs=[str(run)])


def test_score_is_that_of_the_run(copied: Path) -> None:
    answer = DemoSession(changed(copied, score_type="probability")).ask(QUESTIONS[0])
    assert answer.score_K is not None and answer.grader_logp_K is not None
    torch.testing.assert_close(answer.score_K, answer.grader_logp_K.exp())


def test_default_runs_and_their_reference_are_found(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape("runs/ppo: no finished run; train one first: eightball ppo")):
        DemoSession(DemoConfig())
    shutil.copytree(runs, tmp_path / "runs")
    demo = DemoSession(DemoConfig())
    assert [policy.name for policy in demo.all_policies] == ["sft", "distill", "ppo"]
    shutil.copytree(tmp_path / "runs" / "ppo", tmp_path / "runs" / "frozen" / "ppo")
    demo = DemoSession(DemoConfig())  # the frozen encoder answers, the small one stands beside it
    assert demo.last.directory == Path("runs/frozen/ppo")
    assert [policy.name for policy in demo.policies] == ["distill", "ppo runs/ppo", "ppo runs/frozen/ppo"]
    shutil.rmtree(tmp_path / "runs" / "frozen")
    moved = changed(tmp_path / "runs" / "ppo", sft_model_path="elsewhere/sft", reward_model_path="elsewhere/reward")
    with pytest.raises(InputError, match=r"its reference cannot be loaded .*elsewhere/sft"):
        DemoSession(moved)
    demo = DemoSession(DemoConfig(runs=["runs/sft", "runs/ppo"]))
    assert [policy.name for policy in demo.all_policies] == ["sft", "ppo"] and demo.judge.grader is None
    assert "elsewhere/reward is missing" in demo.judge.note
    demo = DemoSession(DemoConfig(runs=["runs/ppo", "runs/sft"], reward_model_path="runs/reward"))
    assert demo.ask("Rich?").score_K is not None


def test_runs_of_one_method_are_told_apart_by_the_kind_of_classifier(runs: Path) -> None:
    run = loading._check_run(str(runs / "ppo"))
    small = load_classifier(str(runs / "ppo"), "run")[0]
    frozen = SimpleNamespace(config=SimpleNamespace(frozen=True))
    assert loading._names([run, run], [small, frozen]) == ["ppo small", "ppo frozen"]


@pytest.mark.parametrize(
    ("grader", "called"),
    [
        ("rule:No", True),
        ("random-head:3", True),
        ("api", False),
        ("llm", False),
        ("noisy:0.1:bert", False),
        ("bert,rule:No", False),
    ],
)
def test_grader_that_costs_is_not_called(grader: str, called: bool, copied: Path) -> None:
    demo = DemoSession(changed(copied, grader=grader, grader_model="a/model", grader_base_url="http://10.0.0.1:1/v1"))
    answer = demo.ask("Will I win?")
    assert (answer.score_K is not None) == called == (demo.judge.grader is not None)
    page = views.answers_view(demo, answer) + views.beta_view(demo, answer, 3)
    assert ("The demo does not call the grader of this run." in page) != called
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
    ("harm", "message"),
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
def test_bad_run_is_one_line(harm: Any, message: str, copied: Path) -> None:
    harm(copied)
    with pytest.raises(InputError, match=message) as error:
        app.build(DemoConfig(runs=[str(copied)]))
    assert "\n" not in str(error.value)


def test_bad_combinations_of_runs_and_models_are_refused(runs: Path, copied: Path) -> None:
    for given, message in (
        (["nowhere"], "--runs nowhere: no such directory"),
        ([str(runs / "ppo"), str(runs / "ppo")], "named twice"),
        ([str(runs / "sft")], "the reference alone"),
        ([str(runs / "sft"), str(runs / "ppo"), str(runs / "sft")], "a second run of method sft"),
    ):
        with pytest.raises(InputError, match=message):
            DemoSession(DemoConfig(runs=given))
    with pytest.raises(InputError, match="--reward_model_path nowhere/at/all: no such directory"):
        DemoSession(DemoConfig(runs=[str(copied)], reward_model_path="nowhere/at/all"))
    other_labels(copied)
    with pytest.raises(InputError, match="labels differ"):
        DemoSession(DemoConfig(runs=[str(runs / "ppo")], reward_model_path=str(copied)))
    two = DemoSession(DemoConfig(runs=[str(runs / "ppo"), str(shutil.copytree(runs / "ppo", copied.parent / "again"))]))
    assert [policy.name for policy in two.policies] == ["ppo ppo", "ppo again"]


def test_address_and_gradio_are_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
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
