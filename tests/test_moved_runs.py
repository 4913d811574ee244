"""Runs find their reference, reward model and base of adapters where they were moved; LoRA runs are pushed merged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
import yaml
from demo_runs import make_runs
from test_finetuned_classifiers import load, with_changed_adapters
from transformers import AutoModelForSequenceClassification

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo.session import DemoSession
from eightball_ppo.errors import InputError
from eightball_ppo.hub import push
from eightball_ppo.hub.bundles import bundle
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.run import write_config


@pytest.fixture(scope="module")
def made(once: Callable[..., Path], sft_run: Path) -> Path:
    return once("moved", lambda directory: make_runs(directory, sft_run))


def recorded(run: Path, home: str) -> None:
    """Writes into the records of `run` that all runs lie in `home`."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    paths = {"output_dir": run.name, "sft_model_path": "sft", "reward_model_path": "reward"}
    (run / "config.yaml").write_text(yaml.safe_dump(config | {key: f"{home}/{path}" for key, path in paths.items()}))


@pytest.mark.parametrize("home", ["runs", "mine/of_may", "/gone/runs"])
def test_demo_finds_the_models_that_were_moved_with_the_run(made: Path, tmp_path: Path, home: str) -> None:
    moved = shutil.copytree(made, tmp_path / "elsewhere" / "archive")
    recorded(moved / "ppo", home)
    (tmp_path / "runs" / "sft").mkdir(parents=True)  # another run of that name, in the current directory
    (tmp_path / "runs" / "sft" / "config.json").write_text("{}")
    demo = DemoSession(DemoConfig(runs=[str(moved / "ppo")]))
    assert demo.reference.directory.resolve() == moved / "sft" and demo.judge.title == "reward model"


def test_a_hub_id_and_an_absolute_path_stay_as_the_run_names_them(tmp_path: Path) -> None:
    run, beside, given = (tmp_path / name for name in ("runs/ppo", "runs/model", "given/model"))
    for directory in (run, beside, given):
        encoders.save("bert", directory)
    write_config(run, PPOConfig(output_dir="runs/ppo"))
    assert locate("someone/model", run) == "someone/model"  # `model` beside the run is not what it means
    assert locate(str(given), run) == str(given)
    assert locate("runs/model", run) == "runs/model"  # nothing moved: as the records have it
    assert locate("runs/none", run) == "runs/none"


@pytest.fixture
def lora(tmp_path: Path, ppo_run: Path) -> Path:
    """A run `ppo` whose policy is adapters on `sft` beside it; both were in runs/ when it was trained."""
    shutil.copytree(ppo_run, tmp_path / "moved" / "ppo", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    base = encoders.save("bert", tmp_path / "moved" / "sft")
    model, tokenizer = load_classifier(str(base), "--sft_model_path")
    save_policy(with_changed_adapters(model), tokenizer, tmp_path / "moved" / "ppo")
    adapters = tmp_path / "moved" / "ppo" / "adapter_config.json"
    adapters.write_text(json.dumps(json.loads(adapters.read_text()) | {"base_model_name_or_path": "runs/sft"}))
    recorded(tmp_path / "moved" / "ppo", "runs")
    return tmp_path / "moved" / "ppo"


def test_adapters_find_their_base_that_was_moved_with_them(lora: Path) -> None:
    predict_logits_NK(*load(lora))
    (lora.parent / "sft").rename(lora.parent / "other")
    with pytest.raises(InputError, match="its adapters need runs/sft, which is not here"):
        load(lora)


def test_labels_of_moved_adapters_are_those_of_their_base(lora: Path) -> None:
    config = PPOConfig(output_dir="new", dataset_name="elsewhere", sft_model_path=str(lora))
    assert with_labels(config).labels == ["Yes", "No", "Maybe"]


def test_a_moved_base_is_checked_as_any_other(lora: Path) -> None:
    base = lora.parent / "sft"
    encoders.save("bert", base, seed=1)
    with pytest.raises(InputError, match="were trained on other weights"):
        load(lora)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds pytorch_model\.bin, a pickle"):
        load(lora)


def written(files: dict[str, bytes | Path], directory: Path) -> Path:
    """The files of a repository in a directory."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    return directory


def test_adapters_on_a_local_base_are_pushed_as_a_full_model(
    lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected_NK = predict_logits_NK(*load(lora))
    pushed: list[Path] = []

    def upload(content: Any, *_: Any) -> str:
        pushed.append(written(content.files, tmp_path / "repository"))
        return "https://hub/me/ball"

    monkeypatch.setattr(push, "upload", upload)
    monkeypatch.setattr(push, "check_write_access", lambda repo_id, _: repo_id)
    config = PPOConfig(output_dir=str(lora), use_peft=True, push_to_hub=True, hub_model_id="me/ball")
    push.check_stage(config)
    push.push_stage(config)
    (repository,) = pushed
    lines = [line for line in capsys.readouterr().out.splitlines() if "adapters are merged" in line]
    assert lines == [f"{lora}: its adapters are merged into their base; a full model is uploaded"]
    AutoModelForSequenceClassification.from_pretrained(repository)
    torch.testing.assert_close(predict_logits_NK(*load(repository)), expected_NK)
    assert not list(repository.rglob("adapter*"))
    card = (repository / "README.md").read_text()
    assert "pipeline(" in card and "PeftModel" not in card
    for file in repository.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_adapters_on_a_base_of_the_hub_are_pushed_as_they_are(lora: Path) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/classifier"}))
    files = bundle(lora, "me/ball").files
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json"} <= set(files)
    assert "model.safetensors" not in files and "config.json" not in files
