"""Coroutines inside a running event loop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from conftest import LABELS
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.event_loop import run_async
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from judge_server import JudgeServer


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


async def fail() -> None:
    raise ValueError("of the coroutine")


def test_a_coroutine_runs_with_and_without_a_running_loop() -> None:
    async def cell() -> tuple[int, asyncio.AbstractEventLoop]:
        result = run_async(answer())
        with pytest.raises(ValueError, match="of the coroutine"):
            run_async(fail())
        await asyncio.sleep(0)  # the outer loop goes on
        return result, asyncio.get_running_loop()

    assert run_async(answer()) == 42
    assert asyncio.run(cell())[0] == 42


def test_a_judge_behind_a_server_grades_inside_a_running_loop(tmp_path: Path) -> None:
    """In the thread of the caller, whose SQLite file takes no other."""
    questions = ["Is it?", "Was it?"]
    with JudgeServer(gold_labels=dict.fromkeys(questions, "No")) as server:
        settings: dict[str, Any] = {
            "grader": "api",
            "grader_model": "judge",
            "grader_base_url": server.base_url,
            "disable_tqdm": True,
        }
        config = GradeConfig(output_dir="grades", grade_store=str(tmp_path / "grades.sqlite3"), **settings)

        async def cell() -> list[int]:
            with GradeStore(config.grade_store) as store:
                source = load_graders(config, LabelSet.of(LABELS), store, Budget())
                return source.fill(questions).logp_NK.argmax(-1).tolist()

        assert asyncio.run(cell()) == [1, 1]
