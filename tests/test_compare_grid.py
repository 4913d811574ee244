"""The grid of a comparison: its cells and jobs, what each is trained with, what stands already, who died."""

import dataclasses
import re
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eightball_ppo.comparison import grid, pairwise, workers, workspace
from eightball_ppo.comparison.grid import RunGroup, RunSpec, run_config, run_groups
from eightball_ppo.comparison.wording import display_name
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, PPOConfig
from eightball_ppo.config.registry import METHODS
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.report.style import row_name
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.run import write_config

DATA = {"train": Questions("rl", ["a?", "b?"]), "heldout": Questions("heldout", ["c?"], [1])}


def config(**options: Any) -> CompareConfig:
    return CompareConfig(**{"disable_tqdm": True, **options})


def cells(own: CompareConfig) -> list[RunSpec]:
    return [cell for job in run_groups(own) for cell in job]


def stands(cell: RunSpec, own: CompareConfig, **recorded: Any) -> Path:
    """A finished run of `cell`, as far as anybody looks at it before it is read back."""
    run = Path(own.output_dir) / grid.RUNS / cell.name
    run.mkdir(parents=True)
    write_config(run, run_config(cell, own))
    write_json(run / "results.json", {"method": cell.method, **recorded})
    return run


def test_cells_are_the_product_of_the_axes_and_their_names_differ() -> None:
    own = config(seeds=[0, 7], kl_coefs=[0.1, 1e-5], label_noise=[0.0, 0.3], grader_call_budgets=[30, 3])
    assert len(cells(own)) == len({cell.name for cell in cells(own)}) == 9 * 2**4
    assert set(cells(own)) == {
        RunSpec(*axes) for axes in product(own.methods, (0, 7), (0.1, 1e-5), (0.0, 0.3), (3, 30))
    }
    assert {cell.budget for cell in cells(config())} == {None}
    thresholds = config(seeds=[0], kl_coefs=[0.1], thresholds=[0.0, 0.123456])
    assert [cell.threshold for cell in cells(thresholds) if cell.method == "distill"] == [0.0, 0.123456]
    assert {cell.threshold for cell in cells(thresholds) if cell.method != "distill"} == {None}
    assert len({cell.name for cell in cells(thresholds)}) == 10


def test_a_cell_is_named_after_what_is_not_plain() -> None:
    assert RunSpec("ppo", 3, 0.1).name == "ppo-beta0.1-seed3"
    full = RunSpec("distill", 0, 1e-5, 0.25, 900, 0.0)
    assert full.name == "distill-beta1e-05-noise0.25-budget900-threshold0-seed0"
    assert dataclasses.asdict(full) == {
        **{"method": "distill", "seed": 0, "beta": 1e-5, "noise": 0.25, "budget": 900},
        "threshold": 0.0,
    }


def test_methods_that_know_no_beta_are_trained_once_for_all_of_them() -> None:
    own = config(seeds=[0, 1], kl_coefs=[0.1, 0.5, 1.0])
    for job in run_groups(own):
        if job[0].method in ("sft", "distill", "distill_soft"):
            assert [cell.beta for cell in job] == [0.1, 0.5, 1.0]
            assert len({(cell.method, cell.seed) for cell in job}) == 1
        else:
            assert len(job) == 1
    assert len(list(run_groups(own))) == 2 * (3 + 6 * 3)


def test_long_jobs_come_first() -> None:
    """However the methods were given; the last worker should have a short one."""
    order = list(dict.fromkeys(cell.method for cell in cells(config(methods=["sft", "exact", "best_of_n", "ppo"]))))
    assert order == ["ppo", "exact", "best_of_n", "sft"]


def test_a_cell_is_trained_on_the_terms_of_all_and_at_its_place() -> None:
    own = config(output_dir="D", score_type="probability", max_length=9, dataset_name="x", labels=["a", "b"])
    made = run_config(RunSpec("ppo", 3, 2.0, 0.25, 900), own)
    assert isinstance(made, PPOConfig) and made.learning_rate == 0.006  # the default of its beta
    assert (made.score_type, made.max_length, made.dataset_name, made.labels) == ("probability", 9, "x", ["a", "b"])
    assert (made.seed, made.kl_coef, made.label_noise, made.grader_call_budget) == (3, 2.0, 0.25, 900)
    assert (made.sft_model_path, made.grade_table) == ("D/reference", "D/grades.parquet")
    assert made.output_dir == "D/runs/ppo-beta2-noise0.25-budget900-seed3"
    for method, target in (("distill", "hard"), ("distill_soft", "soft"), ("distill_boltzmann", "boltzmann")):
        distilled = run_config(RunSpec(method, 0, 0.1), own)
        assert isinstance(distilled, DistillConfig) and (distilled.target, distilled.threshold) == (target, None)
    thresholded = run_config(RunSpec("distill", 0, 0.1, threshold=0.0), own)
    assert isinstance(thresholded, DistillConfig) and thresholded.threshold == 0.0


def test_method_options_change_one_method_each_as_its_type() -> None:
    entries = [
        "ppo.total_episodes=96000",
        "ppo.max_grad_norm=0.5",
        "grpo.kl_in_reward=false",
        "exact.anneal_fraction=0",
    ]
    own = config(method_options=[*entries, "distill.threshold=0.5", "distill_soft.lr_scheduler_type=cosine"])
    ppo, grpo, exact, hard, soft = (
        run_config(RunSpec(name, 0, 0.1), own) for name in ("ppo", "grpo", "exact", "distill", "distill_soft")
    )
    assert isinstance(ppo, PPOConfig) and (ppo.total_episodes, ppo.max_grad_norm) == (96000, 0.5)
    assert isinstance(grpo, GRPOConfig) and grpo.kl_in_reward is False and grpo.total_episodes == 48_000
    assert isinstance(exact, ExactConfig) and exact.anneal_fraction == 0.0
    assert isinstance(hard, DistillConfig) and (hard.threshold, hard.lr_scheduler_type) == (0.5, "linear")
    assert isinstance(soft, DistillConfig) and (soft.threshold, soft.lr_scheduler_type) == (None, "cosine")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["total_episodes=1"], "METHOD.OPTION=VALUE is needed"),
        (["ppo.total_episodes"], "METHOD.OPTION=VALUE is needed"),
        (["pop.total_episodes=1"], "METHOD.OPTION=VALUE is needed"),
        (["exact.total_episodes=1"], "exact.total_episodes=1: total_episodes is no option of the method"),
        (["ppo.replaces=nothing"], "replaces is no option of the method"),
        (["ppo.kl_coef=1"], "kl_coef is set by the comparison"),
        (["ppo.label_noise=1"], "label_noise is set by the comparison"),
        (["ppo.grader_call_budget=1"], "grader_call_budget is set by the comparison"),
        (["ppo.seed=1"], "seed is set by the comparison"),
        (["ppo.output_dir=x"], "output_dir is set by the comparison"),
        (["exact.max_length=64"], "max_length is set by the comparison"),
        (["distill.target=soft"], "target is set by the comparison"),
        (["ppo.total_episodes=many"], "ppo.total_episodes=many: Input should be a valid integer"),
        (["ppo.total_episodes=0"], "--total_episodes 0: at least 1"),
        (["ppo.learning_rate=nan"], "--learning_rate nan: must be a finite number"),
        (["ppo.lr_scheduler_type=sideways"], "Input should be 'linear'"),
        (["ppo.total_episodes=1", "ppo.total_episodes=2"], "ppo.total_episodes is given twice"),
    ],
)
def test_method_options_that_cannot_be(entries: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_config(RunSpec("ppo", 0, 0.1), config(method_options=entries))


def test_a_threshold_is_given_in_one_place() -> None:
    own = config(thresholds=[0.1, 0.9], method_options=["distill.threshold=0.5"])
    with pytest.raises(InputError, match="--thresholds sets it"):
        run_config(RunSpec("distill", 0, 0.1, threshold=0.1), own)
    with pytest.raises(InputError, match=r"--threshold 0\.9: --preset original fixes it at 0\.4"):
        run_config(
            RunSpec("distill", 0, 0.1, threshold=0.9),
            config(thresholds=[0.9], method_options=["distill.preset=original"]),
        )


def test_a_preset_is_resolved_as_its_run_will_write_it() -> None:
    made = run_config(RunSpec("distill", 0, 0.1), config(method_options=["distill.preset=original"]))
    assert isinstance(made, DistillConfig) and made.learning_rate == 2e-5
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [0, 0]}, "--seeds 0 0: one of them stands twice"),
        ({"kl_coefs": [0.1, 0.10]}, "--kl_coefs 0.1 0.1: one of them stands twice"),
        ({"methods": ["ppo", "ppo"]}, "stands twice"),
        ({"label_noise": [0.0, -0.0]}, "stands twice"),
        ({"thresholds": [0.5, 0.5]}, "stands twice"),
        ({"grader_call_budgets": [9, 9]}, "stands twice"),
        ({"methods": []}, "--methods: at least one is needed"),
        ({"seeds": []}, "--seeds: at least one is needed"),
        ({"kl_coefs": []}, "--kl_coefs: at least one is needed"),
        ({"label_noise": []}, "--label_noise: at least one is needed"),
        ({"methods": ["pop"]}, "--methods pop: unknown; known: sft, best_of_n,"),
        ({"seeds": [-1]}, "--seeds -1: between 0 and 2147483647"),
        ({"seeds": [2**31]}, "--seeds 2147483648: between"),
        ({"kl_coefs": [0.0]}, "--kl_coefs 0.0: must be above 0"),
        ({"kl_coefs": [float("nan")]}, "--kl_coefs nan: must be above 0"),
        ({"kl_coefs": [float("inf")]}, "--kl_coefs inf: must be above 0 and finite"),
        ({"kl_coefs": [0.1, 0.1000001]}, "--kl_coefs 0.1000001: at most 6 digits"),
        ({"label_noise": [1.5]}, "--label_noise 1.5: a share"),
        ({"grader_call_budgets": [0]}, "--grader_call_budgets 0: at least 1"),
        ({"thresholds": [2.0]}, "--thresholds 2.0: a probability"),
        ({"thresholds": [0.5], "methods": ["ppo"]}, "--thresholds: of method distill, which is left out"),
        ({"num_workers": 0}, "--num_workers 0: at least 1"),
        ({"resamples": 999}, "--resamples 999: at least 1000"),
        ({"seed": 3}, "--seed 3: a comparison has --seeds"),
        ({"overwrite_output_dir": True}, "--overwrite_output_dir: remove what is to be made anew instead"),
    ],
)
def test_axes_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        config(**options)


def test_a_run_stands_if_it_was_made_as_it_would_be_made_now(tmp_path: Path) -> None:
    own, cell = config(output_dir=str(tmp_path)), RunSpec("exact", 1, 0.1)
    assert not workers.finished(cell, own)
    run = stands(cell, own)
    assert workers.finished(cell, own)
    elsewhere = dataclasses.replace(own, max_concurrency=2, grade_store="other", sft_model_path="other")
    assert workers.finished(cell, elsewhere)  # paths and limits change nothing
    later = dataclasses.replace(own, ddp_timeout=60, upstream_config="models.yaml", max_concurrency=2, report_to="all")
    assert workspace.fixed_settings(later) == workspace.fixed_settings(own)
    otherwise = dataclasses.replace(own, method_options=["exact.anneal_fraction=0.5"])
    with pytest.raises(InputError, match=r"was made with --anneal_fraction 0\.8, not 0\.5; remove it to run it again"):
        workers.finished(cell, otherwise)
    for name, other in (
        ("exact-beta0.1-seed2", RunSpec("exact", 2, 0.1)),
        ("exact-beta0.5-seed1", RunSpec("exact", 1, 0.5)),
    ):
        run = run.rename(run.with_name(name))
        with pytest.raises(InputError, match="was made with --"):
            workers.finished(other, own)
    (run / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json is missing or damaged; remove it to run it again"):
        workers.finished(RunSpec("exact", 1, 0.5), own)


def test_a_run_of_a_method_with_the_same_options_is_no_run_of_this_one(tmp_path: Path) -> None:
    own = config(output_dir=str(tmp_path))
    stands(RunSpec("grpo", 0, 0.1), own).rename(tmp_path / "runs" / "rloo-beta0.1-seed0")
    with pytest.raises(InputError, match="is a run of method grpo; remove it"):
        workers.finished(RunSpec("rloo", 0, 0.1), own)


def test_one_process_at_a_time_has_the_directory(tmp_path: Path) -> None:
    own = config(output_dir=str(tmp_path / "a" / "D"))
    with workspace.directory_lock(own):
        with pytest.raises(InputError, match="another compare is at work there"), workspace.directory_lock(own):
            pass
        assert Path(own.output_dir).is_dir()  # the one that was turned away takes nothing with it
    assert not Path(own.output_dir).exists()
    with pytest.raises(ZeroDivisionError), workspace.directory_lock(own):
        (tmp_path / "a" / "D" / "file").write_text("")
        _ = 1 / 0
    with workspace.directory_lock(own):
        pass
    assert (tmp_path / "a" / "D" / "file").exists()


@pytest.fixture
def ground(tmp_path: Path) -> CompareConfig:
    """A directory in which a comparison was begun."""
    own = config(output_dir=str(tmp_path / "D"))
    (tmp_path / "D" / "reference").mkdir(parents=True)
    (tmp_path / "D" / "reference" / "model.safetensors").write_text("weights")
    (tmp_path / "D" / "grades.parquet").write_text("grades")
    write_config(tmp_path / "D", own)
    digests = workspace.fingerprints(tmp_path / "D")
    write_json(tmp_path / "D" / "manifest.json", {**digests, "questions": workspace.digest_of(DATA), "grader": "g"})
    return own


def test_a_comparison_grows_on_its_own_terms(ground: CompareConfig) -> None:
    workspace.check(ground, DATA)
    grown = dataclasses.replace(ground, methods=["exact"], seeds=[5], kl_coefs=[9.0], label_noise=[0.5])
    workspace.check(dataclasses.replace(grown, timeout=1.0, allow_weak_grader=True), DATA)
    workspace.check(dataclasses.replace(ground, sft_model_path=str(Path("runs/sft").absolute())), DATA)
    others: dict[str, Any] = {
        "dataset_name": "other",
        "score_type": "probability",
        "max_length": 9,
        "labels": ["a", "b"],
    }
    others |= {"grader": "llm", "grader_prompt": "optimist", "text_column": "t", "label_column": "l"}
    others |= {"sft_model_path": "other", "reward_model_path": "other", "grade_table": "other"}
    for name, value in others.items():
        other = dataclasses.replace(ground, **{name: value})
        with pytest.raises(InputError, match=rf"was compared with --{name} .*, not .*; name another --output_dir"):
            workspace.check(other, DATA)


@pytest.mark.parametrize("file", ["grades.parquet", "reference/model.safetensors"])
def test_what_all_runs_share_must_not_change(ground: CompareConfig, file: str) -> None:
    path = Path(ground.output_dir) / file
    path.write_text("other")
    with pytest.raises(InputError, match=f"{file}: is not the one that the runs here were made with"):
        workspace.check(ground, DATA)
    path.unlink()
    with pytest.raises(InputError, match=f"{file}: is not the one"):
        workspace.check(ground, DATA)


@pytest.mark.parametrize(
    "other",
    [
        {**DATA, "heldout": Questions("heldout", ["c?"], [0])},
        {**DATA, "train": Questions("rl", ["a?", "b!"])},
        {**DATA, "train": Questions("rl", ["b?", "a?"])},
    ],
)
def test_the_data_must_not_change(ground: CompareConfig, other: dict[str, Questions]) -> None:
    with pytest.raises(InputError, match=r"is not what the runs in .* were made with; restore the old data"):
        workspace.check(ground, other)


def test_a_directory_is_empty_or_ours(ground: CompareConfig, tmp_path: Path) -> None:
    workspace.check(config(output_dir=str(tmp_path / "nowhere")), DATA)
    (tmp_path / "empty").mkdir()
    workspace.check(config(output_dir=str(tmp_path / "empty")), DATA)
    ours = Path(ground.output_dir)
    (ours / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        workspace.check(ground, DATA)
    (ours / "manifest.json").unlink()  # killed before it was whole: begun anew, on whatever terms
    workspace.check(dataclasses.replace(ground, score_type="probability"), DATA)
    (ours / "runs").mkdir()
    with pytest.raises(InputError, match="holds files that are no comparison; name another --output_dir"):
        workspace.check(ground, DATA)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="holds files that are no comparison"):
        workspace.check(config(output_dir=str(tmp_path / "precious")), DATA)


def test_a_job_whose_process_dies_twice_is_given_up_and_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that a dying neighbour interrupts, however often it would, are made all the same."""
    own = config(output_dir=str(tmp_path), methods=["exact", "sft"], seeds=[0, 1, 2], kl_coefs=[0.1, 0.5])
    deadly = RunSpec("exact", 1, 0.1)
    pools: list[list[RunGroup]] = []

    def pool(
        jobs: list[RunGroup], config: CompareConfig, workers_: int, bar: Any
    ) -> dict[RunGroup, workers.FailedRuns]:
        pools.append(jobs)
        assert workers_ == min(2, len(jobs))
        (tmp_path / "logs").mkdir(exist_ok=True)
        outcome: dict[RunGroup, workers.FailedRuns] = {}
        for position, job in enumerate(jobs):
            workspace.log_file(config, job[0]).unlink(missing_ok=True)
            if deadly in [cell for near in jobs[: position + 2] for cell in near]:
                for under_way in jobs[position : position + 2]:
                    workspace.log_file(config, under_way[0]).write_text("")
                return outcome
            outcome[job] = {cell: "bad" for cell in job if cell == RunSpec("sft", 2, 0.5)}
        return outcome

    monkeypatch.setattr(workers, "_run_pool", pool)
    every = list(run_groups(own))
    holes = workers.run_grid(every, dataclasses.replace(own, num_workers=2))
    assert set(holes) == {deadly, RunSpec("sft", 2, 0.5)} and holes[RunSpec("sft", 2, 0.5)] == "bad"
    assert "its process died twice" in holes[deadly] and f"logs/{deadly.name}.txt" in holes[deadly]
    assert max(sum(job[0] == deadly for job in own) for own in pools) == 1
    assert sum(deadly in job for own in pools for job in own) == 2
    assert workers.run_grid([], own) == {}


def test_what_stands_is_not_made_again_and_what_is_damaged_is_a_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = config(output_dir=str(tmp_path), methods=["exact", "distill"], seeds=[0], kl_coefs=[0.1, 0.5])
    one, other = RunSpec("exact", 0, 0.1), RunSpec("exact", 0, 0.5)
    stands(one, own)
    (stands(other, own) / "results.json").unlink()
    stands(RunSpec("distill", 0, 0.5), own)
    asked: list[RunGroup] = []

    def pool(
        jobs: list[RunGroup], config: CompareConfig, workers_: int, bar: Any
    ) -> dict[RunGroup, workers.FailedRuns]:
        asked.extend(jobs)
        return {job: {} for job in jobs}

    monkeypatch.setattr(workers, "_run_pool", pool)
    holes = workers.run_grid(list(run_groups(own)), own)
    assert list(holes) == [other] and "results.json is missing" in holes[other]
    assert [job[0] for job in asked] == [RunSpec("distill", 0, 0.1)]  # of its two cells one is missing


def test_a_policy_of_another_recipe_is_not_measured_at_a_new_price(tmp_path: Path) -> None:
    own = config(output_dir=str(tmp_path), methods=["distill"], seeds=[0], kl_coefs=[0.1, 0.5])
    stands(RunSpec("distill", 0, 0.1), own)
    otherwise = dataclasses.replace(own, method_options=["distill.num_train_epochs=1"])
    holes = workers.run_group(next(run_groups(otherwise)), otherwise)
    assert set(holes) == set(cells(own)) and {why.split(": ")[1][:40] for why in holes.values()} == {
        "was made with --num_train_epochs 20, not"
    }
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["distill-beta0.1-seed0"]


def headline(methods: list[str], *names: tuple[str, str], **condition: Any) -> list[str]:
    """The headline of these pairs, everything after the place cut off but who is compared."""
    row = {"beta": 0.1, "split": "heldout", "noise": 0.0, "budget": pd.NA, "metric": "objective", **condition}
    row |= {"estimate": 0.5, "low": 0.2, "high": 0.8, "seeds": 3, "questions": 40, "effect_size": 1.0}
    row |= {"p_value": 0.01, "p_holm": 0.2}
    return pairwise.headline(pd.DataFrame([{"a": a, "b": b, **row} for a, b in names]), methods)


def test_the_headline_is_ppo_against_distillation_or_the_first_two() -> None:
    three = (("ppo", "exact"), ("distill", "ppo"), ("distill", "exact"))
    (line,) = headline(["exact", "ppo", "distill"], *three)
    assert line.startswith("beta 0.1, held-out questions: Distillation is ahead of PPO by 0.50")
    (line,) = headline(["sft", "exact", "grpo"], ("exact", "grpo"), ("sft", "exact"), noise=0.3, budget=900)
    assert line.startswith(
        "beta 0.1, held-out questions, 30% of the grades wrong, 900 grader calls: The exact gradient"
    )
    (line,) = headline(["distill", "ppo"], ("distill@0.5", "distill@0.9"), ("distill@0.5", "ppo"))
    assert "Distillation with threshold 0.5 is ahead of PPO" in line
    assert headline(["sft", "ppo"], ("sft", "ppo")) == headline(["ppo"]) == []
    assert all(display_name(name) for name in METHODS)


def test_a_threshold_keeps_its_digits_in_the_name_of_a_row() -> None:
    for threshold in (0.0, 0.5, 0.123456, 1e-5, None):
        method, at, digits = row_name("distill", threshold).partition("@")
        assert method == "distill" and (float(digits) if at else None) == threshold
