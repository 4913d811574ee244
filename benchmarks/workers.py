"""One process per peer, on one thread, with requests over a pipe: train a number of updates, or learn to the end."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from trees import REPOSITORY, environment_of

TURN = 0.05  # seconds; disturbances on a shared machine last longer
QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "RL_LOGGING_LEVEL": "WARNING"}
START = (
    "import sys\nfrom multiprocessing.connection import Connection\nfrom workers import serve\n"
    "serve(sys.argv[1], Connection(int(sys.argv[2])))"
)


class Clock:
    """Processor and wall seconds of a block."""

    def __init__(self) -> None:
        self.processor = self.wall = 0.0
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        self._started = (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        assert self._started is not None
        self.processor += time.process_time() - self._started[0]
        self.wall += time.perf_counter() - self._started[1]
        self._started = None


def serve(name: str, connection: Connection) -> None:
    """Answer requests until None comes: {"learn": bool, "task": seed, "settings": {...}}."""
    import torch
    from peers.registry import peer
    from peers.task import BenchTask, Settings

    from eightball_ppo.runtime.logging import silence_libraries

    torch.set_num_threads(1)
    silence_libraries()
    loop = peer(name)
    while (request := connection.recv()) is not None:
        task, settings = BenchTask(request["task"]), Settings(**request["settings"])
        answer = _learn(loop, task, settings) if request["learn"] else _train(loop, task, settings)
        connection.send(answer)


def _train(loop: Any, task: Any, settings: Any) -> dict[str, Any]:
    """Seconds of all updates except the first; `start` holds those of the first one and of the work before it."""
    start, rest = Clock(), Clock()

    def on_update(episodes: int, _: Any) -> None:
        if episodes == settings.batch:
            start.stop()
            rest.start()

    run = loop(task, settings, on_update)
    start.start()
    run.run()
    rest.stop()
    seconds = {"processor": rest.processor, "wall": rest.wall}
    return {
        "episodes": (settings.updates - 1) * settings.batch,
        **seconds,
        "start": {"processor": start.processor, "wall": start.wall},
    }


def _learn(loop: Any, task: Any, settings: Any) -> dict[str, Any]:
    """The curve of a run: episodes, seconds and share of the optimum after every update; measuring is not counted."""
    clock, curve = Clock(), []

    def on_update(episodes: int, logits_NK: Any) -> None:
        clock.stop()
        fraction = task.optimum_fraction(logits_NK(), settings.beta)
        curve.append({"episodes": episodes, "processor": clock.processor, "wall": clock.wall, "fraction": fraction})
        clock.start()

    run = loop(task, settings, on_update)
    clock.start()
    run.run()
    clock.stop()
    return {"curve": curve, "processor": clock.processor, "wall": clock.wall}


class Worker:
    """The process of a peer, controlled by the measuring process. Use as a context manager.

    Package and benchmarks come from the checkout `tree`, whose `serve` must know these requests.
    """

    def __init__(self, name: str, tree: Path = REPOSITORY):
        self.name = name
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, name, str(theirs.fileno())],
            env={**environment_of(tree, tree / "benchmarks"), **QUIET},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.connection.send(None)
        self.process.wait()

    def ask(self, learn: bool, task: int, **settings: Any) -> dict[str, Any]:
        """Runs the peer once and waits for its measurement.

        Raises:
            EOFError: The process died; stderr has its error.
        """
        self.send(learn, task, settings)
        return self.connection.recv()

    def send(self, learn: bool, task: int, settings: dict[str, Any]) -> None:
        self.connection.send({"learn": learn, "task": task, "settings": settings})


def in_turns(workers: Sequence[Worker], learn: bool, task: int, **settings: Any) -> list[dict[str, Any]]:
    """Runs several peers at the same time and waits for their measurements.

    Only one of them works at any moment: the others are stopped, and after `TURN` seconds the next one continues. So
    the machine is equally fast for all of them. Only their processor seconds are meaningful.

    Raises:
        EOFError: A process died; stderr has its error.
    """
    found: dict[Worker, dict[str, Any]] = {}
    try:
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
            worker.send(learn, task, settings)
        while waiting := [worker for worker in workers if worker not in found]:
            for worker in waiting:
                worker.process.send_signal(signal.SIGCONT)
                if worker.connection.poll(TURN):
                    found[worker] = worker.connection.recv()
                else:
                    worker.process.send_signal(signal.SIGSTOP)
    finally:
        for worker in workers:  # a stopped process would never receive the end
            worker.process.send_signal(signal.SIGCONT)
    return [found[worker] for worker in workers]
