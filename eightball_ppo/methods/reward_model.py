"""Reward model: a BERT that says what the asker wants to hear, scaled so that its probabilities can be believed."""

from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import f1_score
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from eightball_ppo.calibration import expected_calibration_error, fit_temperature
from eightball_ppo.configs import RewardConfig
from eightball_ppo.data import Questions, load_questions, split_by_question
from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import describe
from eightball_ppo.hub.cards import ADAPTER, PACKAGED_BASE, write_card
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.fitting import fit
from eightball_ppo.models.loading import first_line, load_encoder, text_logits_NK
from eightball_ppo.packaged import PACKAGED_MINILM, checked_minilm_dir
from eightball_ppo.ranks import is_main_process
from eightball_ppo.report.tables import print_record
from eightball_ppo.runs import Run
from eightball_ppo.tokenization import tokenize


def train(config: RewardConfig) -> Path:
    """Train the reward model into `config.output_dir` and return it: a stock sequence classifier of the encoder's kind.

    Its `softmax(logits)` is the calibrated probability: the temperature, chosen on the validation questions, is folded
    into the last layer.

    Raises:
        InputError: bad data, labels, encoder or output directory; nothing is written then.
    """
    labels = LabelSet.of(config.labels)
    preferences = load_questions(config.dataset_name, "preferences", config.text_column, config.label_column, labels)
    heldout = load_questions(config.dataset_name, "heldout", config.text_column, config.label_column, labels)
    training, validation = split_by_question(preferences, config.validation_fraction, config.seed)
    set_seed(config.seed)
    model, tokenizer = _load_encoder(config.model_name_or_path, labels, config.max_length)
    tokenizer.model_max_length = config.max_length  # the grader cuts where the reward model was cut
    truncated = tokenize(preferences, tokenizer, config.max_length).truncated
    if config.use_peft:
        model = _with_lora(model, config)
    assert training.label_ids is not None
    with Run(config, "reward") as run:
        fit(model, tokenizer, training.texts, training.label_ids, config, run, "reward")
        temperature = fit_temperature(text_logits_NK(model, tokenizer, validation), _gold_N(validation))
        fold_temperature(model, temperature)
        if config.use_peft:
            if is_main_process():
                save_adapter(model, config.model_name_or_path, run.path / ADAPTER)
            model = model.merge_and_unload()
        after_NK = text_logits_NK(model, tokenizer, heldout)
        before_NK = after_NK * temperature
        logp_NK = after_NK.log_softmax(-1)
        record = {
            **dict.fromkeys(("expected_score", "objective", "optimum_objective", "optimum_fraction")),
            **describe(logp_NK, logp_NK, heldout, labels),
            "kl": None,
            **accuracy_record(after_NK, _gold_N(heldout), labels),
            "ece_before_scaling": expected_calibration_error(before_NK.softmax(-1), _gold_N(heldout)),
            "ece": expected_calibration_error(after_NK.softmax(-1), _gold_N(heldout)),
        }
        results = {
            "method": "reward",
            "seed": config.seed,
            "beta": None,
            "episodes": 0,
            "grader_calls": 0,
            "model_name_or_path": config.model_name_or_path,
            "temperature": temperature,
            "truncated_questions": truncated,
            "training_questions": len(training),
            "validation_questions": len(validation),
            "seconds": run.seconds,
            "splits": {"heldout": record},
        }
        if is_main_process():
            model.save_pretrained(run.path)
            tokenizer.save_pretrained(run.path)
            write_card(run.path, results)
            print_record("reward", "heldout", record)
        return run.finish(results)


def accuracy_record(logits_NK: torch.Tensor, gold_N: torch.Tensor, labels: LabelSet) -> dict[str, Any]:
    """`accuracy` and, per label, `f1` of the most probable label against the wanted one."""
    predicted_N = logits_NK.argmax(-1)
    f1_K = f1_score(gold_N.numpy(), predicted_N.numpy(), labels=list(range(len(labels))), average=None, zero_division=0)
    return {
        "accuracy": (predicted_N == gold_N).float().mean().item(),
        "f1": dict(zip(labels.names, f1_K.tolist(), strict=True)),
    }


@torch.no_grad()
def fold_temperature(model: PreTrainedModel, temperature: float) -> None:
    """Divide the last layer by `temperature`, in place, so that the model's own softmax is the scaled one."""
    heads = getattr(model.classifier, "modules_to_save", None)  # of a model under LoRA, which trains a copy of the head
    head = model.classifier if heads is None else heads["default"]
    head.weight /= temperature
    head.bias /= temperature


def save_adapter(model: PreTrainedModel, base: str, directory: Path) -> None:
    """The LoRA adapter and the head alone, for whoever has the encoder already."""
    model.peft_config["default"].base_model_name_or_path = PACKAGED_BASE if base == PACKAGED_MINILM else base
    model.save_pretrained(directory, save_embedding_layers=False)  # "auto" would ask the Hub about the encoder
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours says it all


def _load_encoder(name: str, labels: LabelSet, max_length: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = str(checked_minilm_dir()) if name == PACKAGED_MINILM else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = load_encoder(path, labels)
    except Exception as error:  # every library below raises its own, as in `load_classifier`
        raise InputError(f"--model_name_or_path {name}: no loadable encoder there ({first_line(error)})") from error
    if not isinstance(getattr(model, "classifier", None), torch.nn.Linear):
        raise InputError(f"--model_name_or_path {name}: {type(model).__name__} has no linear `classifier`; use a BERT")
    longest = getattr(model.config, "max_position_embeddings", max_length)
    if max_length > longest:
        raise InputError(f"--max_length {max_length}: {name} reads at most {longest} tokens")
    return model, tokenizer


def _with_lora(model: PreTrainedModel, config: RewardConfig) -> PreTrainedModel:
    from peft import LoraConfig, TaskType, get_peft_model

    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
    )
    return get_peft_model(model, lora)


def _gold_N(questions: Questions) -> torch.Tensor:
    return torch.tensor(questions.label_ids)
