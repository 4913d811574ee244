"""A local language model as judge: a label's probability as the next words of its reply. Nothing is generated."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import PartialState
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.label_token_probs import LabelTokenScorer, token_sequences
from eightball_ppo.graders.prompts import CONTENT_FREE, Messages, Prompt
from eightball_ppo.graders.verbalizers import (
    MAX_MISSING_MASS,
    MIN_MASS,
    RATINGS,
    expected_rating,
    missing_mass,
    normalize_logp,
    parse_verbalizers,
)
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.models.safe_loading import check_files, unloadable, warn_of_code

_NO_NUMBERS = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a config: names and places


class CausalLMGrader:
    """`llm`: a chat or base model in this process, read by label log-probabilities.

    Raises:
        InputError: labels that its tokenizer cannot tell apart, or a chat template that cannot be rendered.
    """

    deliberate = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: GraderConfig, labels: LabelSet
    ):
        model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.labels = labels
        self._batch = AutoBatchSize(config.grader_batch_size)
        self._prompt = Prompt.load(config.grader_prompt, labels)
        self.scale = self._prompt.scale
        words = parse_verbalizers(config.grader_verbalizers, labels)
        if self.scale == "rating":
            words = tuple((str(rating),) for rating in RATINGS)
        lead = self._prompt.render("", labels, labels.names[0]).reply or "\n"
        sequences_K = token_sequences(tokenizer, words, lead, may_continue=self.scale == "rating")
        self._length_K = [min(map(len, own)) for own in sequences_K]
        self._longest_prompt = _reads_at_most(model) - max(len(sequence) for own in sequences_K for sequence in own)
        self._system_role = _takes_system(tokenizer)
        try:
            examples = [
                self._input_ids(GradeRequest(question, labels.names[0])) for question in ("Is it so?", "will they", "9")
            ]
        except TemplateError as error:  # transformers renders it in a sandbox
            raise InputError(f"--grader_model {config.grader_model}: its chat template fails ({error})") from None
        self._next_words = LabelTokenScorer(model, sequences_K, examples)
        self.settings: dict[str, Any] = {
            "grader": "llm",
            "model": config.grader_model,
            "weights": getattr(model.config, "_commit_hash", None) or weights_fingerprint(model),
            "dtype": str(model.dtype),
            "quantization": config.grader_quantization,
            "prompt": config.grader_prompt,
            "prompt_sha256": self._prompt.sha,
            "contextual_calibration": config.contextual_calibration,
            "labels": list(labels.names),
            "words": [list(own) for own in words],
            "reads": settings_fingerprint({"grader": "llm", "examples": examples, "tokens": sequences_K}),
            "architecture": settings_fingerprint({"grader": "llm", "config": _architecture(model)}),
        }
        identity = {name: value for name, value in self.settings.items() if name not in ("model", "prompt")}
        self.fingerprint = settings_fingerprint(identity)  # where the model and the prompt lie does not matter
        self._content_free_K: list[float] | None = None
        if config.contextual_calibration:
            self._content_free_K = self._content_free()

    @classmethod
    def load(cls, config: GraderConfig, labels: LabelSet) -> "CausalLMGrader":
        """The model of `--grader_model`, a directory or Hub id.

        Raises:
            InputError: it cannot be loaded, or quantization is asked for and bitsandbytes is not there.
        """
        assert config.grader_model is not None
        name = config.grader_model
        path = check_checkpoint(name, "--grader_model")
        source = name if path is None else str(path)
        device = PartialState().device
        dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        if config.trust_remote_code:
            warn_of_code(name, "--grader_model")
        try:
            check_files(name, "--grader_model")
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                source,
                use_safetensors=True,
                trust_remote_code=config.trust_remote_code,
                dtype=dtype,
                **_quantization(config.grader_quantization, dtype),
            )
        except InputError:
            raise
        except Exception as error:  # every library below raises its own
            raise unloadable(name, "--grader_model", "not a loadable language model", error) from error
        if config.grader_quantization == "none":
            model.to(device)
        return cls(model, tokenizer, config, labels)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`."""
        for batch in batched(self._readable(budget.allowed(requests), on_grade), self._batch.most):
            for request, mass_K in zip(batch, self._mass_BK(batch), strict=True):
                missing = missing_mass(mass_K)
                if missing > MAX_MISSING_MASS:
                    wanted = "the labels" if request.label is None else "1 to 10"
                    on_grade(
                        Grade(request, "failed", (), f"{missing:.2f} of the probability is on other than {wanted}")
                    )
                else:
                    on_grade(Grade.of(request, self._scores(mass_K), missing=missing))

    def _readable(self, requests: Iterable[GradeRequest], on_grade: OnGrade) -> Iterator[GradeRequest]:
        """Those of `requests` whose prompt the model can read; the others have failed."""
        for request in requests:
            length = len(self._input_ids(request))
            if length <= self._longest_prompt:
                yield request
            else:
                on_grade(
                    Grade(request, "failed", (), f"a prompt of {length} tokens, the model reads {self._longest_prompt}")
                )

    def tokens(self, request: GradeRequest) -> int:
        """See `Grader.tokens`."""
        return 0

    def _mass_BK(self, batch: list[GradeRequest]) -> list[list[float]]:
        prompts = [self._input_ids(request) for request in batch]
        return self._batch.fitting(
            lambda size: [
                mass_K for own in batched(prompts, size) for mass_K in self._next_words.mass_BK(list(own)).tolist()
            ]
        )

    def _scores(self, mass_K: list[float]) -> list[float]:
        """Of the masses of the words: log-probabilities of the labels, or one rating."""
        if self.scale == "rating":
            return [expected_rating(mass_K)]
        per_token = [math.log(max(m, MIN_MASS)) / length for m, length in zip(mass_K, self._length_K, strict=True)]
        if self._content_free_K is not None:
            per_token = [value - free for value, free in zip(per_token, self._content_free_K, strict=True)]
        return normalize_logp([math.exp(value - max(per_token)) for value in per_token])

    def _content_free(self) -> list[float]:
        """The scores of a question without content, which contextual calibration subtracts.

        Raises:
            InputError: the prompt rates.
        """
        if self.scale == "rating":
            raise InputError("--contextual_calibration: is for prompts that choose a label, not for those that rate")
        return self._scores(self._mass_BK([GradeRequest(CONTENT_FREE)])[0])

    def _input_ids(self, request: GradeRequest) -> list[int]:
        """The tokens of the prompt of one request, as far as the judge's reply."""
        messages = self._prompt.render(request.question, self.labels, request.label)
        if self.tokenizer.chat_template is None:
            text = f"{messages.system}\n\n{messages.user}\n{messages.reply}"
            return self.tokenizer(text)["input_ids"]
        chat = _chat(messages, self._system_role)
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + messages.reply
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _reads_at_most(model: PreTrainedModel) -> int:
    """Tokens that the model's positions allow."""
    return getattr(model.config, "max_position_embeddings", None) or 2**31


def _architecture(model: PreTrainedModel) -> dict[str, Any]:
    """What of a model's config can change its numbers: all but names, versions and places."""
    told = model.config.to_dict()
    return {name: told[name] for name in sorted(told) if name not in _NO_NUMBERS}


def _chat(messages: Messages, system_role: bool) -> list[dict[str, str]]:
    """The prompt as a chat; without a system role the instruction stands in front of the data."""
    if system_role:
        return [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]
    return [{"role": "user", "content": f"{messages.system}\n\n{messages.user}"}]


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's chat template knows a system role."""
    if tokenizer.chat_template is None:
        return False
    try:
        text = tokenizer.apply_chat_template(_chat(Messages("instruction", "data", ""), True), tokenize=False)
    except TemplateError:
        return False
    return "instruction" in text


def _quantization(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told for `--grader_quantization`.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if kind == "none":
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise InputError(
            f"--grader_quantization {kind}: bitsandbytes is not installed; pip install bitsandbytes, or leave it out"
        ) from None
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)}
