"""Runs that exist already, worker processes that die, and what of a comparison's directory must not change."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from eightball_ppo.comparison import grid, workers, workspace
from eightball_ppo.comparison.grid import RunGroup, RunSpec, run_config, run_groups
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.methods.defaults import fitting
from eightball_ppo.runtime.atomic_io import DirectoryLock, write_json
from eightball_ppo.runtime.run import write_config

DATA = {"train": Questions("rl", ["a?", "b?"]), "heldout": Questions("heldout", ["c?"], [1])}


def config(**options: Any) -> CompareConfig:
    return CompareConfig(**{"disable_tqdm": True, **options})


def write_run(cell: RunSpec, settings: CompareConfig) -> Path:
    """A finished run of `cell`, as far as it is checked before its policy is loaded."""
    run = Path(settings.output_dir) / grid.RUNS / cell.name
    run.mkdir(parents=True)
    reference = Path(settings.output_dir) / grid.reference_dir(0)
    reference.mkdir(exist_ok=True)
    write_json(reference / "config.json", {"model_type": "eightball"})
    write_json(Path(settings.output_dir) / workspace.MANIFEST, {workspace.TRAINING_QUESTIONS: 600})
    write_config(run, fitting(run_config(cell, settings), "small", num_texts=600))
    write_json(run / "results.json", {"method": cell.method})
    return run


def test_a_run_counts_as_finished_only_with_the_same_config_and_results(tmp_path: Path) -> None:
    settings, cell = config(output_dir=str(tmp_path)), RunSpec("exact", 1, 0.1)
    assert not workers.finished(cell, settings)
    run = write_run(cell, settings)
    assert workers.finished(cell, settings)
    elsewhere = dataclasses.replace(settings, max_concurrency=2, grade_store="other", sft_model_path="other")
    assert workers.finished(cell, elsewhere)  # paths and limits change nothing
    later = dataclasses.replace(
        settings, ddp_timeout=60, upstream_config="models.yaml", max_concurrency=2, report_to="all"
    )
    assert workspace.fixed_settings(later) == workspace.fixed_settings(settings)
    otherwise = dataclasses.replace(settings, method_options=["exact.anneal_fraction=0.5"])
    with pytest.raises(InputError, match=r"was made with --anneal_fraction 0\.8, not 0\.5; remove it"):
        workers.finished(cell, otherwise)
    for name, other in (
        ("exact-beta0.1-seed2", RunSpec("exact", 2, 0.1)),
        ("exact-beta0.5-seed1", RunSpec("exact", 1, 0.5)),
    ):
        run = run.rename(run.with_name(name))
        with pytest.raises(InputError, match="was made with --"):
            workers.finished(other, settings)
    (run / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json is missing or damaged; remove it"):
        workers.finished(RunSpec("exact", 1, 0.5), settings)


def test_a_run_of_another_method_with_the_same_options_is_refused(tmp_path: Path) -> None:
    settings = config(output_dir=str(tmp_path))
    write_run(RunSpec("grpo", 0, 0.1), settings).rename(tmp_path / "runs" / "rloo-beta0.1-seed0")
    with pytest.raises(InputError, match="is a run of method grpo; remove it"):
        workers.finished(RunSpec("rloo", 0, 0.1), settings)


def test_one_process_at_a_time_locks_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "D"
    lock = DirectoryLock(directory)
    with pytest.raises(InputError, match="another run is at work there"):
        DirectoryLock(directory)
    assert directory.is_dir()  # the refused process leaves the directory
    lock.close()
    assert not directory.exists()
    lock = DirectoryLock(directory)
    (directory / "file").write_text("")
    lock.close()
    DirectoryLock(directory).close()
    assert (directory / "file").exists()


@pytest.fixture
def started(tmp_path: Path) -> CompareConfig:
    """A directory in which a comparison was begun."""
    settings = config(output_dir=str(tmp_path / "D"))
    (tmp_path / "D" / "reference").mkdir(parents=True)
    (tmp_path / "D" / "reference" / "model.safetensors").write_text("weights")
    (tmp_path / "D" / "grades.parquet").write_text("grades")
    write_config(tmp_path / "D", settings)
    digests = workspace.fingerprints(tmp_path / "D", 1)
    write_json(tmp_path / "D" / "manifest.json", {**digests, "questions": workspace.digest_of(DATA), "grader": "g"})
    return settings


def test_axes_may_grow_but_shared_options_must_not_change(started: CompareConfig) -> None:
    workspace.check(started, DATA)
    grown = dataclasses.replace(started, methods=["exact"], seeds=[5], kl_coefs=[9.0], label_noise=["0.5"])
    workspace.check(dataclasses.replace(grown, timeout=1.0, allow_weak_grader=True), DATA)
    workspace.check(dataclasses.replace(started, sft_model_path=str(Path("runs/sft").absolute())), DATA)
    others: dict[str, Any] = {
        "dataset_name": "other",
        "score_type": "probability",
        "max_length": 9,
        "labels": ["a", "b"],
    }
    others |= {"grader": "llm", "grader_prompt": "optimist", "text_column": "t", "label_column": "l"}
    others |= {"sft_model_path": "other", "reward_model_path": "other", "grade_table": "other"}
    for name, value in others.items():
        other = dataclasses.replace(started, **{name: value})
        with pytest.raises(InputError, match=rf"was compared with --{name} .*, not .*; name another --output_dir"):
            workspace.check(other, DATA)


@pytest.mark.parametrize("file", ["grades.parquet", "reference/model.safetensors"])
def test_shared_files_must_not_change(started: CompareConfig, file: str) -> None:
    path = Path(started.output_dir) / file
    path.write_text("other")
    with pytest.raises(InputError, match=f"{file}: is not the one that the runs here were made with"):
        workspace.check(started, DATA)
    path.unlink()
    with pytest.raises(InputError, match=f"{file}: is not the one"):
        workspace.check(started, DATA)


@pytest.mark.parametrize(
    "other",
    [
        {**DATA, "heldout": Questions("heldout", ["c?"], [0])},
        {**DATA, "train": Questions("rl", ["a?", "b!"])},
        {**DATA, "train": Questions("rl", ["b?", "a?"])},
    ],
)
def test_the_data_must_not_change(started: CompareConfig, other: dict[str, Questions]) -> None:
    with pytest.raises(InputError, match=r"is not what the runs in .* were made with; restore the old data"):
        workspace.check(started, other)


def test_a_directory_with_other_files_is_refused(started: CompareConfig, tmp_path: Path) -> None:
    workspace.check(config(output_dir=str(tmp_path / "nowhere")), DATA)
    (tmp_path / "empty").mkdir()
    workspace.check(config(output_dir=str(tmp_path / "empty")), DATA)
    ours = Path(started.output_dir)
    (ours / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        workspace.check(started, DATA)
    (ours / "manifest.json").unlink()  # killed before it was complete: started again, with any options
    workspace.check(dataclasses.replace(started, score_type="probability"), DATA)
    (ours / "runs").mkdir()
    with pytest.raises(InputError, match="holds files that are no comparison; name another --output_dir"):
        workspace.check(started, DATA)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="holds files that are no comparison"):
        workspace.check(config(output_dir=str(tmp_path / "precious")), DATA)


def test_a_job_whose_process_dies_twice_fails_and_its_neighbours_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dying process takes its pool along: jobs that it interrupts are made all the same."""
    settings = config(output_dir=str(tmp_path), methods=["exact", "sft"], seeds=[0, 1, 2], kl_coefs=[0.1, 0.5])
    deadly = RunSpec("exact", 1, 0.1)
    pools: list[list[RunGroup]] = []

    def pool(
        jobs: list[RunGroup], config: CompareConfig, num_workers: int, bar: Any
    ) -> dict[RunGroup, workers.FailedRuns]:
        pools.append(jobs)
        assert num_workers == min(2, len(jobs))
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
    reasons = workers.run_grid(list(run_groups(settings)), dataclasses.replace(settings, num_workers=2))
    assert set(reasons) == {deadly, RunSpec("sft", 2, 0.5)} and reasons[RunSpec("sft", 2, 0.5)] == "bad"
    assert "its process died twice" in reasons[deadly] and f"logs/{deadly.name}.txt" in reasons[deadly]
    assert max(sum(job[0] == deadly for job in pool) for pool in pools) == 1
    assert sum(deadly in job for pool in pools for job in pool) == 2
