"""Model cards, made from a run's records alone. (Uploads come with the Hub work; nothing here talks to a network.)"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from eightball_ppo.locations import local_path
from eightball_ppo.options import StageConfig

_WHAT = {
    "sft": "A small text classifier fine-tuned on the answers of its data: the reference of the methods that follow.",
    "reward": "A classifier that says which label the author of a text wants. Its softmax is calibrated: the "
    "temperature is folded into the last layer.",
    "distill": "A small text classifier trained by cross-entropy on a grader's confident labels (thresholded "
    "distillation).",
    "distill_soft": "A small text classifier trained by cross-entropy to a grader's distribution over the labels.",
    "distill_boltzmann": "A small text classifier trained by cross-entropy to `ref * exp(score / beta) / Z`, the best "
    "policy at its price of KL.",
    "ppo": "A small text classifier trained by PPO (TRL's `PPOTrainer`) on a grader's scores, with a KL penalty to its "
    "SFT reference.",
    "rloo": "A small text classifier trained by RLOO (TRL's `RLOOTrainer`) on a grader's scores, with a KL penalty to "
    "its SFT reference.",
    "grpo": "A small text classifier trained by GRPO (TRL's `GRPOTrainer`) on a grader's scores, with a KL penalty to "
    "its SFT reference.",
    "best_of_n": "The best-scored of n answers of its SFT reference, as the policy that it amounts to: it knows the "
    "questions that were graded, and answers all others as the reference does.",
    "exact": "A small text classifier trained by the exact gradient of its objective, a sum over all labels.",
}
_SNIPPET = """```python
import eightball_ppo  # or pass trust_remote_code=True
from transformers import pipeline

classify = pipeline("text-classification", model="{name}", top_k=None)
```"""
_LIMITS = (
    "Its labels say what its grader or its training answers prefer, not what is true. The numbers above hold for the "
    "data named above."
)


def write_card(directory: Path, results: dict[str, Any], config: StageConfig) -> None:
    """Write `README.md`, the model card of a run: what it is, how to load it, and every number of its results."""
    method = results["method"]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        datasets=None if local_path(config.dataset_name) else config.dataset_name,
        tags=["eightball-ppo", *(["trl"] if method in ("ppo", "rloo", "grpo") else []), method],
    )
    name = directory.name.removesuffix(".unfinished")
    settings = {key: value for key, value in results.items() if not isinstance(value, dict | list) and key != "method"}
    sections = [
        f"---\n{data.to_yaml()}\n---\n\n# {name}",
        _WHAT[method],
        f"Data: `{config.dataset_name}`. Labels: {', '.join(f'`{label}`' for label in config.labels)}.",
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
