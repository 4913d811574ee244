"""Reward model: a BERT that says what the asker wants to hear, scaled so that its probabilities can be believed."""

from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import f1_score
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.stages import RewardConfig
from eightball_ppo.data import Questions, load_both, split_by_question
from eightball_ppo.evaluation import describe
from eightball_ppo.functional.calibration import expected_calibration_error, fit_temperature
from eightball_ppo.hub.cards import write_card
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_new_classifier, text_logits_NK
from eightball_ppo.models.lora import merged, with_lora
from eightball_ppo.models.packaged import packaged_base
from eightball_ppo.models.precision import last_linear
from eightball_ppo.models.saving import save_adapter
from eightball_ppo.models.tokenization import max_input_length, set_max_length, tokenize
from eightball_ppo.models.trainable import check_rates
from eightball_ppo.report.tables import print_record
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.paths import ADAPTER
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.resume import resume_context_for_fit
from eightball_ppo.training.supervised import train_classifier


def train(config: RewardConfig) -> Path:
    """Train the reward model into `config.output_dir` and return it: a stock sequence classifier of the encoder's kind.

    Its `softmax(logits)` is the calibrated probability: the temperature, chosen on the validation questions, is folded
    into the last layer.

    Raises:
        InputError: bad data, labels, encoder or output directory; nothing is written then.
    """
    config = with_labels(config)
    labels = config.label_set()
    preferences, heldout = load_both(config, labels, labels)
    training, validation = split_by_question(preferences, config.validation_fraction, config.seed)
    set_seed(config.seed)
    model, tokenizer, new = load_new_classifier(
        config.model_name_or_path, "--model_name_or_path", labels, config.trust_remote_code
    )
    last_linear(model, f"--model_name_or_path {config.model_name_or_path}")
    check_rates(model, config)
    set_max_length(tokenizer, model, config.max_length)  # the grader cuts where the reward model was cut
    truncated = tokenize(preferences, tokenizer, max_input_length(tokenizer)).truncated
    if config.use_peft:
        model = with_lora(model, config, new)
    assert training.label_ids is not None
    resume = resume_context_for_fit(config, "reward", model, training.texts, training.label_ids)
    with Run(config, "reward", resume.progress) as run:
        own = (training.texts, training.label_ids)
        train_classifier(model, tokenizer, *own, config, run, "reward", by_length=True, resume=resume)
        temperature = fit_temperature(text_logits_NK(model, tokenizer, validation), _gold_N(validation))
        fold_temperature(model, temperature)
        if config.use_peft:
            if is_main_process():
                save_adapter(model, run.path / ADAPTER, packaged_base(config.model_name_or_path))
            model = merged(model)
        record = _record(text_logits_NK(model, tokenizer, heldout), temperature, heldout, labels)
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
            "mixed_precision": mixed_precision(),
            "seconds": run.seconds,
            "splits": {"heldout": record},
        }
        if is_main_process():
            model.save_pretrained(run.path)
            tokenizer.save_pretrained(run.path)
            write_card(run.path, results)
            print_record("reward", "heldout", record)
        return run.finish(results)


def _record(after_NK: torch.Tensor, temperature: float, heldout: Questions, labels: LabelSet) -> dict[str, Any]:
    """The record of held-out questions, whose logits were divided by `temperature`."""
    logp_NK, gold_N = after_NK.log_softmax(-1), _gold_N(heldout)
    return {
        **dict.fromkeys(("expected_score", "objective", "optimum_objective", "optimum_fraction")),
        **describe(logp_NK, logp_NK, heldout, labels),
        "kl": None,
        **accuracy_record(after_NK, gold_N, labels),
        "ece_before_scaling": expected_calibration_error((after_NK * temperature).softmax(-1), gold_N),
        "ece": expected_calibration_error(after_NK.softmax(-1), gold_N),
    }


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
    head = last_linear(model, "--model_name_or_path")
    head.weight /= temperature
    if head.bias is not None:
        head.bias.div_(temperature)


def _gold_N(questions: Questions) -> torch.Tensor:
    return torch.tensor(questions.label_ids)
