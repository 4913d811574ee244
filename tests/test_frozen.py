"""A frozen encoder: what the head reads is computed once, the head alone trains, and what is saved is a classifier."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import encoders
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, pipeline

from conftest import LABELS
from eightball_ppo import load_policy
from eightball_ppo.config.methods import BestOfNConfig, DistillConfig, ExactConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models import frozen
from eightball_ppo.models.frozen import freeze_encoder, head_of, with_features
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import token_table
from eightball_ppo.runtime.run import read_config, read_results

pytestmark = pytest.mark.usefixtures("no_figures")
TEXTS = ["Will it rain?", "Is the house on fire, and if so, who will put it out?", "Pizza?", "Do I win?", "Am I late?"]
JUDGE = RuleGrader("No", LabelSet.of(LABELS))
SHORT: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (PPOConfig, {"total_episodes": 40, "per_device_train_batch_size": 20, "num_mini_batches": 2}),
    "rloo": (RLOOConfig, {"total_episodes": 30, "generation_batch_size": 15, "num_generations": 3}),
    "grpo": (GRPOConfig, {"total_episodes": 30, "generation_batch_size": 15, "num_generations": 3}),
    "distill": (DistillConfig, {"num_train_epochs": 2, "threshold": 0.0}),
    "exact": (ExactConfig, {"num_train_epochs": 2}),
    "best_of_n": (BestOfNConfig, {"num_samples": 2}),
}
QUICK = ("ppo", "distill")
SHORT["rloo"][1]["steps_per_generation"] = SHORT["grpo"][1]["steps_per_generation"] = 1


@pytest.fixture(scope="module", params=[0, pytest.param(8, marks=pytest.mark.slow)], ids=["linear", "hidden"])
def reference(request: pytest.FixtureRequest, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on a tiny BERT that stays as it is, after one epoch of SFT."""
    directory = tmp_path_factory.mktemp("frozen")
    encoder = encoders.save("bert", directory / "bert", tuple(LABELS))
    options: dict[str, Any] = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "disable_tqdm": True}
    options |= {"model_name_or_path": str(encoder), "freeze_encoder": True, "head_hidden_size": request.param}
    return sft.train(SFTConfig(output_dir=str(directory / "sft"), dataset_name=str(small_data), **options))


def options(directory: Path, **more: Any) -> dict[str, Any]:
    places = {"output_dir": str(directory / "run"), "grade_store": str(directory / "grades.sqlite3")}
    return {**places, "disable_tqdm": True, "labels": list(LABELS), "dataset_name": "memory", **more}


def trained(name: str, reference: Path, directory: Path, **more: Any) -> Path:
    config_class, short = SHORT[name]
    texts, gold = Questions("a list", TEXTS), Questions("gold", ["Is it over?"], [1])
    config = config_class(sft_model_path=str(reference), **options(directory, **short, **more))
    return run_method(config, judge=JUDGE, train=texts, evaluation=gold)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_classifier(str(directory), "run")[0].state_dict())


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "mpnet"])
def test_the_head_reads_from_features_what_the_classifier_computes_from_tokens(kind: str, tmp_path: Path) -> None:
    model, tokenizer = load_classifier(str(encoders.save(kind, tmp_path / kind, tuple(LABELS))), "a flag")
    table = token_table(TEXTS, tokenizer, 64)
    expected_NK = predict_logits_NK(model, table)
    freeze_encoder(model)
    features = with_features(model, table, batch_size=2)
    assert (
        features.features_NH is not None
        and with_features(load_classifier(str(tmp_path / kind), "a")[0], table) is table
    )
    torch.testing.assert_close(predict_logits_NK(model, features), expected_NK, atol=1e-5, rtol=0)
    torch.testing.assert_close(predict_logits_NK(model, table), expected_NK, atol=1e-5, rtol=0)
    trains = {name for name, weight in model.named_parameters() if weight.requires_grad}
    head = {id(weight) for weight in head_of(model).parameters()}
    assert trains == {name for name, weight in model.named_parameters() if id(weight) in head}


def test_features_are_computed_again_only_for_another_encoder_or_other_texts(
    reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "_KEPT", {})  # an earlier test of this process may have read the same texts
    passes: list[None] = []
    model, tokenizer = load_classifier(str(reference), "run")
    classifier = freeze_encoder(model).eval()
    handle = head_of(classifier).register_forward_pre_hook(lambda *_: passes.append(None))
    table = token_table(TEXTS, tokenizer, 32)
    kept_NH = with_features(classifier, table).features_NH
    head = next(head_of(classifier).parameters())
    head.data.add_(1)
    assert with_features(classifier, table).features_NH is kept_NH and len(passes) == 1  # another head reads the same
    with_features(classifier, token_table(TEXTS[:3], tokenizer, 32))
    assert len(passes) == 2
    next(classifier.encoder.parameters()).data.add_(1)
    changed_NH = with_features(classifier, table).features_NH
    handle.remove()
    assert len(passes) == 3 and kept_NH is not None and changed_NH is not None and not torch.equal(kept_NH, changed_NH)


def test_the_module_can_be_the_first_that_a_process_imports() -> None:
    command = [sys.executable, "-c", "import eightball_ppo.models.frozen"]
    subprocess.run(command, check=True)  # the models that it registers import transformers while it imports them


def test_the_mean_is_over_real_tokens_alone(reference: Path) -> None:
    model, tokenizer = load_policy(reference)
    alone, padded = (
        model(**tokenizer(texts, padding=True, return_tensors="pt")).logits[0] for texts in (TEXTS[:1], TEXTS)
    )
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)
    inputs = tokenizer(TEXTS[:1], return_tensors="pt")
    mean_1H = model.encoder(**inputs)[0].mean(1)
    torch.testing.assert_close(model.classifier(mean_1H)[0], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("ppo", "distill") else pytest.mark.slow) for name in SHORT]
)
def test_every_method_trains_the_head_alone_and_saves_a_classifier(name: str, reference: Path, tmp_path: Path) -> None:
    run = trained(name, reference, tmp_path)
    before, after = weights(reference), weights(run)
    if name == "best_of_n":  # the reference, and a table
        assert all(torch.equal(after[f"base.{key}"], value) for key, value in before.items())
        return
    changed = {key for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed and all(key.startswith("classifier") for key in changed)
    model, tokenizer = load_policy(run)
    ask = pipeline("text-classification", model=str(run), tokenizer=tokenizer, top_k=None)
    probability_K = model(**tokenizer(TEXTS[:1], return_tensors="pt")).logits.softmax(-1)[0]
    found = {row["label"]: row["score"] for row in ask(TEXTS[:1])[0]}
    assert [found[label] for label in model.config.id2label.values()] == pytest.approx(probability_K.tolist(), abs=1e-5)
    assert read_config(run)["freeze_encoder"] is None and json.loads((run / "config.json").read_text())["frozen"]


@pytest.mark.slow
def test_the_encoder_of_a_frozen_reference_trains_if_asked(reference: Path, tmp_path: Path) -> None:
    run = trained("exact", reference, tmp_path, freeze_encoder=False, learning_rate=1e-4)
    before, after = weights(reference), weights(run)
    assert any(not torch.equal(after[key], value) for key, value in before.items() if key.startswith("encoder"))
    assert json.loads((run / "config.json").read_text())["frozen"] is False


@pytest.mark.slow
def test_a_finished_classifier_stays_of_its_kind(tmp_path: Path) -> None:
    finished = encoders.save("bert", tmp_path / "bert", tuple(LABELS))
    run = trained("ppo", finished, tmp_path, freeze_encoder=True)
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert type(model).__name__ == "BertForSequenceClassification" and not list(run.glob("*.py"))
    before, after = weights(finished), weights(run)
    assert {key for key, value in before.items() if not torch.equal(after[key], value)} <= {
        "classifier.weight",
        "classifier.bias",
    }
    assert read_results(run)["total_episodes"] == 40


@pytest.mark.slow
def test_adapters_go_on_the_encoder_of_a_mean_pooled_classifier(reference: Path, tmp_path: Path) -> None:
    run = trained("exact", reference, tmp_path, freeze_encoder=False, use_peft=True)
    model, _ = load_policy(run)
    assert type(model).__name__ == "MeanPooledForSequenceClassification"
    with pytest.raises(InputError, match="--freeze_encoder: nothing is left to adapt by --use_peft"):
        trained("exact", reference, tmp_path / "other", freeze_encoder=True, use_peft=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze_encoder": True}, "--freeze_encoder: which one"),
        ({"head_hidden_size": 8}, "--head_hidden_size: needs --freeze_encoder"),
        ({"freeze_encoder": True, "use_peft": True, "model_name_or_path": "minilm"}, "nothing is left to adapt"),
        ({"freeze_encoder": True, "head_hidden_size": -1, "model_name_or_path": "minilm"}, "must not be negative"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SFTConfig(**given)


def test_an_encoder_that_lacks_weights_is_refused(small_data: Path, tmp_path: Path) -> None:
    encoder = encoders.save("bert", tmp_path / "bert", tuple(LABELS))
    weights = {key: value for key, value in load_file(encoder / "model.safetensors").items() if "layer.1" not in key}
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    config = SFTConfig(model_name_or_path=str(encoder), freeze_encoder=True, dataset_name=str(small_data))
    with pytest.raises(InputError, match=r"no complete encoder, it lacks .*layer\.1"):
        sft.train(config)


def test_a_subset_of_a_table_is_the_table_of_those_questions() -> None:
    _, tokenizer = (None, encoders.tokenizer("bert"))
    table, rows = token_table(TEXTS, tokenizer, 16), [3, 0, 1]
    part, expected = table.subset(rows), token_table([TEXTS[row] for row in rows], tokenizer, 16)
    assert part.longest == expected.longest and torch.equal(part.start_N1, expected.start_N1)
    assert torch.equal(part.ids_S, expected.ids_S)


@pytest.mark.slow
def test_the_policy_loads_without_the_package(reference: Path, tmp_path: Path) -> None:
    code = f"""
import sys
assert "eightball_ppo" not in sys.modules
from transformers import pipeline
ask = pipeline("text-classification", model={str(reference)!r}, trust_remote_code=True, top_k=None)
assert "eightball_ppo" not in sys.modules
print(sorted(row["label"] for row in ask([{TEXTS[0]!r}])[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip() == str(sorted(LABELS)), done.stderr
