"""What every graded method starts from: the reference, the questions, the grades. And what each one ends with."""

import dataclasses
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.configs import GradedConfig, RewardConfig, SFTConfig
from eightball_ppo.data import Questions, load_both
from eightball_ppo.data_options import DataConfig
from eightball_ppo.errors import InputError, Stopped
from eightball_ppo.evaluation import Made, SplitGrades, Yardstick, before_after, record
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.graders.registry import check_graders, parse_grader
from eightball_ppo.graders.texts import Joined, first_N
from eightball_ppo.hub.cards import write_card
from eightball_ppo.labels import LabelSet
from eightball_ppo.launches import mixed_precision
from eightball_ppo.method_options import TermsConfig
from eightball_ppo.methods.grading import JobGrades, check_grades, estimate, grade_job
from eightball_ppo.methods.training_grades import TrainingGrades
from eightball_ppo.models.loading import check_checkpoint, label_set, load_classifier, table_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.progress import checkpoints_in, unfinished_path
from eightball_ppo.ranks import is_main_process
from eightball_ppo.recipes import read_recipe, read_section
from eightball_ppo.report import plots, tables
from eightball_ppo.runs import Run, read_config, read_metrics
from eightball_ppo.tokenization import TokenTable, cut_at, reads_at_most, token_table, tokenize

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INHERITED = (*(own.name for own in dataclasses.fields(DataConfig)), "seed", "report_to", "disable_tqdm")
MOST_WATCHED = 8192  # training questions of which the exact metrics are measured at every logged step


@dataclass(frozen=True)
class Watched:
    """Some of the questions of a split, their tokens and grades."""

    tokens: TokenTable
    graded: SplitGrades


@dataclass(frozen=True)
class Task:
    """One reference, and two splits of questions with whole grades; methods may learn from the split `train`.

    `grader_logp_NK` are the grader's log-probabilities, which results are measured with; `lessons_logp_NK` are those of
    the training questions as training gets to see them, and `lessons` the scores made of them, behind a till.
    `watched`: the training questions that `exact_metrics` looks at while training goes on; None for all of them.
    """

    labels: LabelSet
    classifier: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    questions: dict[str, Questions]
    tokens: dict[str, TokenTable]
    ref_logits_NK: dict[str, Tensor]
    grader_logp_NK: dict[str, Tensor]
    lessons_logp_NK: Tensor
    lessons: TrainingGrades
    job: JobGrades
    config: GradedConfig
    watched: Watched | None = None

    def graded(self, split: str) -> SplitGrades:
        """The split with the scores that training maximises."""
        score_NK, ref_logp_NK = self._tables(split)
        return SplitGrades(self.questions[split], score_NK.whole(), ref_logp_NK.whole())

    def _tables(self, split: str) -> tuple[Made, Made]:
        """Scores and the reference's log-probabilities [N, K], in float64."""
        score_NK = Made(self.grader_logp_NK[split], lambda own: convert_scores(own.double(), self.config.score))
        return score_NK, Made(self.ref_logits_NK[split], normalised)

    def record(self, split: str, logits_NK: Tensor) -> dict[str, Any]:
        """The record of a policy with these logits; no table in float64 is made of a whole split."""
        score_NK, ref_logp_NK = self._tables(split)
        logp_NK, beta = Made(logits_NK, normalised), self.config.kl_coef
        return record(logp_NK, ref_logp_NK, score_NK, self.questions[split], beta, self.labels)

    def exact_metrics(self, policy: PreTrainedModel) -> dict[str, Any]:
        """`exact/*` of `policy` as it is now, sums over all labels of all training questions, or of the `watched` ones;
        `exact/questions` says how many these are; `grader_calls` so far."""
        tokens = self.tokens["train"] if self.watched is None else self.watched.tokens
        sample = {} if self.watched is None else {"exact/questions": len(tokens)}
        exact = self._yardstick.metrics(table_logits_NK(policy, tokens, by_length=True))
        return {
            **{f"exact/{name}": value for name, value in exact.items()},
            **sample,
            "grader_calls": self.lessons.calls,
        }

    @cached_property
    def _yardstick(self) -> Yardstick:
        graded = self.graded("train") if self.watched is None else self.watched.graded
        return Yardstick(graded, self.config.kl_coef)


def normalised(logits_NK: Tensor) -> Tensor:
    """Log-probabilities in float64."""
    return logits_NK.double().log_softmax(-1)


def load_splits(config: TermsConfig) -> dict[str, Questions]:
    """The questions to learn from ("train", unlabelled) and those to measure on ("heldout", labelled).

    Raises:
        InputError: bad data, labels, grader options, table or store; cheap, so that it comes before any training.
    """
    labels = config.label_set()
    check_graders(config, labels)
    splits = dict(zip(("train", "heldout"), load_both(config, None, labels), strict=True))
    check_grades(config, labels, Joined([own.texts for own in splits.values()]))
    return splits


def asks_reward_model(config: TermsConfig) -> bool:
    """Whether the reward model is asked for grades."""
    return config.grade_table is None and any(spec.name == "bert" for spec in parse_grader(config.grader))


def train_prerequisites(config: TermsConfig) -> None:
    """Train the reference and the reward model where they do not exist yet: those that stand at the default path, by
    the defaults, and those that the recipe `--prerequisites` has a section for, by that.

    Raises:
        InputError: a model that is not there and that nothing says how to train; nothing is trained then.
    """
    from eightball_ppo.methods import reward_model, sft

    wanted: list[tuple[str, str, str, Any, Any]] = [
        ("sft", config.sft_model_path, "--sft_model_path", SFTConfig, sft.train)
    ]
    if asks_reward_model(config):
        wanted.append(("reward", config.reward_model_path, "--reward_model_path", RewardConfig, reward_model.train))
    missing = []
    for section, path, flag, stage, train in wanted:
        recipe = None if config.prerequisites is None else Path(config.prerequisites)
        own = None if recipe is None else read_section(recipe, section)
        ours = own is not None or path == stage.output_dir
        if not ours or Path(path).exists():
            check_checkpoint(path, flag)
            if ours:
                _check_same_data(Path(path), flag, config)
        else:
            shared = read_recipe(recipe, stage) if recipe is not None and own is not None else {}
            inherited = {name: getattr(config, name) for name in INHERITED}
            inherited["dataset_train_split"] = config.shared_train_split
            length = {"max_length": config.max_length} if section == "sft" else {}
            options = {**shared, **inherited, **length, **(own or {}), "output_dir": path}
            if checkpoints_in(unfinished_path(Path(path).absolute())):  # it was stopped, as a part of this very job
                options["resume_from_checkpoint"] = "true"
            missing.append((train, stage(**options)))
    for train, options_of_stage in missing:
        try:
            train(options_of_stage)
        except Stopped as stop:
            told = f"stopped while {options_of_stage.output_dir} was trained; the same command goes on with it"
            raise Stopped(told, stop.signal_number) from None


def _check_same_data(run: Path, flag: str, config: TermsConfig) -> None:
    """Raises InputError if a run that would be reused by default was trained on other data."""
    trained_on = read_config(run)["dataset_name"]
    if Path(trained_on).absolute() != Path(config.dataset_name).absolute():
        raise InputError(
            f"{run}: was trained on {trained_on}, not on --dataset_name {config.dataset_name}; name another {flag}, or "
            "this one with ./ in front to use it all the same"
        )


def outlook(config: TermsConfig, questions: dict[str, Questions]) -> str:
    """What grading would cost, in words; trains nothing and asks nobody."""
    texts = Joined([split.texts for split in questions.values()])
    if asks_reward_model(config) and not Path(config.reward_model_path).exists():
        return f"{first_N(texts).sum()} questions for --grader {config.grader}: its reward model would be trained first"
    return estimate(config, config.label_set(), texts)


def load_task(config: GradedConfig, questions: dict[str, Questions]) -> Task:
    """Reference, questions and grades of a method, training the defaults where they are missing.

    Raises:
        InputError: bad checkpoint or grader, labels that differ between them, or a grader that is too weak.
        IncompleteError: too many grades failed.
    """
    train_prerequisites(config)
    labels = config.label_set()
    classifier, tokenizer = load_classifier(
        config.sft_model_path, "--sft_model_path", DTYPES[config.dtype], config.trust_remote_code
    )
    labels.require_same(label_set(classifier), "--labels", f"--sft_model_path {config.sft_model_path}")
    job = grade_job(config, labels, questions)
    whole_N = {split: own.whole_N for split, own in job.grades.items()}
    questions = {
        split: own if whole_N[split].all() else own.subset(np.flatnonzero(whole_N[split]))
        for split, own in questions.items()
    }
    cut_at(tokenizer, classifier, config.max_length)
    tokens = {split: tokenize(own, tokenizer, reads_at_most(tokenizer)) for split, own in questions.items()}
    lessons_logp_NK = job.grades["lessons"].logp_NK[torch.from_numpy(whole_N["train"])]
    lessons_NK = convert_scores(lessons_logp_NK, config.score)
    task = Task(
        labels,
        classifier,
        tokenizer,
        questions,
        tokens,
        ref_logits_NK={split: _logits_NK(classifier, table) for split, table in tokens.items()},
        grader_logp_NK={split: job.grades[split].logp_NK[torch.from_numpy(whole_N[split])] for split in questions},
        lessons_logp_NK=lessons_logp_NK,
        lessons=TrainingGrades(lessons_NK, config.grader_call_budget, config.seed),
        job=replace(job, grades={}),  # the tables above are made of them
        config=config,
    )
    return replace(task, watched=_watched(task))


def _logits_NK(model: PreTrainedModel, table: TokenTable) -> Tensor:
    """Logits [N, K] on the CPU, computed on the device of this launch; the model goes back to where it was."""
    home = next(model.parameters()).device
    try:
        return table_logits_NK(model.to(PartialState().device), table)
    finally:
        model.to(home)


def _watched(task: Task) -> Watched | None:
    """A sample of the training questions, where they are many: those with the smallest hashes, whatever their order."""
    questions = task.questions["train"]
    if len(questions) <= MOST_WATCHED:
        return None
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in questions.texts)
    rank_N = np.fromiter((int.from_bytes(digest) for digest in digests), np.uint64, len(questions))
    rows = np.sort(np.argpartition(rank_N, MOST_WATCHED)[:MOST_WATCHED])
    sample = questions.subset(rows)
    score_NK = convert_scores(task.grader_logp_NK["train"][rows].double(), task.config.score)
    ref_logp_NK = task.ref_logits_NK["train"][rows].double().log_softmax(-1)
    tokens = token_table(sample.texts, task.tokenizer, reads_at_most(task.tokenizer))
    return Watched(tokens, SplitGrades(sample, score_NK, ref_logp_NK))


def finish(task: Task, policy: PreTrainedModel, run: Run, episodes: int, extra: dict[str, Any]) -> Path:
    """Evaluate the trained policy, write everything a run directory holds, print the tables, give the run its name."""
    task.lessons.join_processes()
    logits_NK = {split: _logits_NK(policy, table) for split, table in task.tokens.items()}
    results = {
        "method": run.method,
        "seed": task.config.seed,
        "beta": task.config.kl_coef,
        "episodes": episodes,
        "grader_calls": task.lessons.calls,
        "grader_call_budget": task.config.grader_call_budget,
        "grader_noise": task.config.grader_noise,
        "grader": task.job.fingerprint,
        "grades": task.job.record,
        "score": task.config.score,
        "dtype": task.config.dtype,
        "mixed_precision": mixed_precision(),
        "truncated_questions": sum(table.truncated for table in task.tokens.values()),
        "splits": {split: task.record(split, own) for split, own in logits_NK.items()},
        "reference": {split: task.record(split, own) for split, own in task.ref_logits_NK.items()},
        "seconds": run.seconds,
        **extra,
    }
    if is_main_process():
        save_policy(policy, task.tokenizer, run.path, merge=getattr(task.config, "merge", False))
        table = before_after(
            task.graded("heldout"), task.ref_logits_NK["heldout"], logits_NK["heldout"], task.labels, task.config.seed
        )
        table.to_parquet(run.path / "before_after.parquet")
        plots.label_histogram(results, run.path / "labels.png")
        plots.curves(read_metrics(run.path), run.path / "curves.png", run.method)
        write_card(run.path, results)
        tables.print_before_after(table, task.labels)
        tables.print_results(results, task.config.grade_table or task.config.grader)
    return run.finish(results)
