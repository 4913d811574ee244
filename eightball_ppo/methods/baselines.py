"""Baselines of a comparison: a logistic regression of scikit-learn on the labels that the grader likes best.

Each reads something simple of a text: its words, its characters, or the features of a frozen encoder. It is saved as
`LookupForSequenceClassification` with its answers to the texts of the run, and answers all others as the reference
does: a number to compare with, no product.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from eightball_ppo.config.methods import BaselineConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.task import Task
from eightball_ppo.models.frozen import with_features
from eightball_ppo.models.loading import new_frozen_classifier
from eightball_ppo.models.modeling_lookup import LookupForSequenceClassification
from eightball_ppo.models.packaged import PACKAGED_MINILM
from eightball_ppo.models.tokenization import max_input_length, token_table
from eightball_ppo.runtime.run import Run

C = 10.0  # inverse strength of the L2 penalty; best or equal of 1, 10, 100 on parts of the training questions
MAX_WEIGHTS = 2_000_000  # K x features, of words and characters
VECTORIZERS: dict[str, dict[str, Any]] = {
    "words": {"token_pattern": r"\b\w+\b"},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5), "sublinear_tf": True},
}


def fit(task: Task[BaselineConfig], run: Run) -> PreTrainedModel:
    """Returns the reference with the answers of a logistic regression to all texts of the run.

    Under a budget it is fitted to the questions whose favourite label is known, as distillation is.

    Raises:
        InputError: The budget does not pay for one question, or no text has a word.
    """
    rows = task.train_scores.buy_favourites(complete=False)
    label_N = task.known_logp_NK()[rows].argmax(-1).numpy()
    features = _encoder_features(task) if task.config.features == "encoder" else _text_features(task, rows)
    train, texts = features["train"], [*task.questions["train"].texts, *task.questions["heldout"].texts]
    logp_NK = [log_probabilities_NK(train[rows], label_N, part, len(task.labels)) for part in features.values()]
    table = token_table(texts, task.tokenizer, max_input_length(task.tokenizer))
    token_ids = [ids.tolist() for ids in table.ids_S.split(table.length_N.tolist())]
    policy = LookupForSequenceClassification.from_base(task.classifier, token_ids, torch.cat(logp_NK))
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy)})
    run.results |= {"features": task.config.features, "fitted_questions": len(rows)}
    return policy


def log_probabilities_NK(train: Any, label_M: np.ndarray, features: Any, num_labels: int) -> Tensor:
    """Log-probabilities of a logistic regression, shape [N, K], in nats.

    They are mixed with one uniform answer for the M that it was fitted to, so that a label that never was the best has
    a finite one.

    Args:
        train: Features of M texts, a matrix or a sparse one.
        label_M: Their labels.
        features: Features of the N texts to answer.
        num_labels: K.
    """
    from sklearn.linear_model import LogisticRegression

    p_NK = np.zeros((features.shape[0], num_labels))
    known = np.unique(label_M)
    if len(known) == 1:
        p_NK[:, known] = 1.0
    else:
        p_NK[:, known] = LogisticRegression(C=C, max_iter=2000).fit(train, label_M).predict_proba(features)
    texts = len(label_M)
    return torch.from_numpy(np.log((texts * p_NK + 1 / num_labels) / (texts + 1))).float()


def _text_features(task: Task[BaselineConfig], rows: Sequence[int]) -> dict[str, Any]:
    """Tf-idf of words, or of 2 to 5 characters within words, by split; the vocabulary is that of `rows`."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    kind, texts = task.config.features, task.questions["train"].texts
    vectorizer = TfidfVectorizer(**VECTORIZERS[kind], max_features=MAX_WEIGHTS // len(task.labels))
    try:
        vectorizer.fit([texts[row] for row in rows])
    except ValueError:
        source = task.questions["train"].source
        raise InputError(f"{source}: no question has a word for a bag of {kind}; leave the method out") from None
    return {split: vectorizer.transform(list(questions.texts)) for split, questions in task.questions.items()}


def _encoder_features(task: Task[BaselineConfig]) -> dict[str, np.ndarray]:
    """What the head of the reference reads of a text, if its encoder is frozen; else the mean token of MiniLM."""
    tables = task.tokens
    if tables["train"].features_NH is None:
        logging.getLogger(__name__).info("frozen_linear: reads the texts with the packaged MiniLM")
        encoder, tokenizer = new_frozen_classifier(PACKAGED_MINILM, "frozen_linear", task.labels, 0)
        length = max_input_length(task.tokenizer)
        tables = {
            split: with_features(encoder, token_table(asked.texts, tokenizer, min(length, max_input_length(tokenizer))))
            for split, asked in task.questions.items()
        }
    features = {split: table.features_NH for split, table in tables.items()}
    return {split: read_NH.numpy() for split, read_NH in features.items() if read_NH is not None}
