"""Model cards, made from a run's records alone. (Uploads come with the Hub work; nothing here talks to a network.)"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_WHAT = {
    "sft": "A small text classifier fine-tuned on questions with *random* 8-ball answers: it knows the form of an "
    "answer and nothing else. It is the reference of the methods that follow.",
    "reward": "A BERT that says which answer the asker of a question wants to hear. Its softmax is calibrated: the "
    "temperature is folded into the last layer.",
    "distill": "A small text classifier trained by cross-entropy on a grader's confident labels (thresholded "
    "distillation).",
    "ppo": "A small text classifier trained by PPO (TRL's `PPOTrainer`) on a grader's scores, with a KL penalty to its "
    "SFT reference.",
}
_SNIPPET = """```python
import eightball_ppo  # or pass trust_remote_code=True
from transformers import pipeline

ask = pipeline("text-classification", model="{name}")
print(ask("Will I be successful?"))
```"""
_LIMITS = (
    "It says what people want to hear, not what will happen. It was trained on English Magic 8-Ball questions and is "
    "an example of a method, not an adviser."
)


def write_card(directory: Path, method: str, results: dict[str, Any]) -> None:
    """Write `README.md`, the model card of a run: what it is, how to load it, and every number of its results."""
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        license="apache-2.0",
        language="en",
        tags=["eightball-ppo", *(["trl", "ppo"] if method == "ppo" else [method])],
    )
    name = directory.name.removesuffix(".unfinished")
    settings = {key: value for key, value in results.items() if not isinstance(value, dict | list) and key != "method"}
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}",
        _WHAT[method],
        _SNIPPET.format(name=name) if method != "reward" else "",
        "## Numbers of this run\n\n" + _table("split", results["splits"]),
        "## Settings\n\n" + "\n".join(f"- `{key}`: {_cell(value)}" for key, value in settings.items()),
        "## Use and limits\n\n" + _LIMITS,
    ]
    ModelCard("\n\n".join(section for section in sections if section) + "\n").save(directory / "README.md")


def _table(corner: str, splits: dict[str, dict[str, Any]]) -> str:
    metrics = list(next(iter(splits.values())))
    lines = [f"| {corner} | " + " | ".join(splits) + " |", "|---" * (len(splits) + 1) + "|"]
    lines += [
        f"| `{metric}` | " + " | ".join(_cell(own[metric]) for own in splits.values()) + " |" for metric in metrics
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value)
