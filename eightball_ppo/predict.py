"""Ask a trained policy one question, or a file of them."""

from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import display_text, join_pair
from eightball_ppo.data.reading import SURROGATE
from eightball_ppo.errors import InputError
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import max_input_length, tokenize
from eightball_ppo.report.tables import MOST_LABELS


def answers(config: PredictConfig) -> list[tuple[str, str, dict[str, float]]]:
    """(question, answer, probability of every label) of each question that `config` asks.

    Raises:
        InputError: no question, an unreadable file, or no loadable policy.
    """
    questions = _questions(config)
    model, tokenizer = load_classifier(
        config.model_name_or_path, "--model_name_or_path", trust_remote_code=config.trust_remote_code
    )
    labels = label_set(model)
    probability_NK = predict_logits_NK(model, tokenize(questions, tokenizer, max_input_length(tokenizer))).softmax(-1)
    if config.sample:
        generator = torch.Generator().manual_seed(config.seed)
        action_N = torch.multinomial(probability_NK, 1, generator=generator).squeeze(1)
    else:
        action_N = probability_NK.argmax(-1)
    return [
        (text, labels.names[action], dict(zip(labels.names, probability_K, strict=True)))
        for text, action, probability_K in zip(questions.texts, action_N.tolist(), probability_NK.tolist(), strict=True)
    ]


def _questions(config: PredictConfig) -> Questions:
    """What is asked, with the second text where there is one."""
    asked = _first_texts(config)
    if config.text_pair is None:
        return asked
    pair = config.text_pair.strip()
    if not pair:
        raise InputError("--text_pair: blank; leave it out where the question has no second text")
    return Questions(asked.source, [join_pair(text, pair) for text in asked.texts])


def _first_texts(config: PredictConfig) -> Questions:
    if config.question is not None:
        if not config.question.strip():
            raise InputError("predict: the question is blank")
        if SURROGATE.search(config.question):
            raise InputError(f"predict: the question {config.question!r} is not UTF-8; is the terminal?")
        return Questions("question", [config.question.strip()])
    assert config.file is not None
    try:
        lines = Path(config.file).read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--file {config.file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--file {config.file}: not UTF-8 (byte {error.start}); re-encode the file") from None
    except ValueError as error:  # a name that no file can have
        raise InputError(f"--file {config.file}: {error}") from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"--file {config.file}: holds no question")
    return Questions(config.file, texts)


def run(config: PredictConfig) -> None:
    """Print question, answer and probabilities as a table; of many labels the most probable ones."""
    rows = answers(config)
    few = len(rows[0][2]) <= MOST_LABELS
    table = Table("question", "answer", *(map(escape, rows[0][2]) if few else ["most probable"]))
    for question, answer, probabilities in rows:
        cells = [f"{p:.3f}" for p in probabilities.values()]
        if not few:
            best = sorted(probabilities, key=probabilities.__getitem__, reverse=True)[: MOST_LABELS // 2]
            cells = ["  ".join(f"{escape(name)} {probabilities[name]:.3f}" for name in best)]
        table.add_row(escape(display_text(question)), escape(answer), *cells)
    Console().print(table)
