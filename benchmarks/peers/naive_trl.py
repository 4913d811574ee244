"""TRL's PPOTrainer with the obvious wrapping of a classifier: a language model whose next token is the label.

Logits are as wide as BERT's vocabulary, `generate` of transformers samples the answers, `DataCollatorWithPadding`
collates the batches, and the grader is a module that scores every answer. This file sets only what makes one answer one
label, and the hyperparameters of the other peers; everything else is TRL's default. One thing is faster than it could
be: the label's logits are written into the wide ones, where a language model's head would multiply by 30,522 columns.
"""

import contextlib
import io
import tempfile
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    DataCollatorWithPadding,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from trl.experimental.ppo import PPOConfig, PPOTrainer

from eightball_ppo.models.configuration_eightball import EightBallConfig

from .hook import UpdateHook
from .task import FIRST_WORD, LABELS, PAD, WORDS, BenchTask, OnUpdate, Settings

VOCABULARY = 30_522  # BERT's
END = len(LABELS) + 1


class _LanguageModel(PreTrainedModel, GenerationMixin):
    """Policy: at every position the classifier's logits of the question, in the columns of the labels."""

    config_class = EightBallConfig
    base_model_prefix = "classifier"
    _tied_weights_keys = None

    def __init__(self, task: BenchTask):
        classifier = task.classifier()
        super().__init__(
            EightBallConfig(**{**classifier.config.to_dict(), "vocab_size": VOCABULARY, "num_hidden_layers": 1})
        )
        self.classifier = classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> CausalLMOutput:
        logits_BK = self.classifier(input_ids, _words(input_ids)).logits
        wide_BV = logits_BK.new_full((len(logits_BK), VOCABULARY), torch.finfo(torch.float32).min)
        wide_BV[:, 1 : 1 + len(LABELS)] = logits_BK
        return CausalLMOutput(logits=wide_BV.unsqueeze(1).repeat(1, input_ids.shape[1], 1))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": input_ids}


class _Hidden(nn.Module):
    """The classifier's pooled hidden state of the question, at every position."""

    def __init__(self, task: BenchTask):
        super().__init__()
        self.classifier = task.classifier()

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        output = self.classifier(input_ids, _words(input_ids), output_hidden_states=True)
        return BaseModelOutput(hidden_states=(output.hidden_states[-1].repeat(1, input_ids.shape[1], 1),))


class _ValueModel(nn.Module):
    base_model_prefix = "model"

    def __init__(self, task: BenchTask):
        super().__init__()
        self.model = _Hidden(task)
        self.score = nn.Linear(self.model.classifier.config.hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)


class _Graded(nn.Module):
    def __init__(self, task: BenchTask):
        super().__init__()
        self.grader = task.grader

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        """The score of the answer, which is the last token, at every position."""
        score_B1 = self.grader(input_ids).gather(1, input_ids[:, -1:] - 1)
        return BaseModelOutput(hidden_states=(score_B1.unsqueeze(-1).repeat(1, input_ids.shape[1], 1),))


class _RewardModel(nn.Module):
    base_model_prefix = "model"

    def __init__(self, task: BenchTask):
        super().__init__()
        self.model = _Graded(task)
        self.score = nn.Identity()


def _words(input_ids: Tensor) -> Tensor:
    """1 where a token belongs to the question: neither padding nor an answer."""
    return input_ids >= FIRST_WORD


def _tokenizer() -> PreTrainedTokenizerFast:
    names = ["<pad>", *LABELS, "<eos>", *(f"w{word}" for word in range(FIRST_WORD, FIRST_WORD + WORDS))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", padding_side="left")


class NaiveTRL:
    """See the module."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.policy = _LanguageModel(task)
        self.policy.generation_config.pad_token_id = PAD
        self.policy.generation_config.eos_token_id = END
        tokenizer = _tokenizer()
        prompts = [ids[:length] for ids, length in zip(task.ids_NT.tolist(), task.length_N.tolist(), strict=True)]
        passes = max(1, -(-settings.batch // len(task)))
        self.trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=self.directory.name,
                seed=settings.seed,
                report_to=[],
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                num_sample_generations=0,
                response_length=1,
                temperature=1.0,
                per_device_train_batch_size=settings.batch,
                gradient_accumulation_steps=1,
                total_episodes=settings.updates * settings.batch,
                num_mini_batches=settings.minibatches,
                num_ppo_epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                adam_beta2=settings.adam_beta2,
                kl_coef=settings.beta,
                cliprange=settings.cliprange,
                cliprange_value=1e6,
                vf_coef=settings.vf_coef,
            ),
            processing_class=tokenizer,
            model=self.policy,
            ref_model=_LanguageModel(task),
            reward_model=_RewardModel(task),
            value_model=_ValueModel(task),
            train_dataset=Dataset.from_dict({"input_ids": prompts * passes}),
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[UpdateHook(on_update, self._logits_NK(task))] if on_update is not None else None,
        )

    def _logits_NK(self, task: BenchTask) -> Any:
        return lambda: self.policy.classifier(task.ids_NT, _words(task.ids_NT)).logits

    def run(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a dictionary for every update
            self.trainer.train()
