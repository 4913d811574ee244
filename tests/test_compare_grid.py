"""The grid of a comparison: its runs, their names and options, and the sentences of its headline."""

import dataclasses
import re
from itertools import product
from typing import Any

import pandas as pd
import pytest

from eightball_ppo.comparison import pairwise
from eightball_ppo.comparison.grid import RunSpec, run_config, run_groups
from eightball_ppo.comparison.wording import display_name
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, PPOConfig
from eightball_ppo.config.registry import METHODS
from eightball_ppo.errors import InputError
from eightball_ppo.methods.defaults import fitting


def config(**options: Any) -> CompareConfig:
    return CompareConfig(**{"disable_tqdm": True, **options}).with_kl_coefs()


def cells(settings: CompareConfig) -> list[RunSpec]:
    return [cell for job in run_groups(settings) for cell in job]


def test_the_grid_is_the_product_of_the_axes_and_all_names_differ() -> None:
    axes = config(seeds=[0, 7], kl_coefs=[0.1, 1e-5], label_noise=[0.0, "0.3:call"], grader_call_budgets=[30, 3])
    assert len(cells(axes)) == len({cell.name for cell in cells(axes)}) == 12 * 2**4
    assert set(cells(axes)) == {
        RunSpec(*values) for values in product(axes.methods, (0, 7), (0.1, 1e-5), ("", "0.3:call"), (3, 30))
    }
    assert {cell.budget for cell in cells(config())} == {None}
    thresholds = config(seeds=[0], kl_coefs=[0.1], thresholds=[0.0, 0.123456])
    assert [cell.threshold for cell in cells(thresholds) if cell.method == "distill"] == [0.0, 0.123456]
    assert {cell.threshold for cell in cells(thresholds) if cell.method != "distill"} == {None}
    assert len({cell.name for cell in cells(thresholds)}) == 13


def test_a_run_is_named_after_its_values_that_are_not_defaults() -> None:
    assert RunSpec("ppo", 3, 0.1).name == "ppo-beta0.1-seed3"
    full = RunSpec("distill", 0, 1e-5, "0.25:cell", 900, 0.0)
    assert full.name == "distill-beta1e-05-noise0.25-cell-budget900-threshold0-seed0"
    assert dataclasses.asdict(full) == {
        **{"method": "distill", "seed": 0, "beta": 1e-5, "noise": "0.25:cell", "budget": 900},
        **{"threshold": 0.0, "reference": 0},
    }


def test_methods_without_beta_are_trained_once_for_all_betas() -> None:
    settings = config(seeds=[0, 1], kl_coefs=[0.1, 0.5, 1.0])
    for job in run_groups(settings):
        if not METHODS[job[0].method].reads_kl_coef:
            assert [cell.beta for cell in job] == [0.1, 0.5, 1.0]
            assert len({(cell.method, cell.seed) for cell in job}) == 1
        else:
            assert len(job) == 1
    assert len(list(run_groups(settings))) == 2 * (6 + 6 * 3)
    soft = [job for job in run_groups(settings, raw=True) if job[0].method == "distill_soft"]
    assert len(soft) == 2 * 3 and all(len(job) == 1 for job in soft)  # soft targets of raw scores are the optimum's


def test_long_jobs_are_started_first_whatever_the_order_of_methods() -> None:
    order = list(dict.fromkeys(cell.method for cell in cells(config(methods=["sft", "exact", "best_of_n", "ppo"]))))
    assert order == ["ppo", "exact", "best_of_n", "sft"]


def test_a_run_gets_the_shared_options_and_its_place_in_the_grid() -> None:
    settings = config(output_dir="D", score_type="probability", max_length=9, dataset_name="x", labels=["a", "b"])
    made = run_config(RunSpec("ppo", 3, 2.0, "0.25", 900), settings)
    assert isinstance(made, PPOConfig) and fitting(made, "small", 600).learning_rate == 0.012
    assert (made.score_type, made.max_length, made.dataset_name, made.labels) == ("probability", 9, "x", ["a", "b"])
    assert (made.seed, made.kl_coef, made.label_noise, made.grader_call_budget) == (3, 2.0, "0.25", 900)
    assert (made.sft_model_path, made.grade_table) == ("D/reference", "D/grades.parquet")
    assert made.output_dir == "D/runs/ppo-beta2-noise0.25-budget900-seed3"
    for method, target in (("distill", "hard"), ("distill_soft", "soft"), ("distill_boltzmann", "boltzmann")):
        distilled = run_config(RunSpec(method, 0, 0.1), settings)
        assert isinstance(distilled, DistillConfig) and (distilled.target, distilled.threshold) == (target, None)
    thresholded = run_config(RunSpec("distill", 0, 0.1, threshold=0.0), settings)
    assert isinstance(thresholded, DistillConfig) and thresholded.threshold == 0.0


def test_method_options_are_parsed_by_type_and_change_one_method() -> None:
    entries = [
        *("ppo.total_episodes=96000", "ppo.max_grad_norm=0.5", "grpo.kl_in_reward=false", "exact.anneal_fraction=0")
    ]
    settings = config(method_options=[*entries, "distill.threshold=0.5", "distill_soft.lr_scheduler_type=cosine"])
    ppo, grpo, exact, hard, soft = (
        run_config(RunSpec(name, 0, 0.1), settings) for name in ("ppo", "grpo", "exact", "distill", "distill_soft")
    )
    assert isinstance(ppo, PPOConfig) and (ppo.total_episodes, ppo.max_grad_norm) == (96000, 0.5)
    assert isinstance(grpo, GRPOConfig) and grpo.kl_in_reward is False and grpo.total_episodes is None
    assert isinstance(exact, ExactConfig) and exact.anneal_fraction == 0.0
    assert isinstance(hard, DistillConfig) and (hard.threshold, hard.lr_scheduler_type) == (0.5, "linear")
    assert isinstance(soft, DistillConfig) and (soft.threshold, soft.lr_scheduler_type) == (None, "cosine")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["total_episodes=1"], "METHOD.OPTION=VALUE is needed"),
        (["pop.total_episodes=1"], "METHOD.OPTION=VALUE is needed"),
        (["exact.total_episodes=1"], "exact.total_episodes=1: total_episodes is no option of the method"),
        (["ppo.replaces=nothing"], "replaces is no option of the method"),
        (["ppo.kl_coef=1"], "kl_coef is set by the comparison"),
        (["ppo.output_dir=x"], "output_dir is set by the comparison"),
        (["exact.max_length=64"], "max_length is set by the comparison"),
        (["distill.target=soft"], "target is set by the comparison"),
        (["ppo.total_episodes=many"], "ppo.total_episodes=many: Input should be a valid integer"),
        (["ppo.total_episodes=0"], "--total_episodes 0: must be at least 1"),
        (["ppo.learning_rate=nan"], "--learning_rate nan: must be a finite number"),
        (["ppo.lr_scheduler_type=sideways"], "Input should be 'linear'"),
        (["ppo.total_episodes=1", "ppo.total_episodes=2"], "ppo.total_episodes"),
    ],
)
def test_bad_method_options_are_refused(entries: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_config(RunSpec("ppo", 0, 0.1), config(method_options=entries))


def test_a_threshold_given_twice_is_refused() -> None:
    settings = config(thresholds=[0.1, 0.9], method_options=["distill.threshold=0.5"])
    with pytest.raises(InputError, match="--thresholds sets it"):
        run_config(RunSpec("distill", 0, 0.1, threshold=0.1), settings)
    with pytest.raises(InputError, match=r"--threshold 0\.9: --preset original fixes it at 0\.4"):
        run_config(
            RunSpec("distill", 0, 0.1, threshold=0.9),
            config(thresholds=[0.9], method_options=["distill.preset=original"]),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0, 0]}, "--seeds 0 0"),
        *[({"label_noise": [0.0, -0.0]}, "appears twice"), ({"methods": []}, "--methods: at least one is needed")],
        ({"label_noise": []}, "--label_noise: at least one is needed"),
        ({"methods": ["pop"]}, "--methods pop: unknown; known: sft, best_of_n,"),
        ({"seeds": [2**31]}, "--seeds 2147483648: must be between"),
        ({"kl_coefs": [0.0]}, "--kl_coefs 0.0: must be above 0"),
        ({"kl_coefs": [float("inf")]}, "--kl_coefs inf: must be above 0 and finite"),
        ({"kl_coefs": [0.1, 0.1000001]}, "--kl_coefs 0.1000001: at most 6 digits"),
        ({"label_noise": [1.5]}, "--label_noise 1.5: must be a share"),
        ({"label_noise": ["0.3:word"]}, "--label_noise 0.3:word: RATE or RATE:KIND is needed"),
        ({"label_noise": ["0.3:row", 0.3]}, "appears twice"),
        ({"grader_call_budgets": [0]}, "--grader_call_budgets 0: must be at least 1"),
        ({"thresholds": [2.0]}, "--thresholds 2.0: must be a probability"),
        ({"thresholds": [0.5], "methods": ["ppo"]}, "--thresholds: needs distill among --methods"),
        ({"num_workers": 0}, "--num_workers 0: must be at least 1"),
        ({"seed": 3}, "--seed 3: a comparison has --seeds"),
        ({"overwrite_output_dir": True}, "--overwrite_output_dir"),
    ],
)
def test_bad_axes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        config(**options)


def family(methods: list[str], **options: Any) -> list[tuple[str, str]]:
    return config(methods=methods, **options).primary_pairs


def test_the_primary_family_is_ppo_against_distillation_or_the_first_two_or_what_is_named() -> None:
    assert family(["exact", "distill", "ppo"]) == [("ppo", "distill")]
    assert family(["sft", "exact", "grpo", "ppo"]) == [("exact", "grpo")]
    assert family(["sft", "ppo"]) == family(["ppo"]) == []
    assert family(["sft", "ppo"], contrasts=["ppo:sft"]) == [("ppo", "sft")]
    for contrast in ("ppo", "ppo:ppo", "ppo:exact", "ppo:sft:ppo"):
        with pytest.raises(InputError, match=f"--contrasts {contrast}: A:B is needed, two of --methods"):
            config(methods=["sft", "ppo"], contrasts=[contrast])


def test_the_headline_has_the_sentences_of_the_primary_family_plainest_condition_first() -> None:
    row = {"beta": 0.1, "split": "heldout", "noise": "", "budget": pd.NA, "primary": True, "sentence": "A"}
    others = [row | {"noise": "0.3:call", "budget": 900, "sentence": "B"}, row | {"primary": False, "sentence": "C"}]
    assert pairwise.headline(pd.DataFrame([*others, row])) == [
        "beta 0.1, held-out questions: A.",
        "beta 0.1, held-out questions, 30% of the answers wrong, drawn at every call, 900 grader calls: B.",
    ]
    assert pairwise.headline(pd.DataFrame()) == []
    assert all(display_name(name) for name in METHODS)


def test_a_seed_uses_the_reference_of_its_number() -> None:
    settings = config(seeds=[0, 1, 5], references=2, methods=["exact"], kl_coefs=[0.1], output_dir="D")
    assert [(cell.seed, cell.reference) for cell in cells(settings)] == [(0, 0), (1, 1), (5, 1)]
    made = run_config(RunSpec("exact", 5, 0.1, reference=1), settings)
    assert (made.sft_model_path, made.grade_table) == ("D/reference-1", "D/grades-1.parquet")
    with pytest.raises(InputError, match="--references 4: needs as many --seeds, there are 3"):
        config(seeds=[0, 1, 5], references=4)
