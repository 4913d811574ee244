"""The files of a repository, chosen by name from the records of a run; nothing else is uploaded."""

import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from eightball_ppo.errors import InputError
from eightball_ppo.hub import dataset_cards
from eightball_ppo.hub.cards import eval_results_yaml, model_card
from eightball_ppo.hub.grade_shapes import shapes
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import ADAPTER, ADAPTER_BASE, ADAPTER_CONFIG, local_path, resolves_to, stays_inside
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
_REDACTED = (*RECORDS, METRICS, "summary.json", "audit.json", "report.html", "audit.html")
_BAD_RECORD = (AttributeError, KeyError, TypeError, ValueError, RecursionError)


@dataclass
class Bundle:
    """The content of a repository: `files` by their path in it, as bytes or as the local file.

    `scratch` holds the directories of files that were made for the upload; they are removed with the bundle.
    """

    repo_type: RepoType
    files: dict[str, bytes | Path] = field(default_factory=dict)
    scratch: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list)

    def add(self, directory: Path, patterns: tuple[str, ...], prefix: str = "") -> None:
        """Adds the files of `directory` that match `patterns`; records lose machine paths and secrets.

        Raises:
            InputError: A file is a link that leads out of the directory.
        """
        for pattern in patterns:
            for file in sorted(directory.glob(pattern)):
                if not stays_inside(file, directory):
                    raise InputError(f"{file}: leads to {resolves_to(file)}, which is no file of the run; not uploaded")
                self.files[prefix + file.name] = _redact_record(file) if file.name in _REDACTED else file

    def size(self, name: str) -> int:
        """Bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def _redact_record(file: Path) -> bytes:
    text = redact(portable_text(file.read_text(encoding="utf-8")))
    if file.name == CONFIG:
        text = yaml.safe_dump(portable(yaml.safe_load(text)), sort_keys=False)
    elif file.suffix == ".json":
        text = json.dumps(portable(json.loads(text)), indent=2, ensure_ascii=False) + "\n"
    return text.encode()


def bundle(directory: Path, repo_id: str, comparison: Path | None = None, trust_remote_code: bool = False) -> Bundle:
    """The repository of a finished run or comparison.

    Args:
        directory: The run or comparison.
        repo_id: The repository id, for the card.
        comparison: A comparison whose table the model card shows; by default the one that the run is part of.
        trust_remote_code: Whether code that comes with the base of adapters may run where they are merged into it.

    Raises:
        InputError: `directory` holds no finished run, or its files are damaged.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory; name one of a finished run")
    try:
        if (directory / "summary.json").is_file():
            return _comparison(directory, repo_id)
        results = read_results(directory)
        if results["method"] == "grade":
            return _grades(directory, results, repo_id)
        if results["method"] == "audit":
            return _audit(directory, repo_id)
        parent = directory.resolve().parent.parent  # of DIRECTORY/runs/NAME
        if comparison is None and (parent / "summary.json").is_file():
            comparison = parent
        return _model(directory, results, repo_id, comparison, trust_remote_code)
    except _BAD_RECORD as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{directory}: no run that can be pushed, its records are damaged ({reason}); run it again"
        ) from error


def _require(directory: Path, names: tuple[str, ...], fix: str) -> None:
    for name in names:
        if not (directory / name).is_file():
            raise InputError(f"{directory}: holds no {name}; {fix}")


def full_model(directory: Path, made: Bundle, trust_remote_code: bool) -> Path:
    """`directory`; where it holds LoRA adapters, one of `made.scratch` with a full model, and a line says so."""
    if not (directory / ADAPTER_CONFIG).is_file():
        return directory
    from eightball_ppo.models.loading import load_classifier  # heavy
    from eightball_ppo.models.saving import save_policy

    model, tokenizer = load_classifier(str(directory), "push", trust_remote_code=trust_remote_code)
    made.scratch.append(tempfile.TemporaryDirectory())
    save_policy(model, tokenizer, target := Path(made.scratch[-1].name))
    print(f"{directory}: its adapters are merged into their base; a full model is uploaded")
    return target


def _base_is_on_hub(directory: Path) -> bool:
    adapters = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return local_path(locate(adapters["base_model_name_or_path"], directory)) is None


def _model(
    directory: Path, results: dict[str, Any], repo_id: str, comparison: Path | None, trust_remote_code: bool
) -> Bundle:
    made, checkpoint = Bundle("model"), directory
    if not (directory / ADAPTER_CONFIG).is_file():
        _require(directory, ("config.json", "model.safetensors"), "train it again, or name another run")
    elif not _base_is_on_hub(directory):
        checkpoint = full_model(directory, made, trust_remote_code)
    made.files["README.md"] = model_card(directory, results, repo_id, comparison, checkpoint).encode()
    made.add(checkpoint, (*CHECKPOINT, *((ADAPTER_CONFIG, ADAPTER_BASE) if checkpoint == directory else ())))
    made.add(directory, (*RECORDS, METRICS, *FIGURES))
    made.add(directory / ADAPTER, ("adapter_config.json", "adapter_model.safetensors"), f"{ADAPTER}/")
    entries = eval_results_yaml(results, read_config(directory))
    if entries is not None:
        made.files[".eval_results/heldout.yaml"] = yaml.safe_dump(entries, sort_keys=False).encode()
    return made


def _grades(directory: Path, results: dict[str, Any], repo_id: str) -> Bundle:
    _require(directory, ("grades.parquet",), "grade again, or name another run")
    made, rows = Bundle("dataset"), {}
    for name, frame in shapes(directory / "grades.parquet").items():
        file = io.BytesIO()
        frame.to_parquet(file, index=False)
        made.files[f"{name}.parquet"], rows[name] = file.getvalue(), len(frame)
    made.files["README.md"] = dataset_cards.grades_card(repo_id, results, rows).encode()
    made.add(directory, RECORDS)
    return made


def _audit(directory: Path, repo_id: str) -> Bundle:
    _require(directory, ("audit.json",), "audit again, or name another run")
    audit = json.loads((directory / "audit.json").read_text(encoding="utf-8"))
    made = Bundle("dataset", {"README.md": dataset_cards.audit_card(repo_id, audit).encode()})
    made.add(directory, ("audit.json", "audit.html", *RECORDS))
    return made


def _comparison(directory: Path, repo_id: str) -> Bundle:
    _require(directory, ("report.md", "report.html", "results.parquet"), "run the comparison again, which resumes it")
    card = redact(portable_text(dataset_cards.comparison_card(repo_id, directory)))
    made = Bundle("dataset", {"README.md": card.encode()})
    made.add(directory, COMPARISON)
    made.add(directory / "figures", ("*",), "figures/")
    return made
