"""Asks a trained policy one question, or every question of a file."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import display_text, join_pair
from eightball_ppo.data.reading import SURROGATE
from eightball_ppo.errors import InputError
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import max_input_length, tokenize
from eightball_ppo.report.tables import MAX_LABELS, escape


def answers(config: PredictConfig) -> list[tuple[str, str, dict[str, float]]]:
    """Predicts the answer to each question of `config`.

    Returns:
        (question, answer, probability by label) of each question.

    Raises:
        InputError: There is no question, the file cannot be read, or the policy cannot be loaded.
    """
    questions = _questions(config)
    model, tokenizer = load_classifier(
        config.model_name_or_path, "--model_name_or_path", trust_remote_code=config.trust_remote_code
    )
    names = label_set(model).names
    probability_NK = predict_logits_NK(model, tokenize(questions, tokenizer, max_input_length(tokenizer))).softmax(-1)
    if config.sample:
        generator = torch.Generator().manual_seed(config.seed)
        action_N = torch.multinomial(probability_NK, 1, generator=generator).squeeze(1)
    else:
        action_N = probability_NK.argmax(-1)
    rows = zip(questions.texts, action_N.tolist(), probability_NK.tolist(), strict=True)
    return [(text, names[action], dict(zip(names, row, strict=True))) for text, action, row in rows]


def _questions(config: PredictConfig) -> Questions:
    """The question or the lines of the file, each joined with the second text if there is one."""
    if config.question is not None:
        source, lines = "question", [config.question]
        if SURROGATE.search(config.question):
            raise InputError(f"predict: the question {config.question!r} is not UTF-8; is the terminal?")
    else:
        source, lines = str(config.file), _read_lines(str(config.file))
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(
            "predict: the question is blank" if config.file is None else f"--file {source}: holds no question"
        )
    if config.text_pair is not None:
        pair = config.text_pair.strip()
        if not pair:
            raise InputError("--text_pair: blank; leave it out if the question has no second text")
        texts = [join_pair(text, pair) for text in texts]
    return Questions(source, texts)


def _read_lines(file: str) -> list[str]:
    try:
        return Path(file).read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--file {file}: not UTF-8 (byte {error.start}); re-encode the file") from None
    except ValueError as error:  # a name that no file can have
        raise InputError(f"--file {file}: {error}") from None


def run(config: PredictConfig) -> None:
    """Prints questions, answers and probabilities as a table; of many labels the most probable ones."""
    rows = answers(config)
    few = len(rows[0][2]) <= MAX_LABELS
    table = Table("question", "answer", *(map(escape, rows[0][2]) if few else ["most probable"]))
    for question, answer, probabilities in rows:
        cells = [f"{p:.3f}" for p in probabilities.values()]
        if not few:
            best = sorted(probabilities, key=probabilities.__getitem__, reverse=True)[: MAX_LABELS // 2]
            cells = ["  ".join(f"{escape(name)} {probabilities[name]:.3f}" for name in best)]
        table.add_row(escape(display_text(question)), escape(answer), *cells)
    Console().print(table)
