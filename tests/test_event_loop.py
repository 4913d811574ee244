"""Coroutines inside a running event loop."""

import asyncio

import pytest

from eightball_ppo.runtime.event_loop import run_async


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
