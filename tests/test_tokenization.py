"""Tokenizers and token tables."""

import logging
from pathlib import Path

import encoders
import pytest
import torch
from pytest import LogCaptureFixture
from transformers import AutoTokenizer

from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.models.tokenization import load_tokenizer, max_input_length, set_max_length, token_table, tokenize

QUESTIONS = Questions("some.jsonl", ["Will it rain?", "Will it rain in Rome on the day after tomorrow?"])


def test_wordpiece_pads_to_the_longest_question_and_masks_padding() -> None:
    table = tokenize(QUESTIONS, load_tokenizer("wordpiece", QUESTIONS), 32)
    inputs = table.rows(torch.tensor([0, 1]))
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 13)
    assert inputs["attention_mask"].sum(1).tolist() == [6, 13] and table.truncated == 0


def test_long_questions_are_truncated_counted_and_warned_about_once(caplog: LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        table = tokenize(QUESTIONS, load_tokenizer("wordpiece", QUESTIONS), 8)
    assert table.length_N.tolist() == [6, 8] and table.truncated == 1
    (record,) = caplog.records
    assert "some.jsonl: 1 of 2 questions" in record.getMessage()


def test_whitespace_tokenizer_lowercases_and_has_an_unknown_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("whitespace", QUESTIONS)
    assert tokenizer.tokenize("WILL it snow?") == ["will", "it", "<unk>"]
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(QUESTIONS.texts)["input_ids"] == tokenizer(QUESTIONS.texts)["input_ids"]
    assert again.pad_token_id == 0 and again.unk_token == "<unk>"


@pytest.mark.parametrize(("kind", "longest"), [("bert", 66), ("roberta", 64), ("mpnet", 64), ("distilbert", 66)])
def test_texts_are_truncated_to_the_positions_of_the_model(kind: str, longest: int, tmp_path: Path) -> None:
    """With a tokenizer that was saved without a limit, as many are."""
    encoders.save(kind, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(tmp_path)
    text = "rain " * 200
    grader = BertGrader.from_directory(str(tmp_path))
    assert grader.logp_BK([text]).isfinite().all() and grader.settings["reads"] == f"{longest} tokens"
    model, tokenizer = load_classifier(str(tmp_path), "--sft_model_path")
    assert token_table([text], tokenizer, max_input_length(tokenizer)).longest == longest
    with pytest.raises(InputError, match=rf"--max_length {longest + 1}: .* reads at most {longest} tokens"):
        set_max_length(tokenizer, model, longest + 1)
