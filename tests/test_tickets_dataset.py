"""The ticket data keeps its promises."""

import json
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations

import pytest

from conftest import REPOSITORY
from eightball_ppo.data import normalize_text

TICKETS = REPOSITORY / "datasets" / "tickets"
EACH = {"sft": 10, "preferences": 12, "rl": 12, "heldout": 8}
INTENTS = 27


def rows_of(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (TICKETS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_sizes_columns_and_intents() -> None:
    intents = {row["intent"] for row in rows_of("heldout")}
    assert len(intents) == INTENTS
    for split, each in EACH.items():
        rows = rows_of(split)
        labelled = {"sft": {"intent", "intent_true"}, "rl": set()}.get(split, {"intent"})
        assert len(rows) == each * INTENTS
        assert all(set(row) == {"text"} | labelled for row in rows)
        if split != "rl":
            truth = "intent_true" if split == "sft" else "intent"
            assert Counter(row[truth] for row in rows) == dict.fromkeys(intents, each)


def test_thirty_percent_of_the_sft_labels_are_wrong_in_every_intent_alike() -> None:
    rows = rows_of("sft")
    wrong = Counter(row["intent_true"] for row in rows if row["intent"] != row["intent_true"])
    assert wrong == dict.fromkeys({row["intent_true"] for row in rows}, 3)
    assert {row["intent"] for row in rows} == {row["intent_true"] for row in rows}


def test_the_wrong_labels_are_drawn_again_byte_for_byte() -> None:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        import draw_ticket_labels
    finally:
        sys.path.pop(0)
    rows = rows_of("sft")
    drawn = draw_ticket_labels.with_wrong_labels(rows, seed=0)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn)
    assert lines.encode() == (TICKETS / "sft.jsonl").read_bytes()
    assert draw_ticket_labels.with_wrong_labels(rows, seed=9) != rows


def test_no_text_twice_and_no_two_alike() -> None:
    texts = [row["text"] for split in EACH for row in rows_of(split)]
    keys = [normalize_text(text) for text in texts]
    assert len(set(keys)) == len(keys) == INTENTS * sum(EACH.values())
    words = [set(key.split()) for key in keys]
    for i, j in combinations(range(len(words)), 2):
        jaccard = len(words[i] & words[j]) / len(words[i] | words[j])
        assert jaccard <= 0.8, (texts[i], texts[j], jaccard)


def test_texts_are_short_and_clean() -> None:
    for split in EACH:
        for row in rows_of(split):
            assert 4 <= len(row["text"].split()) <= 30, row
            assert row["text"] == row["text"].strip() and row["text"].isascii() and row["text"].isprintable(), row


def test_no_template_opens_many_texts() -> None:
    """No first four words stand in more than 1 % of the texts."""
    openings = Counter(" ".join(normalize_text(row["text"]).split()[:4]) for split in EACH for row in rows_of(split))
    assert openings.most_common(1)[0][1] <= 0.01 * INTENTS * sum(EACH.values())


def test_the_card_names_every_intent_and_nothing_else() -> None:
    card = (TICKETS / "README.md").read_text(encoding="utf-8")
    table = card.split("## The intents")[1].split("Some are neighbours")[0]
    assert set(re.findall(r"`(\w+)`", table)) == {row["intent"] for row in rows_of("heldout")}


def test_load_dataset_reads_all_four_configurations(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From the repository root, where a folder is called `datasets`, in a process of its own."""
    code = (
        "import datasets\n"
        f"for split in {tuple(EACH)}:\n"
        "    print(split, datasets.load_dataset('datasets/tickets', split)['train'].num_rows)\n"
    )
    cache = str(tmp_path_factory.mktemp("cache"))
    environment = {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split() for line in done.stdout.splitlines())
    assert printed == {split: str(each * INTENTS) for split, each in EACH.items()}
