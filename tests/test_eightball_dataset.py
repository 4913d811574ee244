"""The embedded data keeps its promises."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from conftest import EIGHTBALL, REPOSITORY, read_rows, write_rows
from eightball_ppo.data import normalize_text
from eightball_ppo.labels import ANSWER_OF_RESPONSE, EIGHTBALL_LABELS

SIZES = {"sft": 200, "rl": 600, "preferences": 750, "heldout": 300}


def test_sizes_columns_and_label_counts() -> None:
    for split, size in SIZES.items():
        rows = read_rows(split)
        assert len(rows) == size
        columns = (
            {"question", "topic"}
            | ({"answer"} if split != "rl" else set())
            | ({"response"} if split == "sft" else set())
        )
        assert all(set(row) == columns for row in rows)
    for split, each in (("preferences", 250), ("heldout", 100)):
        assert Counter(row["answer"] for row in read_rows(split)) == dict.fromkeys(EIGHTBALL_LABELS, each)
    assert all(ANSWER_OF_RESPONSE[row["response"]] == row["answer"] for row in read_rows("sft"))
    assert read_rows("heldout")[0]["question"] == "Will I be successful?"


def test_responses_are_the_twenty_with_prior_50_25_25() -> None:
    assert Counter(ANSWER_OF_RESPONSE.values()) == {"Yes": 10, "Maybe": 5, "No": 5}


def test_questions_are_3_to_25_words_and_end_with_a_question_mark() -> None:
    for split in SIZES:
        for row in read_rows(split):
            assert 3 <= len(row["question"].split()) <= 25, row
            assert row["question"].endswith("?") and row["question"] == row["question"].strip(), row


def test_no_question_twice_and_none_shared_between_splits() -> None:
    keys = [normalize_text(row["question"]) for split in SIZES for row in read_rows(split)]
    assert len(set(keys)) == len(keys) == sum(SIZES.values())


def test_no_two_questions_share_more_than_0_6_of_their_word_trigrams() -> None:
    texts = [row["question"] for split in SIZES for row in read_rows(split)]
    words = [normalize_text(text).split() for text in texts]
    trigrams = [{tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in words]
    holders: dict[tuple[str, ...], list[int]] = {}
    for i, own in enumerate(trigrams):
        for j in {j for trigram in own for j in holders.get(trigram, [])}:
            jaccard = len(own & trigrams[j]) / len(own | trigrams[j])
            assert jaccard <= 0.6, (texts[i], texts[j], jaccard)
        for trigram in own:
            holders.setdefault(trigram, []).append(i)


def test_no_template_opens_many_questions() -> None:
    """No first four words stand in more than 1 % of the questions, and no topic in more than 3 % of a split."""
    openings = Counter(
        " ".join(normalize_text(row["question"]).split()[:4]) for split in SIZES for row in read_rows(split)
    )
    assert openings.most_common(1)[0][1] <= 0.01 * sum(SIZES.values())
    for split, size in SIZES.items():
        topics = Counter(row["topic"] for row in read_rows(split))
        assert len(topics) >= 75 and max(topics.values()) <= 0.03 * size


def test_valid_utf8_and_plain_characters() -> None:
    for split in SIZES:
        text = (EIGHTBALL / f"{split}.jsonl").read_bytes().decode("utf-8")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\ufffd]", text)


def test_responses_are_reproducible() -> None:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        import draw_sft_responses
    finally:
        sys.path.pop(0)
    rows = read_rows("sft")
    assert draw_sft_responses.with_responses(rows, seed=8) == rows
    assert draw_sft_responses.with_responses(rows, seed=9) != rows


def test_load_dataset_reads_all_four_configurations(tmp_path_factory: pytest.TempPathFactory) -> None:
    """From the repository root, where a folder is called `datasets`, in a process of its own."""
    code = (
        "import datasets\n"
        "for split in ('sft', 'rl', 'preferences', 'heldout'):\n"
        "    table = datasets.load_dataset('datasets/eightball', split)\n"
        "    print(datasets.__version__, split, table['train'].num_rows)\n"
    )
    cache = str(tmp_path_factory.mktemp("cache"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split()[1:] for line in done.stdout.splitlines()]
    assert printed == [[split, str(size)] for split, size in SIZES.items()]


def test_written_rows_round_trip(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = write_rows(tmp_path_factory.mktemp("rows") / "rl.jsonl", read_rows("rl"))
    assert file.read_bytes() == (EIGHTBALL / "rl.jsonl").read_bytes()
