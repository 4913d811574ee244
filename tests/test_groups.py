"""RLOO and GRPO: TRL's own trainers follow the exact gradient, at the temperature and price that they are told."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_ranks import torchrun
from torch import Tensor, nn

import tiny
from eightball_ppo.config.methods import GroupBaselineConfig, GRPOConfig, RLOOConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import groups
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.tokenization import TokenTable
from eightball_ppo.trl_adapters.group import GroupPolicyAdapter, RowTokenizer
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary

METHOD = {RLOOConfig: "rloo", GRPOConfig: "grpo"}
BOTH = pytest.mark.parametrize("config_class", [RLOOConfig, GRPOConfig])
PROPORTIONS = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2)
"""Ten answers in exact proportion to the probabilities 0.5, 0.3, 0.2."""


class Job(groups.GroupTraining):
    """A training on free tables or tiny classifiers; `rows` is what it logged."""

    def __init__(self, config: GroupBaselineConfig, model: Any, table: TokenTable, score_NK: Tensor):
        self.rows: list[dict[str, Any]] = []
        names = [f"label {k}" for k in range(score_NK.shape[1])]
        task: Any = SimpleNamespace(
            config=config,
            labels=LabelSet.of(names),
            questions={"train": Questions("here", [f"question {row}" for row in range(len(table))])},
            classifier=model,
            tokenizer=None,
            tokens={"train": table},
            train_scores=BudgetedScores(score_NK),
            exact_metrics=lambda policy: {},
            callbacks=(),
        )
        batch = groups.generation_batch_size(config, len(table), world_size=1)
        run: Any = SimpleNamespace(method=METHOD[type(config)], log=self.rows.append)
        super().__init__(task, batch, run)

    def trainer(self, tmp_path: Path) -> Any:
        self.run.path, self.run.target = tmp_path, tmp_path / "run"
        return self.build_trainer()

    def train(self, tmp_path: Path) -> Any:
        trainer = self.trainer(tmp_path)
        groups.run_trainer(trainer, self.config.seed)
        return trainer

    def logp_NK(self) -> Tensor:
        return predict_logits_NK(self.classifier, self.task.tokens["train"]).log_softmax(-1)


def config(config_class: type[GroupBaselineConfig], **overrides: Any) -> GroupBaselineConfig:
    """One step on everything at temperature 1; overridden as needed."""
    settings: dict[str, Any] = {
        "num_generations": 10,
        "steps_per_generation": 1,
        "num_iterations": 1,
        "total_episodes": 1,
        "kl_coef": 0.5,
        "anneal_fraction": 0.0,
        "learning_rate": 0.01,
        "adam_beta2": 0.9,
        "disable_tqdm": True,
    }
    return config_class(**{**settings, **overrides})


def first_gradient(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """TRL's first gradient [N, K] of a table of logits, the answers to every question being `PROPORTIONS`."""
    seen: list[Tensor] = []

    def in_proportion(input_ids: Tensor, **_: Any) -> Tensor:
        rows_B = job.ids.rows(input_ids)
        number_B = [rows_B[:i].tolist().count(row) for i, row in enumerate(rows_B.tolist())]
        action_B = torch.tensor([PROPORTIONS[number] for number in number_B])
        return torch.cat([input_ids, job.ids.action_ids(action_B)[:, None]], dim=1)

    monkeypatch.setattr(job.policy, "generate", in_proportion)
    trainer = job.trainer(tmp_path)
    weight = job.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.append(weight.grad.clone()))
    groups.run_trainer(trainer, 0)
    return seen[0]


def problem(temperature: float = 1.0) -> tuple[Any, Tensor, Tensor, Tensor]:
    """(table of logits that is 0.5, 0.3, 0.2 at the temperature, its logits, the reference's, scores), 8 questions."""
    logits_NK = temperature * torch.tensor([0.5, 0.3, 0.2]).log().expand(8, 3).clone()
    return tiny.Tabular(logits_NK), logits_NK, tiny.scores(8, seed=1), tiny.scores(8, seed=2)


@pytest.mark.parametrize(
    ("config_class", "options", "factor"),
    [
        (RLOOConfig, {}, 10 / 9),  # an answer is compared with the mean of the nine others
        (GRPOConfig, {"scale_rewards": "none"}, 1.0),
        (GRPOConfig, {"scale_rewards": "none", "kl_in_reward": False}, 1.0),
    ],
    ids=["rloo", "grpo", "grpo, TRL's own term"],
)
def test_first_gradient_is_that_of_the_objective(
    config_class: type[GroupBaselineConfig],
    options: dict[str, Any],
    factor: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, logits_NK, reference_NK, score_NK = problem()
    job = Job(config(config_class, **options), model, tiny.row_tokens(8), score_NK)
    job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    gradient_NK = first_gradient(job, tmp_path, monkeypatch)
    logp_NK, ref_logp_NK = logits_NK.log_softmax(-1), reference_NK.log_softmax(-1)
    expected_NK = -objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, 0.5)
    assert expected_NK.abs().max() > 0.01
    torch.testing.assert_close(gradient_NK, factor * expected_NK, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_grpo_divides_by_the_deviation_that_was_chosen(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, logits_NK, reference_NK, score_NK = problem()
    job = Job(config(GRPOConfig, scale_rewards=scale), model, tiny.row_tokens(8), score_NK)
    job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    gradient_NK = first_gradient(job, tmp_path, monkeypatch)
    logp_NK, ref_logp_NK = logits_NK.log_softmax(-1), reference_NK.log_softmax(-1)
    reward_NG = (score_NK - 0.5 * (logp_NK - ref_logp_NK))[:, list(PROPORTIONS)]
    deviation = reward_NG.std(1, keepdim=True) if scale == "group" else reward_NG.std()
    exact_NK = objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, 0.5)
    torch.testing.assert_close(gradient_NK, -exact_NK / (deviation + 1e-4), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("config_class", "options", "factor"),
    [
        (RLOOConfig, {}, 10 / 9),
        (GRPOConfig, {"scale_rewards": "none"}, 1.0),
        (GRPOConfig, {"scale_rewards": "none", "kl_in_reward": False}, 1.0),
    ],
    ids=["rloo", "grpo", "grpo, TRL's own term"],
)
def test_while_it_is_hot_policy_and_reference_are_read_at_one_temperature(
    config_class: type[GroupBaselineConfig],
    options: dict[str, Any],
    factor: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of two updates: temperature 4, KL at 50 times its price; a logit counts as a quarter of itself."""
    model, logits_NK, reference_NK, score_NK = problem(temperature=4.0)
    monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", 4.0)
    settings = config(config_class, anneal_fraction=1.0, total_episodes=160, kl_coef=0.1, **options)
    job = Job(settings, model, tiny.row_tokens(8), score_NK)
    job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    gradient_NK = first_gradient(job, tmp_path, monkeypatch)
    logp_NK, ref_logp_NK = (logits_NK / 4).log_softmax(-1), (reference_NK / 4).log_softmax(-1)
    exact_NK = objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, 0.1 / groups.MIN_ANNEAL_FRACTION)
    torch.testing.assert_close(gradient_NK, -factor * exact_NK / 4, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("updates", [1, 2, 3, 9, 10, 40])
@pytest.mark.parametrize("anneal", [0.0, 0.05, 0.9, 1.0])
def test_annealing_ends_at_temperature_1_and_the_price_that_was_asked_for(updates: int, anneal: float) -> None:
    settings = config(RLOOConfig, anneal_fraction=anneal, total_episodes=80 * updates)
    job = Job(settings, tiny.Tabular(torch.zeros(8, 3)), tiny.row_tokens(8), tiny.scores(8))
    assert job.updates == updates
    seen = []
    for update in range(updates):
        job.anneal(update)
        assert job.policy.temperature == job.reference.temperature
        seen.append((job.policy.temperature, job.beta))
        passed = update / (updates * anneal) if anneal and update < updates - 1 else 1.0
        assert job.policy.temperature == pytest.approx(max(1.0, 20 - 19 * passed))
        assert job.beta == pytest.approx(0.5 / min(1.0, max(passed, 0.02)))
    assert seen == sorted(seen, reverse=True) and seen[-1] == (1.0, 0.5)
    assert seen[0] == ((20.0, 25.0) if anneal and updates > 1 else (1.0, 0.5))


@pytest.mark.parametrize(
    ("config_class", "kl_in_reward"), [(RLOOConfig, None), (GRPOConfig, True), (GRPOConfig, False)]
)
def test_trl_reads_the_annealed_temperature_and_price(
    config_class: type[GroupBaselineConfig], kl_in_reward: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answers are drawn and at every step; KL that is paid in our reward is not paid to TRL as well."""
    options: dict[str, Any] = {} if kl_in_reward is None else {"kl_in_reward": kl_in_reward}
    monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", 7.0)
    settings = config(
        config_class,
        anneal_fraction=0.5,
        total_episodes=4 * 80,
        steps_per_generation=2,
        num_iterations=3,
        **options,
    )
    job = Job(settings, tiny.Tabular(torch.zeros(8, 3)), tiny.row_tokens(8), tiny.scores(8))
    trainer = job.trainer(tmp_path)
    drawn, steps = [], []
    generate = job.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Tensor:
        drawn.append((trainer.temperature, job.policy.temperature, trainer.beta))
        return generate(input_ids, **kwargs)

    monkeypatch.setattr(job.policy, "generate", recorded)
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append((trainer.temperature, job.policy.temperature)))
    groups.run_trainer(trainer, 0)
    price = [0.0] * 4 if kl_in_reward else [25.0, 1.0, 0.5, 0.5]
    temperature = [7.0, 4.0, 1.0, 1.0]
    assert drawn == [(t, t, pytest.approx(beta)) for t, beta in zip(temperature, price, strict=True)]
    assert steps == [(t, t) for t in temperature for _ in range(6)]
    assert job.beta == 0.5 and trainer.state.global_step == 24
    assert [row["episode"] for row in job.rows if "loss" in row] == [80, 160, 240, 320]


@BOTH
def test_learning_rate_zero_leaves_the_policy(config_class: type[GroupBaselineConfig], tmp_path: Path) -> None:
    settings = config(
        config_class,
        learning_rate=0.0,
        anneal_fraction=0.9,
        total_episodes=160,
        steps_per_generation=2,
        num_iterations=2,
    )
    job = Job(settings, tiny.classifier(), tiny.tokens(8), tiny.scores(8))
    before = tiny.state(job.policy)
    job.train(tmp_path)
    assert all(torch.equal(weight, before[name]) for name, weight in job.policy.state_dict().items())


@BOTH
def test_same_seed_same_bits_and_neither_classifier_nor_reference_moves(
    config_class: type[GroupBaselineConfig], tmp_path: Path
) -> None:
    model, score_NK = tiny.classifier(), tiny.scores(8)
    before = tiny.state(model)

    def weights(seed: int) -> dict[str, Tensor]:
        job = Job(config(config_class, seed=seed, total_episodes=160), model, tiny.tokens(8), score_NK)
        job.train(tmp_path)
        reference = job.reference.by_row.classifier.state_dict()
        assert all(torch.equal(weight, before[name]) for name, weight in reference.items())
        return tiny.state(job.classifier)

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert not all(torch.equal(first[name], before[name]) for name in first)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_trls_log_softmax_is_back_in_place_after_training(tmp_path: Path) -> None:
    from trl.trainer import grpo_trainer, rloo_trainer

    originals = rloo_trainer.selective_log_softmax, grpo_trainer.selective_log_softmax
    Job(config(RLOOConfig), tiny.Tabular(torch.zeros(8, 3)), tiny.row_tokens(8), tiny.scores(8)).train(tmp_path)
    assert (rloo_trainer.selective_log_softmax, grpo_trainer.selective_log_softmax) == originals


def test_every_seed_and_every_process_draws_its_own_answers() -> None:
    """What torch, and numpy, would draw while training."""

    def drawn(seed: int, process: int) -> tuple[float, float]:
        seen: list[tuple[float, float]] = []
        accelerator = SimpleNamespace(process_index=process)
        trainer = SimpleNamespace(
            accelerator=accelerator, train_or_resume=lambda: seen.append((torch.rand(1).item(), np.random.rand()))
        )
        groups.run_trainer(trainer, seed)
        return seen[0]

    assert drawn(0, 0) == drawn(0, 0)
    found = [drawn(seed, process) for seed in (0, 1) for process in (0, 1)]
    assert len({own[0] for own in found}) == 4 == len({own[1] for own in found})


class Dropping(tiny.Tabular):
    """A table with a dropout of its own kind, which TRL would not switch off."""

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, return_dict: bool = True, **_: Any) -> Any:
        output = super().forward(input_ids, output_hidden_states)
        output.logits = nn.functional.dropout(output.logits, 0.5, training=self.training)
        return output if return_dict else output.to_tuple()


@BOTH
def test_the_classifier_stays_in_eval_mode_while_trl_sees_training(
    config_class: type[GroupBaselineConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(config(config_class), Dropping(torch.randn(8, 3)), tiny.row_tokens(8), tiny.scores(8))
    assert not job.policy.training
    assert job.policy.train() is job.policy and job.policy.training
    assert not any(module.training for module in job.policy.modules() if module is not job.policy)
    assert not job.policy.eval().training
    seen: set[tuple[bool, bool]] = set()
    job.classifier.register_forward_hook(lambda *_: seen.add((job.policy.training, job.classifier.training)))
    trainer = job.train(tmp_path)
    assert (True, False) in seen and not any(trained for _, trained in seen)
    assert trainer.temperature == 1 and all(not p.requires_grad for p in job.reference.parameters())


def test_answers_are_drawn_and_weighed_at_the_temperature() -> None:
    """20,000 draws: each label's share within 4 standard errors; the pad column is never drawn, however hot."""
    ids, model, table = PromptVocabulary(3), tiny.classifier(), tiny.tokens(4)
    policy = GroupPolicyAdapter(model, PromptEncoder(table, ids))
    question_B1 = ids.question_ids(torch.full((20_000, 1), 2))
    logits_K = predict_logits_NK(model, table)[2]
    for temperature in (1.0, 3.0, 100.0):
        policy.temperature = temperature
        torch.manual_seed(0)
        sequences = policy.generate(question_B1, attention_mask=None)
        assert sequences.shape == (20_000, 2) and torch.equal(sequences[:, :1], question_B1)
        p_K = (logits_K / temperature).softmax(-1)
        share_K = torch.bincount(ids.actions(sequences), minlength=3) / 20_000
        assert ((share_K - p_K).abs() < 4 * (p_K * (1 - p_K) / 20_000).sqrt()).all()
        logp_B = policy.logp_B(torch.tensor([2, 2, 2]), torch.arange(3))
        torch.testing.assert_close(logp_B, p_K.log())
        assert not logp_B.requires_grad


def test_a_row_number_is_a_questions_text() -> None:
    ids = PromptVocabulary(3)
    tokenizer = RowTokenizer(ids)
    encoded = tokenizer(["0", "7"], padding=True)["input_ids"]
    assert ids.rows(torch.tensor(encoded)).tolist() == [0, 7] and tokenizer.batch_decode(encoded) == ["", ""]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 4, None)


def test_the_reward_is_the_score_less_the_price_of_kl_where_it_is_paid_there() -> None:
    model, logits_NK, reference_NK, score_NK = problem()
    rows, answers = ["3", "0", "3"], [[1], [3], [2]]
    expected = torch.stack([score_NK[3, 0], score_NK[0, 2], score_NK[3, 1]])
    log_ratio_NK = (logits_NK / 2).log_softmax(-1) - (reference_NK / 2).log_softmax(-1)
    kl_B = torch.stack([log_ratio_NK[3, 0], log_ratio_NK[0, 2], log_ratio_NK[3, 1]])
    for settings, price in (
        (config(RLOOConfig), 0.0),
        (config(GRPOConfig, kl_in_reward=False), 0.0),
        (config(GRPOConfig), 0.5),
        (config(GRPOConfig, kl_coef=0.0), 0.0),
    ):
        job = Job(settings, model, tiny.row_tokens(8), score_NK)
        job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
        job.policy.temperature = job.reference.temperature = 2.0
        found = job.reward(prompts=rows, completions=[""] * 3, completion_ids=answers, log_metric=print)
        assert found == pytest.approx((expected - price * kl_B).tolist(), abs=1e-6)
        assert job.task.train_scores.calls == 3


@pytest.mark.parametrize(
    ("config_class", "options", "bound"),
    [
        (RLOOConfig, {}, 0.01),
        (GRPOConfig, {"scale_rewards": "none"}, 0.01),
        (GRPOConfig, {"scale_rewards": "none", "kl_in_reward": False}, 0.01),
        (GRPOConfig, {}, 0.05),
    ],
    ids=["rloo", "grpo", "grpo, TRL's own term", "grpo, scaled by group"],
)
def test_a_table_of_logits_gets_near_the_optimum(
    config_class: type[GroupBaselineConfig],
    options: dict[str, Any],
    bound: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", 2.0)
    score_NK = tiny.scores(32)
    settings = config(
        config_class,
        num_generations=16,
        steps_per_generation=2,
        num_iterations=2,
        total_episodes=512 * 20,
        learning_rate=0.15,
        anneal_fraction=0.5,
        epsilon=0.2,
        **options,
    )
    job = Job(settings, tiny.Tabular(tiny.scores(32, seed=7)), tiny.row_tokens(32), score_NK)
    ref_logp_NK = job.logp_NK()
    job.train(tmp_path)
    fraction = objective.optimum_fraction(job.logp_NK(), ref_logp_NK, score_NK, 0.5)
    assert fraction is not None and 1 - fraction < bound


def test_a_high_price_keeps_the_reference(tmp_path: Path) -> None:
    settings = config(RLOOConfig, kl_coef=100.0, learning_rate=None, num_generations=16, total_episodes=256 * 10)
    assert settings.learning_rate == pytest.approx(1e-4)
    job = Job(settings, tiny.Tabular(tiny.scores(16, seed=5)), tiny.row_tokens(16), tiny.scores(16))
    ref_logp_NK = job.logp_NK()
    job.train(tmp_path)
    assert objective.kl_exact_N(job.logp_NK(), ref_logp_NK).mean() < 0.01


@given(st.integers(1, 400), st.integers(2, 9), st.integers(1, 6), st.integers(1, 3))
def test_the_default_batch_is_the_largest_that_fits(questions: int, group: int, parts: int, processes: int) -> None:
    settings = config(RLOOConfig, num_generations=group, steps_per_generation=parts)
    fitting = [
        batch
        for batch in range(1, min(1200, questions * group) + 1)
        if batch % group == 0 and batch % (parts * processes) == 0
    ]
    if fitting:
        assert groups.generation_batch_size(settings, questions, processes) == fitting[-1]
    else:
        with pytest.raises(InputError, match="too few for"):
            groups.generation_batch_size(settings, questions, processes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_batch_size": 25}, r"--generation_batch_size 25: must be a multiple of --num_generations 10 and"),
        ({"generation_batch_size": 0}, r"--generation_batch_size 0: must be a multiple"),
        ({"generation_batch_size": -10}, r"--generation_batch_size -10: must be a multiple"),
        ({"generation_batch_size": 30, "steps_per_generation": 4}, r"of --steps_per_generation 4 x 1 process"),
        (
            {"generation_batch_size": 90},
            r"--generation_batch_size 90: 8 questions x --num_generations 10 fill at most 80",
        ),
        ({"steps_per_generation": 81}, r"8 questions x --num_generations 10: too few for --steps_per_generation 81"),
    ],
)
def test_bad_batches_are_refused_with_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        groups.generation_batch_size(config(RLOOConfig, **options), 8, 1)
    assert "\n" not in str(error.value)


def test_two_ranks_share_every_batch_and_pay_together(tmp_path: Path, small_data: Path, sft_run: Path) -> None:
    """A group whose answers lie on two processes is still judged as one; and the answers of both are counted."""
    options = ["--dataset_name", small_data, "--sft_model_path", sft_run, "--grader", "rule:Yes", "--disable_tqdm"]
    options += ["--output_dir", tmp_path / "rloo", "--grade_store", tmp_path / "grades.sqlite3", "--kl_coef", "0.05"]
    options += ["--total_episodes", "1440", "--learning_rate", "0.02"]
    script = tmp_path / "run.py"
    script.write_text(
        "from eightball_ppo.cli.commands import run\n"
        "from eightball_ppo.methods import groups\n\n"
        'groups.INITIAL_TEMPERATURE = 1.0\nrun("rloo")\n'
    )
    done = torchrun(str(script), *map(str, options))
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "rloo" / "results.json").read_text())
    assert record["world_size"] == 2 and record["generation_batch_size"] == 360 and record["updates"] == 4
    assert record["episodes"] == 1440 and 150 < record["grader_calls"] <= 180
    before, after = record["reference"]["train"], record["splits"]["train"]
    assert after["label_histogram"]["Yes"] > before["label_histogram"]["Yes"] + 0.1
