"""SFT: a classifier learns the form of an answer from labelled questions; the embedded ones have random answers."""

from pathlib import Path
from typing import Any

import torch
from scipy.stats import chi2_contingency
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from eightball_ppo.config.model import SMALL_CLASSIFIER
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import Questions, load_both
from eightball_ppo.evaluation import describe
from eightball_ppo.hub.cards import write_card
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_new_classifier, predict_logits_NK
from eightball_ppo.models.lora import merged, with_lora
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.models.packaged import packaged_base
from eightball_ppo.models.saving import save_adapter
from eightball_ppo.models.tokenization import load_tokenizer, max_input_length, set_max_length, tokenize
from eightball_ppo.models.trainable import check_rates
from eightball_ppo.report.tables import print_record
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.paths import ADAPTER
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.resume import resume_context_for_fit
from eightball_ppo.training.supervised import train_classifier

SMALL_MAX_LENGTH = 32


def train(config: SFTConfig) -> Path:
    """Train the reference policy into `config.output_dir` and return it.

    Raises:
        InputError: bad data, labels, tokenizer or output directory; nothing is written then.
    """
    config = with_labels(config)
    labels = config.label_set()
    questions, heldout = load_both(config, labels, labels)
    set_seed(config.seed)
    model, tokenizer = _new_policy(config, labels, questions)
    truncated = tokenize(questions, tokenizer, max_input_length(tokenizer)).truncated
    assert questions.label_ids is not None
    resume = resume_context_for_fit(config, "sft", model, questions.texts, questions.label_ids)
    with Run(config, "sft", resume.progress) as run:
        train_classifier(model, tokenizer, questions.texts, questions.label_ids, config, run, "sft", resume=resume)
        if config.use_peft:
            if is_main_process():
                save_adapter(model, run.path / ADAPTER, packaged_base(config.model_name_or_path))
            model = merged(model)
        logits_NK = predict_logits_NK(model, tokenize(heldout, tokenizer, max_input_length(tokenizer)))
        results = _results(logits_NK, heldout, questions.label_ids, labels, config, run)
        results["truncated_questions"] = truncated
        if is_main_process():
            model.save_pretrained(run.path)
            tokenizer.save_pretrained(run.path)
            write_card(run.path, results)
            print_record("sft", "heldout", results["splits"]["heldout"])
        return run.finish(results)


def _new_policy(
    config: SFTConfig, labels: LabelSet, questions: Questions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier that is to be trained, with a new head, and its tokenizer.

    Raises:
        InputError: no loadable encoder or tokenizer, or an option that the model cannot be trained with.
    """
    if config.model_name_or_path == SMALL_CLASSIFIER:
        tokenizer = load_tokenizer(config.tokenizer, questions, config.trust_remote_code)
        small = EightBallConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            id2label=labels.id2label,
            label2id=labels.label2id,
        )
        model: PreTrainedModel = EightBallForSequenceClassification(small)
        new = ["classifier"]
        set_max_length(tokenizer, model, config.max_length or SMALL_MAX_LENGTH)
    else:
        model, tokenizer, new = load_new_classifier(
            config.model_name_or_path, "--model_name_or_path", labels, config.trust_remote_code
        )
        check_rates(model, config)
        set_max_length(tokenizer, model, config.max_length)
    return (with_lora(model, config, new) if config.use_peft else model), tokenizer


def _results(
    logits_NK: torch.Tensor, heldout: Questions, train_ids: list[int], labels: LabelSet, config: SFTConfig, run: Run
) -> dict[str, Any]:
    """The record, plus whether held-out answers follow the prior of the training answers.

    `prior_p_value`: chi-square test that one sampled answer per held-out question and the training answers come from
    one distribution (both are samples of the 8-ball's prior); small: the answers do not follow the prior.
    """
    logp_NK = logits_NK.log_softmax(-1)
    no_grader = dict.fromkeys(("expected_score", "objective", "optimum_objective", "optimum_fraction"))
    record = {**no_grader, **describe(logp_NK, logp_NK, heldout, labels)}
    generator = torch.Generator().manual_seed(config.seed)
    sampled_N = torch.multinomial(logp_NK.exp(), 1, generator=generator).squeeze(1)
    sampled_K = torch.bincount(sampled_N, minlength=len(labels))
    training_K = torch.bincount(torch.tensor(train_ids), minlength=len(labels))
    seen_2K = torch.stack([training_K, sampled_K])
    test = chi2_contingency(seen_2K[:, seen_2K.sum(0) > 0].numpy())
    record["sampled_counts"] = dict(zip(labels.names, sampled_K.tolist(), strict=True))
    record["training_counts"] = dict(zip(labels.names, training_K.tolist(), strict=True))
    record["prior_p_value"] = float(test.pvalue)
    return {
        "method": "sft",
        "seed": config.seed,
        "beta": None,
        "episodes": 0,
        "grader_calls": 0,
        "mixed_precision": mixed_precision(),
        "seconds": run.seconds,
        "splits": {"heldout": record},
    }
