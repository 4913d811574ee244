"""`PPOTrainer` and its siblings: methods on objects of a Python program, under the names of TRL's trainers.

They call `run_method`, as the command line does: nothing is trained in a second way.
"""

import atexit
import dataclasses
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.arguments import arguments_in_messages, given_inputs, lora_options, options_of, refuse
from eightball_ppo.config.fields import require
from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.methods import (
    DistillConfig,
    ExactConfig,
    GRPOConfig,
    PPOConfig,
    ReferenceConfig,
    RLOOConfig,
)
from eightball_ppo.config.tools import PushConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.hub import push
from eightball_ppo.methods.inputs import LoadedModel
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import label_set, load_classifier, text_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime.distributed import broadcast_from_main, destroy_process_group, is_main_process
from eightball_ppo.runtime.launch import check_launch, init_process_group
from eightball_ppo.runtime.run import read_results

if TYPE_CHECKING:
    from peft import LoraConfig


class PolicyTrainer:
    """Trains a text classifier by a method on a judge's scores. Arguments are those of TRL's RLOOTrainer.

    Without `args.output_dir` the run is made in a temporary directory, with its grade store, which is removed with the
    trainer or at the end of the program; `save_model` keeps the policy. With it, the finished run stays there, as the
    command line leaves it.

    Args:
        model: What is trained: the name or directory of a classifier, or a loaded one, which is copied.
        reward_funcs: The judge: a function, a list of functions, a `Grader`, or a text as for `--grader`.
        args: The options, an instance of `config_class`; by default its defaults.
        train_dataset: The texts to learn from: a list, a `datasets.Dataset`, a table or a file. None: those of `args`.
        eval_dataset: The texts to measure on, best with gold labels. None: a held-out part of `train_dataset`.
        processing_class: The tokenizer of a loaded model; by default that of the name that it was loaded from.
        reward_processing_classes: None; a judge reads texts.
        callbacks: `transformers` callbacks, added behind ours.
        optimizers: None; the options of `args` set up the optimizer.
        quantization_config: None; a quantized classifier cannot train.
        peft_config: A `peft.LoraConfig` with `r`, `lora_alpha` and `target_modules`, to train adapters.

    Attributes:
        config_class: The class of `args`.
        args: The options of the run.
        model: The policy: before `train` the reference, after it the trained classifier, adapters merged.
        processing_class: Its tokenizer.
        results: The content of results.json after `train`; empty before.

    Raises:
        InputError: An argument that cannot be used. Nothing is trained, written or asked of a judge then.
    """

    config_class: ClassVar[type[MethodConfig]]

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        reward_funcs: Any,
        args: MethodConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reward_processing_classes: None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple[None, None] | None = (None, None),
        quantization_config: None = None,
        peft_config: "LoraConfig | None" = None,
    ):
        with arguments_in_messages():
            refuse("reward_processing_classes", reward_processing_classes, "a judge reads texts; leave it out")
            refuse("quantization_config", quantization_config, "a quantized classifier cannot be trained; leave it out")
            given = None if optimizers == (None, None) else optimizers
            refuse("optimizers", given, "leave it out and set args.learning_rate, weight_decay and adam_beta2")
            for callback in callbacks or ():
                kind = type(callback).__name__
                require(isinstance(callback, TrainerCallback), f"callbacks: a TrainerCallback is needed, not a {kind}")
            options = {**options_of(args, self.config_class, type(self).__name__), **lora_options(peft_config)}
            refuse("args.dry_run", options.get("dry_run") or None, "is of the command line; leave it out")
            self.results: dict[str, Any] = {}
            self._keeps = options["output_dir"] != self.config_class.output_dir
            self._callbacks = tuple(callbacks or ())
            self._scratch: Path | None = None
            self._given, self.args = given_inputs(
                self.config_class, options, model, reward_funcs, train_dataset, eval_dataset, processing_class
            )
            self._policy = self._given.model

    @property
    def model(self) -> PreTrainedModel:
        """The trained policy; before training the reference, which is loaded here if a name was given."""
        return self._loaded()[0]

    @property
    def processing_class(self) -> PreTrainedTokenizerBase:
        """The tokenizer of `model`."""
        return self._loaded()[1]

    def _loaded(self) -> LoadedModel:
        if self._policy is None:
            with arguments_in_messages():
                name, trust = self.args.sft_model_path, self.args.trust_remote_code
                self._policy = load_classifier(name, "--sft_model_path", trust_remote_code=trust)
        return self._policy

    def train(self, resume_from_checkpoint: bool | str | os.PathLike[str] | None = None) -> dict[str, Any]:
        """Grades the texts, trains a copy of the model on the scores, and evaluates it.

        Args:
            resume_from_checkpoint: True for the newest checkpoint in `args.output_dir`, or a checkpoint's directory.

        Returns:
            `results`.

        Raises:
            InputError: Bad data, model, judge or options.
            IncompleteError: Too many grades failed; the good ones are stored.
            TrainingDivergedError: Training diverged and was stopped.
            KeyboardInterrupt: Of Ctrl-C; no half-written run remains.
        """
        config = self.args
        if resume_from_checkpoint is not None:
            config = dataclasses.replace(config, resume_from_checkpoint=str(resume_from_checkpoint))
        with arguments_in_messages():
            push.check_stage(config)
        run = self._run(config)
        with arguments_in_messages():
            policy, tokenizer = load_classifier(str(run), "run", trust_remote_code=config.trust_remote_code)
            device = "cpu" if self._given.model is None else self._given.model[0].device
            self._policy = policy.to(device), tokenizer
            self.results = read_results(run)
            push.push_stage(dataclasses.replace(config, output_dir=str(run)))
        return self.results

    def evaluate(self) -> dict[str, float]:
        """The metrics of the policy on `eval_dataset`, each with `eval_` in front, as `transformers` names them.

        Before `train`, those of the reference; the judge is asked about all texts then, and not again by `train`.
        """
        results = self.results
        if not results:
            shared = {field.name: getattr(self.args, field.name) for field in dataclasses.fields(ReferenceConfig)}
            run = self._run(ReferenceConfig(**shared | {"output_dir": str(self._scratch_path() / "reference")}))
            results = read_results(run)
            shutil.rmtree(run, ignore_errors=True)
        record = results["splits"]["heldout"]
        return {f"eval_{name}": value for name, value in record.items() if isinstance(value, int | float)}

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """The most probable label of each text.

        Returns:
            A dict for each text: `label` and `score`, as a `transformers` pipeline gives, and all `probabilities` by
            label.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        bad = next((f"text {i} is {text!r}" for i, text in enumerate(texts) if not str(text or "").strip()), None)
        if bad or not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"predict: a list of texts is needed, none of them blank; {bad or f'got {texts!r:.80}'}")
        model, tokenizer = self._loaded()
        probability_NK = text_logits_NK(model, tokenizer, Questions("predict", texts)).softmax(-1).tolist()
        rows = [dict(zip(label_set(model).names, row, strict=True)) for row in probability_NK]
        tops = [max(row, key=row.__getitem__) for row in rows]
        return [{"label": top, "score": row[top], "probabilities": row} for top, row in zip(tops, rows, strict=True)]

    def save_model(self, output_dir: str | os.PathLike[str]) -> None:
        """Writes the policy, a full model with adapters merged, and its tokenizer to `output_dir`."""
        directory = Path(output_dir)
        require(not directory.exists() or directory.is_dir(), f"save_model: {directory} is a file; name a directory")
        if is_main_process():
            save_policy(*self._loaded(), directory)

    def push_to_hub(self, repo_id: str | None = None) -> None:
        """Uploads the finished run, model card included, to `repo_id`, by default `args.hub_model_id`.

        Raises:
            InputError: Nothing is trained yet, or the token may not write there.
            IncompleteError: The Hub or the connection failed.
        """
        repo_id = repo_id or self.args.hub_model_id
        if not self.results or repo_id is None:
            raise InputError(
                "push_to_hub: train first" if repo_id else "push_to_hub: to which repository? pass repo_id"
            )
        if is_main_process():
            with arguments_in_messages():
                run = str(self._place(self.args).output_dir)
                push.run(PushConfig(run_dirs=[run], repo_id=repo_id, hub_private_repo=self.args.hub_private_repo))

    def _run(self, config: MethodConfig) -> Path:
        """Runs the method of `config`, under whatever launcher started this program."""
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        temporary = not self._keeps
        with arguments_in_messages(temporary=temporary and config.grade_store == MethodConfig.grade_store):
            self._join_launch()
            given = self._given._asdict()
            return run_method(self._place(config), **given, callbacks=self._callbacks, temporary=temporary)

    def _join_launch(self) -> None:
        """Connects the processes of a launch, before the first of them makes a directory for all."""
        check_launch()
        init_process_group(self.args.ddp_timeout)
        atexit.register(destroy_process_group)

    def _place(self, config: MethodConfig) -> MethodConfig:
        """`config` with the temporary places of a trainer without an output directory."""
        if self._keeps:
            return config
        scratch = self._scratch_path()
        places: dict[str, Any] = {"overwrite_output_dir": True}
        if config.output_dir == self.config_class.output_dir:
            places["output_dir"] = str(scratch / "run")
        if config.grade_store == MethodConfig.grade_store:
            places["grade_store"] = str(scratch / "grades.sqlite3")
        return dataclasses.replace(config, **places)

    def _scratch_path(self) -> Path:
        if self._scratch is None:
            self._join_launch()
            self._scratch = Path(
                broadcast_from_main(lambda: tempfile.mkdtemp(prefix="eightball-"), self.args.ddp_timeout)
            )
            if is_main_process():
                weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch


class PPOTrainer(PolicyTrainer):
    """Policy gradients by TRL's PPOTrainer; see `PolicyTrainer` for arguments and methods."""

    config_class = PPOConfig


class RLOOTrainer(PolicyTrainer):
    """Policy gradients by TRL's RLOOTrainer; see `PolicyTrainer` for arguments and methods."""

    config_class = RLOOConfig


class GRPOTrainer(PolicyTrainer):
    """Policy gradients by TRL's GRPOTrainer; see `PolicyTrainer` for arguments and methods."""

    config_class = GRPOConfig


class DistillTrainer(PolicyTrainer):
    """Cross-entropy to the judge's labels or distribution; see `PolicyTrainer` for arguments and methods."""

    config_class = DistillConfig


class ExactTrainer(PolicyTrainer):
    """The gradient of the objective itself, a sum over labels; see `PolicyTrainer` for arguments and methods."""

    config_class = ExactConfig
