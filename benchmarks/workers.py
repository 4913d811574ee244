"""One process per peer, on one thread, asked over a pipe: to train so many updates, or to learn to the end."""

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

TURN = 0.05  # seconds; what disturbs a machine that others use, too, lasts longer
QUIET = {"TRL_EXPERIMENTAL_SILENCE": "1", "RL_LOGGING_LEVEL": "WARNING"}
START = (
    "import sys\nfrom multiprocessing.connection import Connection\nfrom workers import serve\n"
    "serve(sys.argv[1], Connection(int(sys.argv[2])))"
)


class Clock:
    """Processor and wall seconds while it runs."""

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
    own = peer(name)
    while (request := connection.recv()) is not None:
        task, settings = BenchTask(request["task"]), Settings(**request["settings"])
        answer = _learn(own, task, settings) if request["learn"] else _train(own, task, settings)
        connection.send(answer)


def _train(own: Any, task: Any, settings: Any) -> dict[str, Any]:
    """Seconds of all updates but the first; and, as `start`, of the first one and what a run does once before it."""
    start, rest = Clock(), Clock()

    def on_update(episodes: int, _: Any) -> None:
        if episodes == settings.batch:
            start.stop()
            rest.start()

    run = own(task, settings, on_update)
    start.start()
    run.run()
    rest.stop()
    seconds = {"processor": rest.processor, "wall": rest.wall}
    return {
        "episodes": (settings.updates - 1) * settings.batch,
        **seconds,
        "start": {"processor": start.processor, "wall": start.wall},
    }


def _learn(own: Any, task: Any, settings: Any) -> dict[str, Any]:
    """The curve of a run: episodes, seconds and share of the optimum after every update; measuring is not counted."""
    clock, curve = Clock(), []

    def on_update(episodes: int, logits_NK: Any) -> None:
        clock.stop()
        fraction = task.optimum_fraction(logits_NK(), settings.beta)
        curve.append({"episodes": episodes, "processor": clock.processor, "wall": clock.wall, "fraction": fraction})
        clock.start()

    run = own(task, settings, on_update)
    clock.start()
    run.run()
    clock.stop()
    return {"curve": curve, "processor": clock.processor, "wall": clock.wall}


class Worker:
    """A peer's process, seen from the one that measures. Use as a context manager.

    Package and benchmarks are those of `tree`, a checkout, whose `serve` must know the requests that are sent here.
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
        """Have the peer run once, and wait for what it measured.

        Raises:
            EOFError: the process died; its own error stands on stderr.
        """
        self.send(learn, task, settings)
        return self.connection.recv()

    def send(self, learn: bool, task: int, settings: dict[str, Any]) -> None:
        self.connection.send({"learn": learn, "task": task, "settings": settings})


def in_turns(workers: Sequence[Worker], learn: bool, task: int, **settings: Any) -> list[dict[str, Any]]:
    """Have peers run once at the same time, and wait for what they measured.

    Only one of them works at any moment: the others are stopped, and after `TURN` seconds it is the next one's turn. So
    the machine is as fast for one as for the others. Of their seconds only those of the processor mean anything.

    Raises:
        EOFError: a process died; its own error stands on stderr.
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
        for worker in workers:  # one that is stopped would never hear that it is to end
            worker.process.send_signal(signal.SIGCONT)
    return [found[worker] for worker in workers]
