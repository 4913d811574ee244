"""What `--label_descriptions` says about the labels."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

FLAG = "--label_descriptions"
SUFFIXES = (".yaml", ".yml", ".json")


def label_descriptions(entries: Sequence[str], labels: LabelSet) -> dict[str, str]:
    """The description of each label that has one, in one line and in the order of the labels.

    Args:
        entries: `LABEL=text` for each label, or one YAML or JSON file with a mapping from label to text.
        labels: The labels that may be described.

    Raises:
        InputError: An unreadable file, a malformed entry, an unknown label, one that appears twice, or an empty text.
    """
    if len(entries) == 1 and "=" not in entries[0] and entries[0].endswith(SUFFIXES):
        where, pairs = f"{FLAG} {entries[0]}", _pairs_of(Path(entries[0]))
    else:
        where, pairs = FLAG, [_pair(entry) for entry in entries]
    return _checked(where, pairs, labels)


def _pair(entry: str) -> tuple[str, str]:
    label, equals, text = entry.partition("=")
    if not equals:
        raise InputError(f"{FLAG} {entry}: LABEL=text is needed, or one file that ends in {', '.join(SUFFIXES)}")
    return label, text


def _pairs_of(file: Path) -> Iterable[tuple[str, str]]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            pairs = json.loads(text, object_pairs_hook=tuple)
        else:  # as written: safe_load makes True of the label Yes
            root: Any = yaml.compose(text, yaml.SafeLoader)
            pairs = tuple((key.value, value.value) for key, value in root.value) if _is_mapping(root) else None
        if not isinstance(pairs, tuple):
            raise ValueError("a mapping from label to text is needed")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{FLAG} {file}: unreadable ({' '.join(str(error).split())})") from None
    return pairs


def _is_mapping(node: Any) -> bool:
    return getattr(node, "tag", "").endswith(":map")


def _checked(where: str, pairs: Iterable[tuple[str, str]], labels: LabelSet) -> dict[str, str]:
    """The pairs as a mapping, each text in one line."""
    found: dict[str, str] = {}
    for label, text in pairs:
        if label not in labels.names:
            raise InputError(f"{where}: no label {label!r}; the labels are {list(labels.names)}")
        if label in found:
            raise InputError(f"{where}: label {label!r} appears twice; describe it once")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: label {label!r} is described by {text!r:.60}; a text is needed")
        found[label] = " ".join(text.split())
    return {name: found[name] for name in labels.names if name in found}
