"""What of a run goes into which repository: a list of files, made of its records, by name; nothing else is taken."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from eightball_ppo.errors import InputError
from eightball_ppo.hub import dataset_cards
from eightball_ppo.hub.cards import eval_results_yaml, model_card
from eightball_ppo.hub.grade_shapes import shapes
from eightball_ppo.runtime.paths import ADAPTER, resolves_to, stays_inside
from eightball_ppo.runtime.redaction import portable, portable_text, redact
from eightball_ppo.runtime.run import CONFIG, ENVIRONMENT, METRICS, RESULTS, read_config, read_results

RepoType = Literal["model", "dataset", "space"]
RECORDS = (CONFIG, ENVIRONMENT, RESULTS)
CHECKPOINT = (
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("configuration_*.py", "modeling_*.py"),
)
FIGURES = ("curves.png", "labels.png")
COMPARISON = ("report.html", "results.parquet", "summary.json", CONFIG, ENVIRONMENT)


@dataclass
class Bundle:
    """A repository's content: `files` by their path in it, as bytes or as the file that holds them."""

    repo_type: RepoType
    files: dict[str, bytes | Path] = field(default_factory=dict)

    def add(self, directory: Path, patterns: tuple[str, ...], inside: str = "") -> None:
        """The files of `directory` that `patterns` name; of texts, what only this machine has is left out.

        Raises:
            InputError: one that is a link to a file elsewhere.
        """
        for pattern in patterns:
            for file in sorted(directory.glob(pattern)):
                if not stays_inside(file, directory):
                    raise InputError(f"{file}: leads to {resolves_to(file)}, which is no file of the run; not uploaded")
                self.files[inside + file.name] = _content(file)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def _content(file: Path) -> bytes | Path:
    if file.name in RECORDS or file.name in (METRICS, "summary.json", "audit.json", "report.html", "audit.html"):
        text = redact(portable_text(file.read_text(encoding="utf-8")))
        if file.name == CONFIG:
            text = yaml.safe_dump(portable(yaml.safe_load(text)), sort_keys=False)
        elif file.suffix == ".json":
            text = json.dumps(portable(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
        return text.encode()
    return file


def bundle(directory: Path, repo_id: str, comparison: Path | None = None) -> Bundle:
    """What `directory`, any finished run or comparison, is on the Hub.

    Raises:
        InputError: no finished run stands there, or one whose files are damaged.
    """
    try:
        return _bundle(directory, repo_id, comparison)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # of a record that lacks what ours have
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{directory}: no run that can be pushed, its records are damaged ({said}); make it anew"
        ) from error


def _bundle(directory: Path, repo_id: str, comparison: Path | None) -> Bundle:
    if (directory / "summary.json").is_file():
        return _comparison(directory, repo_id)
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; name one of a finished run")
    results = read_results(directory)
    kinds: dict[str, Callable[[Path, dict[str, Any], str], Bundle]] = {"grade": _grades, "audit": _audit}
    if results["method"] in kinds:
        return kinds[results["method"]](directory, results, repo_id)
    return _model(directory, results, repo_id, comparison or _its_comparison(directory))


def _its_comparison(directory: Path) -> Path | None:
    """The comparison that a run was made in: DIRECTORY/runs/NAME."""
    root = directory.resolve().parent.parent
    return root if (root / "summary.json").is_file() else None


def _model(directory: Path, results: dict[str, Any], repo_id: str, comparison: Path | None) -> Bundle:
    if (directory / "adapter_config.json").is_file():
        raise InputError(
            f"{directory}: holds adapters without the model they stand on; train it with --merge_adapter to push it"
        )
    for name in ("config.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise InputError(f"{directory}: holds no {name}; train it again, or name another run")
    made = Bundle("model", {"README.md": model_card(directory, results, repo_id, comparison).encode()})
    made.add(directory, (*CHECKPOINT, *RECORDS, METRICS, *FIGURES))
    made.add(directory / ADAPTER, ("adapter_config.json", "adapter_model.safetensors"), f"{ADAPTER}/")
    entries = eval_results_yaml(results, read_config(directory))
    if entries is not None:
        made.files[".eval_results/heldout.yaml"] = yaml.safe_dump(entries, sort_keys=False).encode()
    return made


def _grades(directory: Path, results: dict[str, Any], repo_id: str) -> Bundle:
    table = directory / "grades.parquet"
    if not table.is_file():
        raise InputError(f"{directory}: holds no {table.name}; grade again, or name another run")
    made, rows = Bundle("dataset"), {}
    for name, frame in shapes(table).items():
        file = io.BytesIO()
        frame.to_parquet(file, index=False)
        made.files[f"{name}.parquet"], rows[name] = file.getvalue(), len(frame)
    made.files["README.md"] = dataset_cards.grades_card(repo_id, results, rows).encode()
    made.add(directory, RECORDS)
    return made


def _audit(directory: Path, results: dict[str, Any], repo_id: str) -> Bundle:
    try:
        audit = json.loads((directory / "audit.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{directory}: no finished audit, audit.json is missing or damaged") from None
    made = Bundle("dataset", {"README.md": dataset_cards.audit_card(repo_id, audit).encode()})
    made.add(directory, ("audit.json", "audit.html", *RECORDS))
    return made


def _comparison(directory: Path, repo_id: str) -> Bundle:
    for name in ("report.md", "report.html", "results.parquet"):
        if not (directory / name).is_file():
            raise InputError(f"{directory}: holds no {name}; run the comparison again, it goes on where it stood")
    card = redact(portable_text(dataset_cards.comparison_card(repo_id, directory)))
    made = Bundle("dataset", {"README.md": card.encode()})
    made.add(directory, COMPARISON)
    made.add(directory / "figures", ("*",), "figures/")
    return made
