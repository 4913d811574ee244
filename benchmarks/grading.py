"""Speed of grading over HTTP: grades a second, bytes a grade and memory, against the bare `openai` client.

OMP_NUM_THREADS=1 python benchmarks/grading.py                  # 10,000 grades; about 2 minutes
OMP_NUM_THREADS=1 python benchmarks/grading.py --memory 100000  # also 1,000 and 100,000 questions; some minutes more

The judge is the scripted one of the tests, on this machine, and answers immediately; its processor time is included.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from eightball_ppo.labels import EIGHTBALL_LABELS  # noqa: E402
from judge_server import JudgeServer  # noqa: E402

CONCURRENCY = 16


def write_questions(directory: Path, count: int) -> Path:
    """A dataset of `count` questions of about 50 characters."""
    directory.mkdir()
    lines = (json.dumps({"question": f"Will the parcel number {i} come before the week ends?"}) for i in range(count))
    (directory / "rl.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return directory


def grade(judge: JudgeServer, data: Path, output: Path, *flags: str) -> tuple[float, int]:
    """(wall seconds, peak kB) of one `scripts/grade.py`, process start included."""
    command = [
        *(sys.executable, str(REPOSITORY / "scripts" / "grade.py"), "--output_dir", str(output)),
        *("--dataset_name", str(data), "--splits", "rl", "--disable_tqdm", *flags),
        *("--grader", "api", "--grader_model", "judge", "--grader_base_url", judge.base_url),
        *("--max_concurrency", str(CONCURRENCY), "--api_mode", "logprobs"),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"grade.py ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - started, usage.ru_maxrss


async def bare(base_url: str, count: int) -> float:
    """Seconds for `count` calls of the `openai` client alone, nothing kept."""
    import openai

    left, allowed = iter(range(count)), ", ".join(f'"{name}"' for name in EIGHTBALL_LABELS)
    started = time.monotonic()
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def work() -> None:
            for i in left:
                user = f'Question: "Will the parcel number {i} come?"\nAllowed answers: {allowed}'
                await client.chat.completions.create(
                    model="judge",
                    messages=[{"role": "system", "content": "Judge."}, {"role": "user", "content": user}],
                    logprobs=True,
                    top_logprobs=20,
                    max_tokens=3,
                )

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grades", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=0, help="questions to compare with 1,000; 0: do not")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, JudgeServer() as judge:
        directory = Path(name)
        data = write_questions(directory / "data", options.grades)
        for number in range(options.rounds):
            output, judged = directory / f"{number}", judge.stats()["requests"]
            store = directory / f"{number}.sqlite3"
            ours, _ = grade(judge, data, output, "--grade_store", str(store))
            calls = judge.stats()["requests"] - judged
            again, _ = grade(judge, data, output, "--grade_store", str(store))
            more = judge.stats()["requests"] - judged - calls
            peer = asyncio.run(bare(judge.base_url, options.grades))
            print(
                f"round {number}: {calls} calls in {ours:.1f} s = {calls / ours:.0f} grades/s; again: {more} calls in "
                f"{again:.1f} s; store {store.stat().st_size / options.grades:.0f} bytes a grade; bare openai client "
                f"{options.grades / peer:.0f} calls/s; ours/bare {peer / ours:.2f}",
                flush=True,
            )
        if options.memory:
            peaks = {}
            for count in (1000, options.memory):
                data = write_questions(directory / f"data{count}", count)
                _, peaks[count] = grade(judge, data, directory / f"memory{count}")
                print(f"{count} questions: peak {peaks[count] / 1024:.0f} MiB", flush=True)
            print(f"apart by {(peaks[options.memory] - peaks[1000]) / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
