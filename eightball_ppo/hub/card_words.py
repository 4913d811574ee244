"""The fixed texts of the cards: what each method is, how to load the model, what it is good for."""

from typing import Any

from eightball_ppo.config.registry import METHODS, REFERENCE, title_of
from eightball_ppo.report.markdown import code, fenced

_REWARD_MODEL = (
    "A classifier that predicts which label the author of a text hopes for. Its softmax is calibrated: the temperature "
    "is folded into the last layer."
)
_PIPELINE = """from transformers import pipeline

classify = pipeline("text-classification", model={name!r}, top_k=None{trust})
print(classify({example!r}))"""
_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained({base!r}{base_args})
model = PeftModel.from_pretrained(base, {name!r}{adapter_args})"""
EXAMPLE = "Will I be rich?"
ANY_TEXT = "A text of yours."
_LIMITS = (
    "Its labels are what its grader or its training answers prefer, not what is true. The numbers above hold for the "
    "data named above only."
)
_PLEASES = (
    "It says what people want to hear, as its grader scores it: it was trained on scores of how welcome an answer is. "
    "Where the grader represents the asker's hopes, as in the embedded example, it demonstrates a method. It is not "
    "an adviser and must not be used to decide anything about anybody."
)


def description(method: str) -> str:
    """What a model is; of a method that is not installed here, its name."""
    if method == "reward":
        return _REWARD_MODEL
    details = f": {METHODS[method].description}" if method in METHODS else ""
    return f"A small text classifier. Its method is {title_of(method)}{details}."


def snippet(name: str, model_config: dict[str, Any], example: str) -> str:
    """Code that classifies `example`; with `trust_remote_code` if the repository holds the modelling code."""
    remote_code = "auto_map" in model_config
    note = "Its modelling code is in this repository; read it before you trust it.\n\n" if remote_code else ""
    trust = ", trust_remote_code=True" if remote_code else ""
    return note + fenced(_PIPELINE.format(name=name, trust=trust, example=example), "python")


def adapter_snippet(name: str, base: str | None, num_labels: int) -> str:
    """Code that loads the LoRA adapter of merged weights."""
    args = {"base": base or "THE ENCODER IT WAS TRAINED ON", "base_args": f", num_labels={num_labels}"}
    loading = _ADAPTER.format(name=name, adapter_args=', subfolder="adapter"', **args)
    return "The LoRA adapter alone, without the base model's weights, is in `adapter`:\n\n" + fenced(loading, "python")


def bare_adapter_snippet(name: str, reference: str) -> str:
    """Code that loads a policy that was saved as LoRA adapters on its reference."""
    loading = _ADAPTER.format(name=name, adapter_args="", base=reference, base_args="")
    return f"LoRA adapters and a head on its reference, {code(reference)}:\n\n" + fenced(loading, "python")


def limits(method: str) -> str:
    """What a model may be used for."""
    return _LIMITS if method in (REFERENCE, "reward") else f"{_PLEASES}\n\n{_LIMITS}"
