"""The fixed words of the cards: what each method is, how to load what it made, what it is good for."""

from typing import Any

from eightball_ppo.report.markdown import code, fenced

WHAT = {
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
    return _LIMITS if method in ("sft", "reward") else f"{_PLEASES}\n\n{_LIMITS}"
