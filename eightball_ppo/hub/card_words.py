"""The fixed words of the cards: what each method is, how to load what it made, what it is good for."""

from typing import Any

from eightball_ppo.config.registry import METHODS, REFERENCE, title_of
from eightball_ppo.report.markdown import code, fenced

_REWARD_MODEL = (
    "A classifier that says which label the author of a text wants. Its softmax is calibrated: the temperature is "
    "folded into the last layer."
)
_PIPELINE = """from transformers import pipeline

classify = pipeline("text-classification", model={name!r}, top_k=None{trust})
print(classify({example!r}))"""
_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels={labels})
model = PeftModel.from_pretrained(base, {name!r}, subfolder="adapter")"""
_BARE_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained({base!r})
model = PeftModel.from_pretrained(base, {name!r})"""
EXAMPLE = "Will I be rich?"
ANY_TEXT = "A text of yours."
_LIMITS = (
    "Its labels say what its grader or its training answers prefer, not what is true. The numbers above hold for the "
    "data named above, and for no other."
)
_PLEASES = (
    "It says what people want to hear, or what its grader takes that for: it was trained on scores of how welcome an "
    "answer is. Where the grader stands for an asker's wishes, as in the embedded example, it is a study of a method, "
    "not an adviser, and must not be used to decide anything about anybody."
)


def what(method: str) -> str:
    """What a model is; of a method that is not installed here, its name."""
    if method == "reward":
        return _REWARD_MODEL
    description = f": {METHODS[method].description}" if method in METHODS else ""
    return f"A small text classifier. Its method is {title_of(method)}{description}."


def snippet(name: str, model_config: dict[str, Any], example: str) -> str:
    """How to ask the model about `example`; with `trust_remote_code` where its architecture travels with it."""
    own_code = "auto_map" in model_config
    note = "Its modelling code is in this repository; read it before you trust it.\n\n" if own_code else ""
    trust = ", trust_remote_code=True" if own_code else ""
    return note + fenced(_PIPELINE.format(name=name, trust=trust, example=example), "python")


def adapter_snippet(name: str, base: str | None, num_labels: int) -> str:
    """How to load the LoRA adapter that the merged weights were made of."""
    loading = _ADAPTER.format(name=name, base=base or "THE ENCODER IT WAS TRAINED ON", labels=num_labels)
    note = "The LoRA adapter alone, without the base model's weights, is in `adapter`:\n\n"
    return note + fenced(loading, "python")


def bare_adapter_snippet(name: str, reference: str) -> str:
    """How to load a policy that was saved as LoRA adapters on its reference."""
    note = f"LoRA adapters and a head on its reference, {code(reference)}:\n\n"
    return note + fenced(_BARE_ADAPTER.format(name=name, base=reference), "python")


def limits(method: str) -> str:
    """What a model is good for, and what not."""
    return _LIMITS if method in (REFERENCE, "reward") else f"{_PLEASES}\n\n{_LIMITS}"
