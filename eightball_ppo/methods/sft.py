"""SFT: a classifier learns the form of an answer from labelled questions; the embedded ones have random answers."""

from pathlib import Path
from typing import Any

import torch
from scipy.stats import chi2_contingency
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from eightball_ppo.config.model import SMALL_CLASSIFIER
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import Questions, load_both
from eightball_ppo.data.questions import count_dropped
from eightball_ppo.evaluation import describe
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.classifier_run import NO_GRADER, finish_classifier, merge_adapter
from eightball_ppo.methods.defaults import resolve_defaults
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.frozen import with_features
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import load_new_classifier, new_frozen_classifier, predict_logits_NK
from eightball_ppo.models.lora import with_lora
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.models.tokenization import load_tokenizer, max_input_length, set_max_length, tokenize
from eightball_ppo.models.trainable import check_rates
from eightball_ppo.runtime.run import Run, check_output_dir
from eightball_ppo.training.resume import resume_context_for_fit
from eightball_ppo.training.supervised import train_classifier

SMALL_MAX_LENGTH = 32


def train(config: SFTConfig) -> Path:
    """Trains the reference policy into `config.output_dir`.

    Returns:
        The directory of the finished run.

    Raises:
        InputError: Bad data, labels, tokenizer or output directory; nothing is written then.
    """
    check_output_dir(config)
    config = with_labels(config)
    labels = config.label_set()
    questions, heldout = load_both(config, labels, labels)
    set_seed(config.seed)
    model, tokenizer, config = new_policy(config, labels, questions)
    table, test_table = (
        with_features(model, tokenize(split, tokenizer, max_input_length(tokenizer))) for split in (questions, heldout)
    )
    assert questions.label_ids is not None
    resume = resume_context_for_fit(config, "sft", model, questions.texts, questions.label_ids)
    with Run(config, "sft", resume.progress) as run:
        train_classifier(model, tokenizer, table, questions.label_ids, config, run, "sft", resume=resume)
        model = merge_adapter(model, config, run)
        logits_NK = predict_logits_NK(model, test_table)
        more = {"truncated_questions": table.truncated, "dropped_rows": count_dropped((questions, heldout))}
        record = _record(logits_NK, heldout, questions.label_ids, labels, config.seed)
        return finish_classifier(model, tokenizer, run, record, heldout, config, **more)


def new_policy(
    config: SFTConfig, labels: LabelSet, questions: Questions
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, SFTConfig]:
    """The classifier to train, with a new head, its tokenizer, and the options with the defaults that fit it.

    Raises:
        InputError: No loadable encoder or tokenizer, or an option that the model cannot be trained with.
    """
    if config.model_name_or_path == SMALL_CLASSIFIER:
        tokenizer = load_tokenizer(config.tokenizer, questions, config.trust_remote_code)
        ids: dict[str, Any] = {"id2label": labels.id2label, "label2id": labels.label2id}
        small = EightBallConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ids)
        model: PreTrainedModel = EightBallForSequenceClassification(small)
        new = ["classifier"]
        set_max_length(tokenizer, model, config.max_length or SMALL_MAX_LENGTH)
        config = resolve_defaults(config, model, len(questions))
    elif config.freeze_encoder:
        name, trust = config.model_name_or_path, config.trust_remote_code
        model, tokenizer = new_frozen_classifier(name, "--model_name_or_path", labels, config.head_hidden_size, trust)
        config = resolve_defaults(config, model, len(questions))
        set_max_length(tokenizer, model, config.max_length)
    else:
        flag = "--model_name_or_path"
        model, tokenizer, new = load_new_classifier(config.model_name_or_path, flag, labels, config.trust_remote_code)
        config = resolve_defaults(config, model, len(questions))
        check_rates(model, config)
        set_max_length(tokenizer, model, config.max_length)
    return (with_lora(model, config, new) if config.use_peft else model), tokenizer, config


def _record(logits_NK: Tensor, heldout: Questions, train_ids: list[int], labels: LabelSet, seed: int) -> dict[str, Any]:
    """The metrics on held-out questions, and whether the answers follow the distribution of the training answers.

    `prior_p_value`: chi-square test that one sampled answer per held-out question and the training answers come from
    one distribution; if it is small, the answers do not follow the prior.
    """
    logp_NK = logits_NK.log_softmax(-1)
    record = {**NO_GRADER, **describe(logp_NK, logp_NK, heldout, labels)}
    generator = torch.Generator().manual_seed(seed)
    sampled_N = torch.multinomial(logp_NK.exp(), 1, generator=generator).squeeze(1)
    sampled_K = torch.bincount(sampled_N, minlength=len(labels))
    training_K = torch.bincount(torch.tensor(train_ids), minlength=len(labels))
    counts_2K = torch.stack([training_K, sampled_K])
    test = chi2_contingency(counts_2K[:, counts_2K.sum(0) > 0].numpy())
    record["sampled_counts"] = dict(zip(labels.names, sampled_K.tolist(), strict=True))
    record["training_counts"] = dict(zip(labels.names, training_K.tolist(), strict=True))
    record["prior_p_value"] = float(test.pvalue)
    return record
