"""The runs of a grid, in parallel processes: what is finished stays, what fails becomes a hole that says why."""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from eightball_ppo.comparison.grid import RUNS, RunGroup, RunSpec, run_config
from eightball_ppo.comparison.workspace import check_same_config, log_file
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.runtime.logging import silence_libraries
from eightball_ppo.runtime.redaction import redact
from eightball_ppo.runtime.run import read_results

FailedRuns = dict[RunSpec, str]
"""Cells that have no run, each with the reason in one line."""


def finished(cell: RunSpec, config: CompareConfig) -> bool:
    """Whether the cell's run stands, whole and made as it would be made now.

    Raises:
        InputError: something stands there that is no finished run, or one that was made otherwise.
    """
    directory = Path(config.output_dir) / RUNS / cell.name
    if not directory.exists():
        return False
    try:
        method = read_results(directory)["method"]
        check_same_config(directory, run_config(cell, config))
        if method != cell.method:
            raise InputError(f"{directory}: is a run of method {method}")
    except InputError as error:
        raise InputError(f"{error}; remove it to have it made anew") from None
    return True


def run_grid(jobs: list[RunGroup], config: CompareConfig) -> FailedRuns:
    """Do every job that is not done yet; returns the cells without a run."""
    from tqdm import tqdm

    holes: FailedRuns = {}
    waiting = [job for job in jobs if not _done(job, config, holes)]
    workers = config.num_workers or _cores()
    with tqdm(total=len(waiting), desc="runs", disable=config.disable_tqdm or not waiting) as bar:
        while waiting:
            outcome = _one_pool(waiting, config, min(workers, len(waiting)), bar)
            dead = [job for job in waiting if job not in outcome]
            # A process that dies takes the others of its pool along: whose fault it was shows when each is alone.
            for job in [job for job in dead if log_file(config, job.cells[0]).exists()] or dead:
                outcome |= _one_pool([job], config, 1, bar)
                if job not in outcome:
                    why = f"its process died twice (out of memory?); see {log_file(config, job.cells[0])}"
                    outcome[job] = dict.fromkeys(job.cells, why)
            for reasons in outcome.values():
                holes.update(reasons)
            waiting = [job for job in waiting if job not in outcome]
    return holes


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _done(job: RunGroup, config: CompareConfig, holes: FailedRuns) -> bool:
    """Whether nothing of a job is left to do; what cannot be done becomes a hole."""
    done = True
    for cell in job.cells:
        try:
            done = finished(cell, config) and done
        except InputError as error:
            holes[cell] = str(error)
    return done or all(cell in holes for cell in job.cells)


def _one_pool(jobs: list[RunGroup], config: CompareConfig, workers: int, bar: Any) -> dict[RunGroup, FailedRuns]:
    """The holes of every job that came to an end; the others' processes died under them, or before they began."""
    for job in jobs:
        log_file(config, job.cells[0]).unlink(missing_ok=True)
    outcome: dict[RunGroup, FailedRuns] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(os.getpid(),)) as pool:
        futures: dict[Future[FailedRuns], RunGroup] = {pool.submit(work, job, config): job for job in jobs}
        try:
            for future in as_completed(futures):
                with contextlib.suppress(BrokenProcessPool):
                    outcome[futures[future]] = future.result()
                    bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
    return outcome


def _start(parent: int) -> None:
    """A worker's own beginning: one thread, and an end as soon as its parent is gone."""
    import torch

    silence_libraries()
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def work(job: RunGroup, config: CompareConfig) -> FailedRuns:
    """Do a job in this process, all that is printed going to its log; returns the cells that have no run afterwards."""
    log = log_file(config, job.cells[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    holes: FailedRuns = {}
    with log.open("a", encoding="utf-8") as file:
        sys.stdout.flush(), sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        try:
            for position, cell in enumerate(job.cells):
                if why := _one_cell(cell, job.cells[0] if position else None, config, log):
                    holes[cell] = why
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            for number, descriptor in zip((1, 2), kept, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)
    return holes


def _one_cell(cell: RunSpec, trained: RunSpec | None, config: CompareConfig, log: Path) -> str | None:
    """Make a cell's run, by training or from the run of `trained`; returns why there is none."""
    from eightball_ppo.methods import reevaluate
    from eightball_ppo.methods.run_method import run_method

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if finished(cell, config):
            return None
        own = run_config(cell, config)
        if trained is None:
            run_method(own)
            return None
        if not finished(trained, config):
            return f"{trained.name} has no run, and this one is the same policy at another price of KL"
        reevaluate.reevaluate(own, Path(config.output_dir) / RUNS / trained.name)
    except (InputError, IncompleteError) as error:
        return redact(str(error))
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines()
        return redact(f"{type(error).__name__}{': ' + text[0][:200] if text else ''}; see {log}")
    return None
