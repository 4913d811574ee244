"""A local language model as judge: label log-probabilities as its next tokens. Nothing is generated."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import PartialState
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_bitsandbytes_available
from transformers.utils.quantization_config import BitsAndBytesConfig

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders import verbalizers
from eightball_ppo.graders.auto_batch_size import AutoBatchSize
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.label_token_probs import LabelTokenScorer, token_sequences
from eightball_ppo.graders.prompts import CONTENT_FREE, Messages, Prompt
from eightball_ppo.graders.verbalizers import RATINGS, log_softmax
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.models.safe_loading import check_files, unloadable, warn_of_code

_IRRELEVANT = ("_name_or_path", "architectures", "dtype", "transformers_version")  # config keys that change no number


class CausalLMGrader(Grader):
    """`llm`: a chat or base model in this process.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        config: The grader options.
        labels: The K labels.

    Raises:
        InputError: Labels that the tokenizer cannot tell apart, or a chat template that cannot be rendered.
    """

    deliberate = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: GraderConfig, labels: LabelSet
    ):
        model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.labels = labels
        self._batch_size = AutoBatchSize(config.grader_batch_size)
        self._prompt = Prompt.of(config, labels)
        self.scale = self._prompt.scale
        words = verbalizers.parse_verbalizers(config.grader_verbalizers, labels)
        if self.scale == "rating":
            words = tuple((str(rating),) for rating in RATINGS)
        lead = self._prompt.render("", labels, labels.names[0]).reply or "\n"
        sequences_K = token_sequences(tokenizer, words, lead, may_continue=self.scale == "rating")
        self._length_K = [min(map(len, sequences)) for sequences in sequences_K]
        longest = max(len(sequence) for sequences in sequences_K for sequence in sequences)
        self._max_prompt_length = (getattr(model.config, "max_position_embeddings", None) or 2**31) - longest
        self._system_role = _has_system_role(tokenizer)
        try:
            examples = [
                self._input_ids(GradeRequest(text, labels.names[0])) for text in ("Is it so?", "will they", "9")
            ]
        except TemplateError as error:  # transformers renders it in a sandbox
            raise InputError(f"--grader_model {config.grader_model}: its chat template fails ({error})") from None
        self._scorer = LabelTokenScorer(model, sequences_K, examples)
        architecture = {name: value for name, value in model.config.to_dict().items() if name not in _IRRELEVANT}
        self.settings: dict[str, Any] = {
            "grader": "llm",
            "model": config.grader_model,
            "weights": getattr(model.config, "_commit_hash", None) or weights_fingerprint(model),
            "dtype": str(model.dtype),
            "quantization": config.grader_quantization,
            **self._prompt.settings,
            "contextual_calibration": config.contextual_calibration,
            "labels": list(labels.names),
            "words": [list(label_words) for label_words in words],
            "reads": settings_fingerprint({"grader": "llm", "examples": examples, "tokens": sequences_K}),
            "architecture": settings_fingerprint({"grader": "llm", "config": architecture}),
        }
        identity = {name: value for name, value in self.settings.items() if name not in ("model", "prompt")}
        self.fingerprint = settings_fingerprint(identity)  # without the paths of model and prompt
        self._content_free_K: list[float] | None = None
        if config.contextual_calibration:
            if self.scale == "rating":
                raise InputError("--contextual_calibration: is for prompts that choose a label, not for ratings")
            self._content_free_K = self._scores(self._mass_BK([GradeRequest(CONTENT_FREE)])[0])

    @classmethod
    def load(cls, config: GraderConfig, labels: LabelSet) -> "CausalLMGrader":
        """Loads `--grader_model`, a directory or Hub id.

        Raises:
            InputError: The model cannot be loaded, or quantization lacks bitsandbytes.
        """
        name, trust_remote_code = str(config.grader_model), config.trust_remote_code
        source = str(check_checkpoint(name, "--grader_model") or name)
        device = PartialState().device
        dtype = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        quantization = _quantization(config.grader_quantization, dtype)
        if trust_remote_code:
            warn_of_code(name, "--grader_model")
        try:
            check_files(name, "--grader_model")
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                source, use_safetensors=True, trust_remote_code=trust_remote_code, dtype=dtype, **quantization
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
        for batch in batched(self._readable(budget.allowed(requests), on_grade), self._batch_size.size):
            for request, mass_K in zip(batch, self._mass_BK(batch), strict=True):
                missing = verbalizers.missing_mass(mass_K)
                if missing > verbalizers.MAX_MISSING_MASS:
                    expected = "the labels" if request.label is None else "1 to 10"
                    detail = f"{missing:.2f} of the probability is on other than {expected}"
                    on_grade(Grade(request, "failed", (), detail))
                else:
                    on_grade(Grade.from_scores(request, self._scores(mass_K), missing=missing))

    def _readable(self, requests: Iterable[GradeRequest], on_grade: OnGrade) -> Iterator[GradeRequest]:
        """Yields the requests whose prompt fits into the model; the others fail."""
        for request in requests:
            length = len(self._input_ids(request))
            if length <= self._max_prompt_length:
                yield request
            else:
                detail = f"a prompt of {length} tokens, the model reads {self._max_prompt_length}"
                on_grade(Grade(request, "failed", (), detail))

    def _mass_BK(self, batch: list[GradeRequest]) -> list[list[float]]:
        """The masses of the label words (or of the ratings)."""
        prompts = [self._input_ids(request) for request in batch]

        def masses(size: int) -> list[list[float]]:
            return [mass_K for part in batched(prompts, size) for mass_K in self._scorer.mass_BK(part).tolist()]

        return self._batch_size.run(masses)

    def _scores(self, mass_K: list[float]) -> list[float]:
        """From the masses of the words: log-probabilities of the labels, or one rating.

        With contextual calibration (Zhao et al. 2021, arXiv:2102.09690), less the scores of a question without content.
        """
        if self.scale == "rating":
            return [verbalizers.expected_rating(mass_K)]
        per_token = [
            math.log(max(m, verbalizers.MIN_MASS)) / length for m, length in zip(mass_K, self._length_K, strict=True)
        ]
        if self._content_free_K is not None:
            per_token = [value - free for value, free in zip(per_token, self._content_free_K, strict=True)]
        return log_softmax(per_token)

    def _input_ids(self, request: GradeRequest) -> list[int]:
        """Token ids of a request's prompt, up to the judge's reply."""
        messages = self._prompt.render(request.question, self.labels, request.label)
        if self.tokenizer.chat_template is None:
            text = f"{messages.system}\n\n{messages.user}\n{messages.reply}"
            return self.tokenizer(text)["input_ids"]
        chat = _chat(messages, self._system_role)
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + messages.reply
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _chat(messages: Messages, system_role: bool) -> list[dict[str, str]]:
    """The prompt as a chat; without a system role, the instruction comes in front of the data."""
    if system_role:
        return [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]
    return [{"role": "user", "content": f"{messages.system}\n\n{messages.user}"}]


def _has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    chat = _chat(Messages("instruction", "data", ""), True)
    try:
        return bool(tokenizer.chat_template) and "instruction" in tokenizer.apply_chat_template(chat, tokenize=False)
    except TemplateError:
        return False


def _quantization(kind: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` for `--grader_quantization`.

    Raises:
        InputError: bitsandbytes is not installed.
    """
    if kind == "none":
        return {}
    if not is_bitsandbytes_available():
        fix = "pip install bitsandbytes, or leave it out"
        raise InputError(f"--grader_quantization {kind}: bitsandbytes is not installed; {fix}")
    config = BitsAndBytesConfig(load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}
