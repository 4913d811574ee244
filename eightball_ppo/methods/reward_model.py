"""Reward model: a BERT that predicts the answer which the asker prefers, with calibrated probabilities."""

from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import set_seed

from eightball_ppo.config.stages import RewardConfig
from eightball_ppo.data import Questions, load_both, split_by_question
from eightball_ppo.data.questions import count_dropped
from eightball_ppo.evaluation import describe
from eightball_ppo.functional.calibration import confidence_and_correct, ece_N, fit_temperature
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.classifier_run import NO_GRADER, finish_classifier, merge_adapter
from eightball_ppo.methods.defaults import resolve_defaults
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_new_classifier, text_logits_NK
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.precision import fold_temperature, last_linear
from eightball_ppo.models.tokenization import max_input_length, set_max_length, token_table, tokenize
from eightball_ppo.models.trainable import check_rates, freeze_lower_half
from eightball_ppo.runtime.run import Run, check_output_dir
from eightball_ppo.training.resume import resume_context_for_fit
from eightball_ppo.training.supervised import train_classifier


def train(config: RewardConfig) -> Path:
    """Trains the reward model, a stock sequence classifier of the encoder's kind, into `config.output_dir`.

    Its `softmax(logits)` is the calibrated probability: the last layer is divided by the temperature, which is fitted
    on the validation questions.

    Returns:
        The directory of the finished run.

    Raises:
        InputError: Bad data, labels, encoder or output directory; nothing is written then.
    """
    check_output_dir(config)
    config = with_labels(config)
    labels = config.label_set()
    preferences, heldout = load_both(config, labels, labels)
    training, validation = split_by_question(preferences, config.validation_fraction, config.seed)
    set_seed(config.seed)
    flag = "--model_name_or_path"
    model, tokenizer, new = load_new_classifier(config.model_name_or_path, flag, labels, config.trust_remote_code)
    last_linear(model, f"{flag} {config.model_name_or_path}")
    config = resolve_defaults(config, model, len(training))
    check_rates(model, config)
    set_max_length(tokenizer, model, config.max_length)  # the grader cuts where the reward model was cut
    truncated = tokenize(preferences, tokenizer, max_input_length(tokenizer)).truncated
    if config.use_peft:
        model = with_lora(model, config, new)
    else:
        freeze_lower_half(model)
    assert training.label_ids is not None
    resume = resume_context_for_fit(config, "reward", model, training.texts, training.label_ids)
    with Run(config, "reward", resume.progress) as run:
        table = token_table(training.texts, tokenizer, max_input_length(tokenizer))
        train_classifier(
            model, tokenizer, table, training.label_ids, config, run, "reward", by_length=True, resume=resume
        )
        temperature = fit_temperature(text_logits_NK(model, tokenizer, validation), _gold_N(validation))
        fold_temperature(model, temperature, flag)
        model = merge_adapter(model, config, run)
        record = _record(text_logits_NK(model, tokenizer, heldout), temperature, heldout, labels)
        more: dict[str, Any] = {"model_name_or_path": config.model_name_or_path, "temperature": temperature}
        more |= {"truncated_questions": truncated, "training_questions": len(training)}
        more |= {"validation_questions": len(validation), "dropped_rows": count_dropped((preferences, heldout))}
        return finish_classifier(model, tokenizer, run, record, heldout, config, **more)


def _record(logits_NK: Tensor, temperature: float, heldout: Questions, labels: LabelSet) -> dict[str, Any]:
    """The metrics on held-out questions; `logits_NK` are those after the division by `temperature`."""
    logp_NK, gold_N = logits_NK.log_softmax(-1), _gold_N(heldout)
    predicted_N = logits_NK.argmax(-1)
    f1_K = f1_score(gold_N.numpy(), predicted_N.numpy(), labels=list(range(len(labels))), average=None, zero_division=0)
    return {
        **NO_GRADER,
        **describe(logp_NK, logp_NK, heldout, labels),
        "kl": None,
        "accuracy": (predicted_N == gold_N).float().mean().item(),
        "f1": dict(zip(labels.names, f1_K.tolist(), strict=True)),
        "ece_before_scaling": _ece((logits_NK * temperature).log_softmax(-1), gold_N),
        "ece": _ece(logp_NK, gold_N),
    }


def _ece(logp_NK: Tensor, gold_N: Tensor) -> float:
    return float(ece_N(*confidence_and_correct(logp_NK, gold_N)).mean())


def _gold_N(questions: Questions) -> Tensor:
    return torch.tensor(questions.label_ids)
