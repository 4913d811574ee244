"""Asks a trained policy one question, or every question of a file."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.data import Questions, load_file
from eightball_ppo.data.pairs import display_text, join_pair
from eightball_ppo.data.rows import SURROGATE
from eightball_ppo.errors import InputError
from eightball_ppo.models.loading import label_set, load_classifier, predict_logits_NK
from eightball_ppo.models.tokenization import max_input_length, tokenize
from eightball_ppo.report.tables import MAX_LABELS, escape
from eightball_ppo.runtime.atomic_io import atomic_path
from eightball_ppo.runtime.paths import DATA_ENDINGS

ANSWER = "prediction"  # columns of the output; behind the second stands the name of a label
PROBABILITY = "probability_"
FORMULA = re.compile(r"[=+\-@\t\r](?![\d.,]*$)")


class Predictions(NamedTuple):
    """The answers to N questions: label ids [N], and probabilities [N, K] of the labels with these names."""

    questions: Questions
    names: tuple[str, ...]
    action_N: Tensor
    probability_NK: Tensor


def answers(config: PredictConfig) -> list[tuple[str, str, dict[str, float]]]:
    """Predicts the answer to each question of `config`.

    Returns:
        (question, answer, probability by label) of each question.

    Raises:
        InputError: There is no question, the file cannot be read, or the policy cannot be loaded.
    """
    questions, names, action_N, probability_NK = _predict(config, _questions(config))
    rows = zip(questions.texts, action_N.tolist(), probability_NK.tolist(), strict=True)
    return [(text, names[action], dict(zip(names, row, strict=True))) for text, action, row in rows]


def _predict(config: PredictConfig, questions: Questions) -> Predictions:
    model, tokenizer = load_classifier(
        config.model_name_or_path, "--model_name_or_path", trust_remote_code=config.trust_remote_code
    )
    probability_NK = predict_logits_NK(model, tokenize(questions, tokenizer, max_input_length(tokenizer))).softmax(-1)
    if config.sample:
        generator = torch.Generator().manual_seed(config.seed)
        action_N = torch.multinomial(probability_NK, 1, generator=generator).squeeze(1)
    else:
        action_N = probability_NK.argmax(-1)
    return Predictions(questions, label_set(model).names, action_N, probability_NK)


def _questions(config: PredictConfig) -> Questions:
    """The question, or those of the file with their columns, each joined with the second text if there is one."""
    if config.file is not None and Path(config.file).suffix in DATA_ENDINGS:
        questions = _read_table(config, Path(config.file))
    else:
        questions = _read_texts(config)
    if config.text_pair is not None:
        pair = config.text_pair.strip()
        if not pair:
            raise InputError("--text_pair: blank; leave it out if the question has no second text")
        texts = [join_pair(text, pair) for text in questions.texts]
        questions = Questions(questions.source, texts, None, questions.columns)
    return questions


def _read_table(config: PredictConfig, file: Path) -> Questions:
    if not file.is_file():
        raise InputError(f"--file {file}: no such file")
    data = DataConfig(
        dataset_name=str(file),
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
        skip_bad_rows=config.skip_bad_rows,
    )
    return load_file(data, file, keep_columns=True)


def _read_texts(config: PredictConfig) -> Questions:
    """The question, or the lines of a text file."""
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
    return Questions(source, texts, None, {"text": texts})


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
    """Writes the answers to `config.output`; else prints them as a table, of many labels the most probable ones.

    Raises:
        InputError: As `answers`, or the output cannot be written.
    """
    questions = _questions(config)
    if config.output is None:
        _print(_predict(config, questions))
        return
    output = Path(config.output).expanduser()
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output {output}: no such directory {output.absolute().parent}")
    taken = [name for name in questions.columns if name == ANSWER or name.startswith(PROBABILITY)]
    if taken:
        raise InputError(f"--file {config.file}: has a column {taken[0]!r}, which --output writes; rename it")
    predictions = _predict(config, questions)
    _write(predictions, output)
    print(f"{len(questions)} answers -> {output}")


def _write(predictions: Predictions, output: Path) -> None:
    """Writes the rows of the questions, with the answer and a probability for each label, atomically."""
    questions, names, action_N, probability_NK = predictions
    columns: dict[str, Any] = {
        name: pd.Series(list(values), dtype=object) for name, values in questions.columns.items()
    }
    columns[ANSWER] = [names[action] for action in action_N.tolist()]
    for k, name in enumerate(names):
        columns[PROBABILITY + name] = probability_NK[:, k].double().numpy()
    frame = pd.DataFrame(columns)
    with atomic_path(output) as file:
        if output.suffix == ".csv":
            _without_formulas(frame).to_csv(file, index=False, lineterminator="\n")
        elif output.suffix == ".jsonl":
            frame.to_json(file, orient="records", lines=True, force_ascii=False, double_precision=15, date_format="iso")
        else:
            frame.to_parquet(file, index=False)


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with an apostrophe before every text that a spreadsheet would run as a formula; numbers stay."""

    def escaped(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value

    return frame.map(escaped).rename(columns=escaped)


def _print(predictions: Predictions) -> None:
    questions, names, action_N, probability_NK = predictions
    few = len(names) <= MAX_LABELS
    table = Table("question", "answer", *(map(escape, names) if few else ["most probable"]))
    for question, action, probability_K in zip(
        questions.texts, action_N.tolist(), probability_NK.tolist(), strict=True
    ):
        cells = [f"{p:.3f}" for p in probability_K]
        if not few:
            best = sorted(range(len(names)), key=probability_K.__getitem__, reverse=True)[: MAX_LABELS // 2]
            cells = ["  ".join(f"{escape(names[k])} {probability_K[k]:.3f}" for k in best)]
        table.add_row(escape(display_text(question)), escape(names[action]), *cells)
    Console().print(table)
