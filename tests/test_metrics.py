"""docs/metrics.md defines every number that a run writes, no other, and truly: each is computed again by hand.

By hand means plain Python over questions and labels, from the weights, the sampled answers and the shuffles that were
caught, without `objective.py` and `ppo_math.py`.
"""

import dataclasses
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import chi2
from test_groups import Job
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bare_loop
import tiny
from conftest import REPOSITORY
from eightball_ppo.comparison.grid import Cell
from eightball_ppo.configs import BestOfNConfig, DistillConfig, ExactConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.methods import best_of_n, distill, exact, grpo, ppo, rloo
from eightball_ppo.methods.groups import run_trainer
from eightball_ppo.runs import read_metrics, read_results
from eightball_ppo.statistics import Interval, PairComparison

LABELS = ("Yes", "No", "Maybe")
Row = Sequence[float]
BETA = 0.3


# --- the page is complete, and no row is dead


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path
) -> dict[str, Path]:
    """A short run of every method; grpo with KL in the loss, so that it logs its own `kl`."""
    root = tmp_path_factory.mktemp("metrics")
    shared: dict[str, Any] = {
        "dataset_name": str(small_data),
        "sft_model_path": str(sft_run),
        "reward_model_path": str(reward_run),
        "kl_coef": BETA,
        "allow_weak_grader": True,
        "disable_tqdm": True,
    }
    methods: dict[str, tuple[Callable[[Any], Path], type, dict[str, Any]]] = {
        "ppo": (ppo.train, PPOConfig, {"total_episodes": 240, "num_generations": 2, "log_completions": True}),
        "rloo": (rloo.train, RLOOConfig, {"total_episodes": 360}),
        "grpo": (grpo.train, GRPOConfig, {"total_episodes": 360, "kl_in_reward": False}),
        "exact": (exact.train, ExactConfig, {"num_train_epochs": 3}),
        "distill": (distill.train, DistillConfig, {"num_train_epochs": 1}),
        "best_of_n": (best_of_n.train, BestOfNConfig, {}),
    }
    made = {"sft": sft_run, "reward": reward_run}
    for name, (train, config_class, options) in methods.items():
        made[name] = train(config_class(output_dir=str(root / name), **shared, **options))
    return made


def defined() -> set[str]:
    """The names of the page: what stands in backquotes in the first column."""
    lines = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines()
    firsts = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return {name for first in firsts for name in re.findall(r"`([^`]+)`", first)}


def written(runs: dict[str, Path]) -> set[str]:
    """Every name that is written: rows, records, completions, and what a comparison adds."""
    found: set[str] = set()
    for run in runs.values():
        results = read_results(run)
        found |= {key for row in read_metrics(run) for key in row}
        found |= {f"grades.{key}" for key in results.pop("grades", {})}
        records = [*results.pop("splits").values(), *results.pop("reference", {}).values()]
        found |= {key for record in records for key in record}
        found |= set(results)
        for file in run.glob("completions/*.parquet"):
            found |= set(map(str, pd.read_parquet(file)))
    found |= {field.name for field in dataclasses.fields(Cell)} | {"split", "run_dir"}
    found |= {field.name for kind in (Interval, PairComparison) for field in dataclasses.fields(kind)}
    return found - {"a", "b", "difference"}  # a pair's names, and its interval


def test_the_page_defines_what_is_written_and_nothing_else(runs: dict[str, Path]) -> None:
    assert defined() == written(runs)


# --- plain formulas


def log_softmax(logits: Row) -> list[float]:
    largest = max(logits)
    total = math.log(sum(math.exp(x - largest) for x in logits)) + largest
    return [x - total for x in logits]


def entropy(logp: Row) -> float:
    return -sum(math.exp(x) * x for x in logp)


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))


# --- PPO


@dataclasses.dataclass
class Weights:
    """Logits and values of all questions at one optimizer step."""

    logits: list[list[float]]
    value: list[float]


def caught_weights(trainer: Any, models: Any) -> list[Weights]:
    """A list that grows by what every minibatch was read with."""
    caught: list[Weights] = []

    def keep(*_: Any) -> None:
        trunk = models.value.trunk.by_row.classifier
        value_N = models.value.score(trunk.hidden.weight).squeeze(1)
        caught.append(Weights(models.policy.by_row.classifier.table.weight.tolist(), value_N.tolist()))

    trainer.optimizer.register_step_pre_hook(keep)
    return caught


def ppo_by_hand(
    settings: PPOConfig,
    steps: list[Weights],
    answers: list[tuple[int, int]],
    orders: list[list[int]],
    reference: list[list[float]],
    score: list[list[float]],
) -> dict[str, float]:
    """The metrics of one update."""
    beta, c, d = settings.kl_coef, settings.cliprange, settings.cliprange_value
    logp = [log_softmax(steps[0].logits[q])[a] for q, a in answers]
    kl = [own - log_softmax(reference[q])[a] for own, (q, a) in zip(logp, answers, strict=True)]
    value = [steps[0].value[q] for q, _ in answers]
    reward = [score[q][a] - beta * own for (q, a), own in zip(answers, kl, strict=True)]
    surprise = [r - v for r, v in zip(reward, value, strict=True)]
    middle, spread = fmean(surprise), math.sqrt(variance(surprise) + 1e-8)
    advantage = [(x - middle) / spread for x in surprise]
    size = len(answers) // settings.num_mini_batches
    batches = [order[at : at + size] for order in orders for at in range(0, len(order), size)]
    seen: dict[str, list[float]] = {}
    for weights, batch in zip(steps, batches, strict=True):
        rows = []
        for i in batch:
            q, a = answers[i]
            own = log_softmax(weights.logits[q])
            change, new = own[a] - logp[i], weights.value[q]
            free, held = -advantage[i] * math.exp(change), -advantage[i] * clip(math.exp(change), 1 - c, 1 + c)
            loose = (new - reward[i]) ** 2
            tight = (clip(new, value[i] - d, value[i] + d) - reward[i]) ** 2
            rows.append(
                {
                    "policy/entropy_avg": entropy(own),
                    "policy/approxkl_avg": 0.5 * change**2,
                    "policy/clipfrac_avg": float(held > free),
                    "loss/policy_avg": max(free, held),
                    "loss/value_avg": 0.5 * max(loose, tight),
                    "val/clipfrac_avg": float(tight > loose),
                    "val/ratio": math.exp(change),
                }
            )
        for name in rows[0]:
            seen.setdefault(name, []).append(fmean(row[name] for row in rows))
    return {name: fmean(values) for name, values in seen.items()} | {
        "val/ratio_var": variance(seen["val/ratio"]),
        "val/num_eos_tokens": 0,
        "objective/scores": fmean(score[q][a] for q, a in answers),
        "objective/kl": fmean(kl),
        "objective/non_score_reward": -beta * fmean(kl),
        "objective/rlhf_reward": fmean(reward),
        "objective/entropy": -fmean(logp),
    }


def test_every_metric_of_ppo_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates of 2 epochs x 3 minibatches, with clipping of both kinds, a reference that is not the policy."""
    settings = tiny.config(
        num_generations=2,
        num_mini_batches=3,
        num_ppo_epochs=2,
        total_episodes=2 * 24,
        learning_rate=0.05,
        value_learning_rate=0.05,
        cliprange=0.03,
        cliprange_value=0.04,
    )
    logits_NK, reference_NK, score_NK = (tiny.scores(12, seed=seed).double() for seed in (1, 2, 3))
    logs = tiny.Logs()
    table = tiny.row_tokens(12)
    trainer, models = tiny.trainer(settings, tiny.Tabular(logits_NK), table, score_NK, tmp_path, [logs])
    models.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    recording, steps = bare_loop.record(models, monkeypatch), caught_weights(trainer, models)
    ppo.run_trainer(trainer, settings)
    assert len(logs.rows) == 2 and len(steps) == 12
    for update, logged in enumerate(logs.rows):
        answers = list(zip(recording.rows[update].tolist(), recording.actions[update].tolist(), strict=True))
        orders = [order.tolist() for order in recording.permutations[2 * update : 2 * update + 2]]
        mine = ppo_by_hand(
            settings, steps[6 * update : 6 * update + 6], answers, orders, reference_NK.tolist(), score_NK.tolist()
        )
        mine |= {"episode": 24 * (update + 1), "epoch": update + 1.0, "lr": 0.05 * (1 - update / 2)}
        assert set(mine) == set(logged) - {"eps"}
        for name, value in mine.items():  # TRL keeps its averages in float32
            assert value == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name
        assert mine["policy/clipfrac_avg"] > 0 and mine["val/clipfrac_avg"] > 0


# --- RLOO and GRPO


def groups_by_hand(
    job: Job, steps: list[list[list[float]]], answers: list[tuple[int, int]], reference: list[list[float]]
) -> dict[str, float]:
    """The metrics of one update in which every step reads all answers."""
    config, beta, epsilon = job.config, job.config.kl_coef, job.config.epsilon
    score = job.task.lessons.score_NK.tolist()
    logp = [log_softmax(steps[0][q])[a] for q, a in answers]
    ref_logp = [log_softmax(reference[q])[a] for q, a in answers]
    kl = [own - ref for own, ref in zip(logp, ref_logp, strict=True)]
    plain = [score[q][a] for q, a in answers]
    priced = [s - beta * k for s, k in zip(plain, kl, strict=True)]
    returned = priced if job.kl_in_reward else plain  # by our function
    reward = priced if job.kl_in_reward or job.method == "rloo" else plain
    members: dict[int, list[int]] = {}
    for i, (q, _) in enumerate(answers):
        members.setdefault(q, []).append(i)
    advantage, still = [0.0] * len(answers), []
    for group in members.values():
        assert len(group) == config.num_generations
        for i in group:
            others = [reward[j] for j in group if j != i]
            if job.method == "rloo":
                advantage[i] = reward[i] - fmean(others)
            else:
                own = [reward[j] for j in group]
                advantage[i] = (reward[i] - fmean(own)) / (stdev(own) + 1e-4)
        still.append(float(stdev([reward[j] for j in group]) < 1e-6))
    seen: dict[str, list[float]] = {}
    for logits in steps:
        rows = []
        for i, (q, a) in enumerate(answers):
            own = log_softmax(logits[q])
            ratio, gap = math.exp(own[a] - logp[i]), ref_logp[i] - own[a]
            low, high = ratio < 1 - epsilon and advantage[i] < 0, ratio > 1 + epsilon and advantage[i] > 0
            k3 = ratio * (math.exp(gap) - gap - 1)
            pays = 0.0 if job.kl_in_reward or job.method == "rloo" else beta
            held = clip(ratio, 1 - epsilon, 1 + epsilon)
            rows.append(
                {
                    "loss": -min(ratio * advantage[i], held * advantage[i]) + pays * k3,
                    "entropy": entropy(own),
                    "k3": k3,
                    "clip_ratio/low_mean": float(low),
                    "clip_ratio/high_mean": float(high),
                    "clip_ratio/region_mean": float(low or high),
                }
            )
        for name in rows[0]:
            seen.setdefault(name, []).append(fmean(row[name] for row in rows))
        for name, pick, single in (("low_min", min, "low_mean"), ("high_max", max, "high_mean")):
            seen.setdefault(f"clip_ratio/{name}", []).append(pick(row[f"clip_ratio/{single}"] for row in rows))
    mine = {name: fmean(values) for name, values in seen.items()} | {
        "rewards/reward/mean": fmean(returned),
        "rewards/reward/std": stdev(returned),
        "reward": fmean(returned),  # of RLOO, too, which learns from another
        "reward_std": stdev(returned),
        "frac_reward_zero_std": fmean(still),
    }
    k3 = mine.pop("k3")
    if job.method == "rloo":
        mine["kl"] = fmean(kl)
    elif not job.kl_in_reward:
        mine["kl"] = k3
    return mine


@pytest.mark.parametrize(
    ("config_class", "options"),
    [(RLOOConfig, {}), (GRPOConfig, {}), (GRPOConfig, {"kl_in_reward": False})],
    ids=["rloo", "grpo", "grpo, KL in the loss"],
)
def test_the_metrics_of_rloo_and_grpo_by_hand(
    config_class: type, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates of three steps on all answers; temperature 1, the price as asked for."""
    settings = config_class(
        num_generations=4,
        steps_per_generation=1,
        num_iterations=3,
        total_episodes=2 * 48,
        kl_coef=0.5,
        anneal=0.0,
        learning_rate=0.1,
        epsilon=0.02,
        disable_tqdm=True,
        **options,
    )
    logits_NK, reference_NK, score_NK = (2 * tiny.scores(12, seed=seed) for seed in (1, 2, 3))
    job = Job(settings, tiny.Tabular(logits_NK), tiny.row_tokens(12), score_NK)
    job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    answers: list[list[tuple[int, int]]] = []
    generate = job.policy.generate

    def caught(input_ids: torch.Tensor, **how: Any) -> torch.Tensor:
        ids = generate(input_ids, **how)
        answers.append(list(zip(job.ids.rows(ids).tolist(), job.ids.actions(ids).tolist(), strict=True)))
        return ids

    monkeypatch.setattr(job.policy, "generate", caught)
    trainer, steps = job.trainer(tmp_path), []
    weight = job.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(weight.tolist()))
    run_trainer(trainer, settings.seed, job.method)
    rows = [row for row in job.rows if "train_runtime" not in row]
    assert len(rows) == len(answers) == 2 and len(steps) == 6
    for update, logged in enumerate(rows):
        mine = groups_by_hand(job, steps[3 * update : 3 * update + 3], answers[update], reference_NK.tolist())
        fixed = {"completions/clipped_ratio": 1, "num_tokens": 96 * (update + 1), "episode": 48 * (update + 1)}
        for name, value in (mine | fixed).items():
            assert value == pytest.approx(logged[name], rel=1e-4, abs=2e-6), name
        assert ("kl" in logged) == ("kl" in mine)
        assert 0 < mine["frac_reward_zero_std"] < 1 and mine["clip_ratio/region_mean"] > 0


# --- exact/* and results.json


def table_of(run: Path, questions: Sequence[str]) -> list[list[float]]:
    """Log-probabilities of a saved classifier, one question at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    model.eval()
    found = []
    for question in questions:
        with torch.no_grad():
            logits = model(**tokenizer(question, truncation=True, return_tensors="pt")).logits[0]
        found.append(log_softmax(logits.tolist()))
    return found


def optimum(reference: Row, score: Row, beta: float) -> list[float]:
    return log_softmax([r + s / beta for r, s in zip(reference, score, strict=True)])


def expected(logp: Row, score: Row) -> float:
    return sum(math.exp(p) * s for p, s in zip(logp, score, strict=True))


def divergence(logp: Row, reference: Row) -> float:
    return sum(math.exp(p) * (p - r) for p, r in zip(logp, reference, strict=True))


def best_at(kl: float, reference: list[list[float]], score: list[list[float]]) -> float:
    """The best mean score at a mean KL: that of the optimum at the price which spends just as much."""
    low, high = -12.0, 12.0  # logarithms of the price
    for _ in range(200):
        price = math.exp((low + high) / 2)
        best = [optimum(r, s, price) for r, s in zip(reference, score, strict=True)]
        spent = fmean(divergence(p, r) for p, r in zip(best, reference, strict=True))
        low, high = ((low + high) / 2, high) if spent > kl else (low, (low + high) / 2)
    return fmean(expected(p, s) for p, s in zip(best, score, strict=True))


def record_by_hand(
    logp: list[list[float]], reference: list[list[float]], score: list[list[float]], wanted: list[int] | None
) -> dict[str, Any]:
    """What results.json says of a policy on a split."""
    rows = list(zip(logp, reference, score, strict=True))
    won, tied = [], []
    for p, r, s in rows:
        pairs = [(math.exp(p[a] + r[b]), s[a] - s[b]) for a, b in itertools.product(range(len(LABELS)), repeat=2)]
        won.append(sum(weight for weight, gap in pairs if gap > 0))
        tied.append(sum(weight for weight, gap in pairs if gap == 0))
    kl, mean_score = fmean(divergence(p, r) for p, r, _ in rows), fmean(expected(p, s) for p, _, s in rows)
    start = fmean(expected(r, s) for _, r, s in rows)
    top = fmean(BETA * math.log(sum(math.exp(x + y / BETA) for x, y in zip(r, s, strict=True))) for _, r, s in rows)

    def share(table: list[list[float]], label: int) -> float:
        return fmean(float(max(range(len(LABELS)), key=row.__getitem__) == label) for row in table)

    record: dict[str, Any] = {
        "questions": len(rows),
        "expected_score": mean_score,
        "kl": kl,
        "entropy": fmean(entropy(p) for p in logp),
        "objective": mean_score - BETA * kl,
        "optimum_objective": top,
        "optimum_fraction": (mean_score - BETA * kl - start) / (top - start),
        "frontier_distance": best_at(kl, reference, score) - mean_score,
        "win_rate": fmean(won) + fmean(tied) / 2,
        "tie_rate": fmean(tied),
        "gold_accuracy": None,
        "gold_probability": None,
        "label_histogram": {n: fmean(math.exp(p[a]) for p in logp) for a, n in enumerate(LABELS)},
        "greedy_histogram": {name: share(logp, a) for a, name in enumerate(LABELS)},
        "grader_histogram": {name: share(score, a) for a, name in enumerate(LABELS)},
    }
    if wanted is not None:
        right = [max(range(len(LABELS)), key=p.__getitem__) == a for p, a in zip(logp, wanted, strict=True)]
        record["gold_accuracy"] = fmean(map(float, right))
        record["gold_probability"] = fmean(math.exp(p[a]) for p, a in zip(logp, wanted, strict=True))
    return record


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(("split", "file"), [("train", "rl"), ("heldout", "heldout")])
def test_the_record_of_a_run_by_hand(
    split: str, file: str, runs: dict[str, Path], small_data: Path, sft_run: Path, reward_run: Path
) -> None:
    """From the saved policy, reference and reward model; and the last `exact/*`, which are of the same policy."""
    rows = lines(small_data / f"{file}.jsonl")
    questions = [row["question"] for row in rows]
    wanted = [LABELS.index(row["answer"]) for row in rows] if split == "heldout" else None
    reference, score = table_of(sft_run, questions), table_of(reward_run, questions)
    for method in ("ppo", "distill"):
        results = read_results(runs[method])
        mine = record_by_hand(table_of(runs[method], questions), reference, score, wanted)
        assert set(mine) == set(results["splits"][split])
        for name, value in mine.items():
            near = value if value is None else pytest.approx(value, rel=1e-4, abs=2e-5)
            assert results["splits"][split][name] == near, (method, name)
        assert mine["kl"] > 1e-4
        start = record_by_hand(reference, reference, score, wanted)
        assert results["reference"][split]["expected_score"] == pytest.approx(start["expected_score"], rel=1e-4)
        if split == "train":
            last = [row for row in read_metrics(runs[method]) if "exact/kl" in row][-1]
            for name in ("expected_score", "kl", "entropy", "objective", "optimum_fraction"):
                assert last[f"exact/{name}"] == pytest.approx(mine[name], rel=1e-4, abs=2e-5), name


def test_grader_calls_are_the_cells_that_were_drawn(runs: dict[str, Path]) -> None:
    """One update and two: the completions of both hold every answer of the run."""
    seen: set[tuple[str, str]] = set()
    rows = [row for row in read_metrics(runs["ppo"]) if "episode" in row]
    files = sorted(runs["ppo"].glob("completions/*.parquet"))
    assert len(files) == len(rows) == 2
    for row, file in zip(rows, files, strict=True):
        table = pd.read_parquet(file)
        seen |= set(zip(table["question"], table["answer"], strict=True))
        assert row["grader_calls"] == len(seen)
    assert read_results(runs["ppo"])["grader_calls"] == len(seen)
    assert read_results(runs["distill"])["grader_calls"] == 60 * 3


def test_coverage_and_thresholds_by_hand(runs: dict[str, Path], small_data: Path, reward_run: Path) -> None:
    results = read_results(runs["distill"])
    score = table_of(reward_run, [row["question"] for row in lines(small_data / "rl.jsonl")])
    kept = sum(math.exp(max(row)) >= results["threshold"] for row in score)
    assert results["kept_questions"] == kept and results["coverage"] == pytest.approx(kept / 60)
    best = max(results["thresholds_tried"], key=lambda row: row["validation_score"])
    assert best["threshold"] == results["threshold"]


def calibration_error(logp: list[list[float]], wanted: list[int]) -> float:
    """Over 15 equal bins of confidence, a border belonging to the bin below."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(logp, wanted, strict=True):
        confidence = math.exp(max(row))
        right = max(range(len(row)), key=row.__getitem__) == label
        bins.setdefault(min(15, max(1, math.ceil(confidence * 15))), []).append((confidence, right))
    gaps = [(len(own), abs(fmean(float(r) for _, r in own) - fmean(c for c, _ in own))) for own in bins.values()]
    return sum(size * gap for size, gap in gaps) / len(logp)


def test_the_reward_models_record_by_hand(reward_run: Path, small_data: Path) -> None:
    rows = lines(small_data / "heldout.jsonl")
    wanted = [LABELS.index(row["answer"]) for row in rows]
    logp = table_of(reward_run, [row["question"] for row in rows])
    results = read_results(reward_run)
    record, temperature = results["splits"]["heldout"], results["temperature"]
    said = [max(range(3), key=row.__getitem__) for row in logp]
    assert record["accuracy"] == pytest.approx(fmean(float(a == b) for a, b in zip(said, wanted, strict=True)))
    assert record["gold_accuracy"] == pytest.approx(record["accuracy"])
    for a, name in enumerate(LABELS):
        hits = sum(x == a and y == a for x, y in zip(said, wanted, strict=True))
        wrong = sum((x == a) != (y == a) for x, y in zip(said, wanted, strict=True))
        assert record["f1"][name] == pytest.approx(2 * hits / (2 * hits + wrong) if hits else 0.0)
    before = [log_softmax([x * temperature for x in row]) for row in logp]
    assert record["ece"] == pytest.approx(calibration_error(logp, wanted), abs=1e-4)
    assert record["ece_before_scaling"] == pytest.approx(calibration_error(before, wanted), abs=1e-4)


def test_the_prior_of_sft_by_hand(sft_run: Path, small_data: Path) -> None:
    record = read_results(sft_run)["splits"]["heldout"]
    trained = [row["answer"] for row in lines(small_data / "sft.jsonl")]
    assert record["training_counts"] == {name: trained.count(name) for name in LABELS}
    table = [list(record[f"{name}_counts"].values()) for name in ("training", "sampled")]
    columns, total = [sum(own) for own in zip(*table, strict=True)], sum(map(sum, table))
    statistic = 0.0
    for row in table:
        for seen, column in zip(row, columns, strict=True):
            thought = sum(row) * column / total
            statistic += (seen - thought) ** 2 / thought
    assert record["prior_p_value"] == pytest.approx(chi2.sf(statistic, 2))
