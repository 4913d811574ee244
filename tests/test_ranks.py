"""Two processes on one machine: equal weights, shared work, one writer."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY


def torchrun(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_ranks_end_with_equal_weights_and_split_the_questions() -> None:
    done = torchrun("tests/two_ranks.py")
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first["processes"] == second["processes"] == 2
    for model in ("policy", "value", "reference"):
        assert first[model] == second[model]
    assert first["policy"] != first["reference"]
    # every question twice a pass, over both ranks together
    assert Counter(first["rows"] + second["rows"]) == dict.fromkeys(range(24), 2 * 4)


def test_the_main_script_runs_on_two_ranks_and_one_of_them_writes(
    tmp_path: Path, small_data: Path, sft_run: Path
) -> None:
    done = torchrun(
        "scripts/ppo.py",
        *("--dataset_name", str(small_data), "--sft_model_path", str(sft_run), "--grader", "rule:No"),
        *("--per_device_train_batch_size", "60", "--num_mini_batches", "4", "--total_episodes", "480"),
        *("--output_dir", str(tmp_path / "ppo"), "--disable_tqdm"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "ppo" / "results.json").read_text())
    assert results["world_size"] == 2 and results["episodes"] == 480 and results["updates"] == 4
    assert len((tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grades.sqlite3", "ppo"]
    assert results["grades"]["calls_made"] == results["grader_calls"] == 60 + 40  # each question once in the job
    assert done.stdout.count("before and after") == 1
