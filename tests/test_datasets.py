"""The two data sets of the repository: sizes, columns, labels, no two texts alike, and no label given away by words."""

import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations

import pytest

from benchmarks import giveaways
from conftest import EIGHTBALL, REPOSITORY, read_rows
from eightball_ppo.data import normalize_text
from eightball_ppo.labels import EIGHTBALL_LABELS

Rows = dict[str, list[dict[str, str]]]
FOLDERS = {"eightball": "question", "tickets": "text"}  # and the column of the texts
SIZES = {
    "eightball": {"sft": 200, "rl": 1200, "preferences": 1050, "heldout": 600},
    "tickets": {"sft": 270, "rl": 324, "preferences": 324, "heldout": 216},
}
INTENTS = 27
OLDER_HELDOUT = "7630165d07bc62b06fcb1d43b7c0f87e9b9626add4f9e6c0e6e8c33bd0ff468a"
DRAW_RESPONSES = runpy.run_path(str(REPOSITORY / "scripts" / "draw_sft_responses.py"))
ANSWER_OF_RESPONSE: dict[str, str] = DRAW_RESPONSES["ANSWER_OF_RESPONSE"]
DRAW_LABELS = runpy.run_path(str(REPOSITORY / "scripts" / "draw_ticket_labels.py"))


def rows_of(folder: str) -> Rows:
    files = {split: REPOSITORY / "datasets" / folder / f"{split}.jsonl" for split in SIZES[folder]}
    return {split: [json.loads(line) for line in file.read_bytes().splitlines()] for split, file in files.items()}


@pytest.fixture(scope="module")
def tickets() -> Rows:
    return rows_of("tickets")


def test_eightball_has_its_columns_and_as_many_of_each_label() -> None:
    rows = rows_of("eightball")
    for split, columns in (("sft", {"answer", "response"}), ("rl", set()), ("preferences", {"answer"})):
        assert all(set(row) == {"question", "topic"} | columns for row in rows[split])
    for split, each in (("preferences", 350), ("heldout", 200)):
        assert Counter(row["answer"] for row in rows[split]) == dict.fromkeys(EIGHTBALL_LABELS, each)
    assert all(ANSWER_OF_RESPONSE[row["response"]] == row["answer"] for row in rows["sft"])
    assert Counter(ANSWER_OF_RESPONSE.values()) == {"Yes": 10, "Maybe": 5, "No": 5}


def test_tickets_have_their_columns_and_as_many_of_each_intent(tickets: Rows) -> None:
    intents = {row["intent"] for row in tickets["heldout"]}
    assert len(intents) == INTENTS
    columns = {"sft": {"intent", "intent_true"}, "rl": set[str](), "preferences": {"intent"}, "heldout": {"intent"}}
    for split, rows in tickets.items():
        assert all(set(row) == {"text"} | columns[split] for row in rows)
        if split != "rl":
            truth = "intent_true" if split == "sft" else "intent"
            assert Counter(row[truth] for row in rows) == dict.fromkeys(intents, len(rows) // INTENTS)
    card = (REPOSITORY / "datasets" / "tickets" / "README.md").read_text(encoding="utf-8")
    table = card.split("## The intents")[1].split("Some are neighbours")[0]
    assert set(re.findall(r"`(\w+)`", table)) == intents


def test_three_of_ten_sft_labels_of_every_intent_are_wrong(tickets: Rows) -> None:
    wrong = Counter(row["intent_true"] for row in tickets["sft"] if row["intent"] != row["intent_true"])
    assert len(wrong) == INTENTS and set(wrong.values()) == {3}


def test_drawn_labels_are_reproducible(tickets: Rows) -> None:
    assert DRAW_LABELS["with_wrong_labels"](tickets["sft"], seed=0) == tickets["sft"]
    assert DRAW_LABELS["with_wrong_labels"](tickets["sft"], seed=9) != tickets["sft"]
    rows = read_rows("sft")
    assert DRAW_RESPONSES["with_responses"](rows, seed=8) == rows
    assert DRAW_RESPONSES["with_responses"](rows, seed=9) != rows


@pytest.mark.parametrize(("folder", "column"), FOLDERS.items())
def test_texts_are_short_clean_and_do_not_open_alike(folder: str, column: str) -> None:
    rows = rows_of(folder)
    assert {split: len(content) for split, content in rows.items()} == SIZES[folder]
    texts = [row[column] for content in rows.values() for row in content]
    for text in texts:
        assert 3 <= len(text.split()) <= 30 and text == text.strip() and text.isprintable(), text
        assert text[-1] == "?" or text[-1].isalnum() if folder == "eightball" else text.isascii(), text
    openings = Counter(" ".join(normalize_text(text).split()[:4]) for text in texts)
    assert openings.most_common(1)[0][1] <= 0.01 * len(texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "column", "length", "most"), [("eightball", "question", 3, 0.6), ("tickets", "text", 1, 0.8)]
)
def test_no_two_texts_share_most_of_their_words(folder: str, column: str, length: int, most: float) -> None:
    """Of their word trigrams in `eightball`, whose questions are longer."""
    words = [normalize_text(row[column]).split() for content in rows_of(folder).values() for row in content]
    parts = [{tuple(text[i : i + length]) for i in range(len(text) - length + 1)} for text in words]
    assert len(set(map(tuple, words))) == len(words) == sum(SIZES[folder].values())
    texts_of = defaultdict(list)
    for text, its_parts in enumerate(parts):
        for part in its_parts:
            texts_of[part].append(text)
    for a, b in {pair for texts in texts_of.values() for pair in combinations(texts, 2)}:
        shared = len(parts[a] & parts[b])
        assert shared <= most * (len(parts[a]) + len(parts[b]) - shared), (words[a], words[b])


@pytest.mark.parametrize(("name", "most"), [("function words", 0.55), ("bag of words", 0.75)])
def test_words_alone_do_not_give_the_held_out_labels_away(name: str, most: float) -> None:
    assert giveaways.right_N(giveaways.vectorizers()[name]).mean() <= most


def test_the_older_held_out_rows_are_unchanged() -> None:
    """So that results on them can be compared with earlier ones."""
    older = (EIGHTBALL / "heldout.jsonl").read_bytes().splitlines(keepends=True)[: giveaways.OLDER]
    assert hashlib.sha256(b"".join(older)).hexdigest() == OLDER_HELDOUT


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_load_dataset_reads_all_configurations_from_the_repository_root(
    folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where a folder is called `datasets`, in a process of its own."""
    code = (
        f"import datasets\nfor split in {tuple(SIZES[folder])}:\n"
        f"    print(split, datasets.load_dataset('datasets/{folder}', split)['train'].num_rows)\n"
    )
    environment = {"HF_HOME": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1", "PATH": os.defpath}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == {k: str(v) for k, v in SIZES[folder].items()}
