"""Bad input to every script: exit code 2, one line on stderr that names the thing, nothing written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from bad_inputs import BAD_INPUTS, BadInput
from conftest import REPOSITORY, small_dataset
from eightball_ppo.cli import commands, parser
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import PredictConfig, RewardConfig, SFTConfig
from eightball_ppo.labels import EIGHTBALL_LABELS
from eightball_ppo.methods.run_method import run_method

STAGES = {
    "sft": (SFTConfig, "eightball_ppo.methods.sft:train"),
    "reward": (RewardConfig, "eightball_ppo.methods.reward_model:train"),
    "ppo": (PPOConfig, "eightball_ppo.methods.run_method:run_method"),
    "distill": (DistillConfig, "eightball_ppo.methods.run_method:run_method"),
    "predict": (PredictConfig, "eightball_ppo.predict:run"),
}
Refused = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return small_dataset(tmp_path / "data")


@pytest.fixture
def refused(tmp_path: Path, data: Path, sft_run: Path, reward_run: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a stage on bad input; returns its one line on stderr after checking everything else."""

    def files() -> dict[Path, int]:
        """Everything but the grade store, which keeps what was paid for."""
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "grades.sqlite3"}

    def run(stage: str, *argv: str) -> str:
        flags = list(argv)
        if stage != "predict":
            labels = [] if "--labels" in flags else ["--labels", *EIGHTBALL_LABELS]
            place = ["--output_dir", str(tmp_path / "out"), "--dataset_name", str(data), "--disable_tqdm"]
            flags = [*place, *labels, *flags]
        if stage in ("ppo", "distill"):
            models = ["--sft_model_path", str(sft_run), "--reward_model_path", str(reward_run)]
            flags = [*models, "--grade_store", str(tmp_path / "grades.sqlite3"), *flags]
        before = files()
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            parser.main(*STAGES[stage], argv=flags)
        captured = capsys.readouterr()
        assert exit_.value.code == 2
        assert captured.err.count("\n") == 1 and "Traceback" not in captured.err, captured.err
        assert files() == before
        return captured.err

    return run


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "distill"])
def test_data_that_is_missing_empty_malformed_or_not_utf8(refused: Refused, data: Path, stage: str) -> None:
    file = data / f"{ {'sft': 'sft', 'reward': 'preferences'}.get(stage, 'rl') }.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]) + b'{"question": "unclosed\n')
    assert f"{file}:7: not JSON" in refused(stage)
    file.write_bytes(b"".join(lines[:3]) + b'{"question": "caf\xe9?", "answer": "Yes"}\n')
    assert f"{file}:4: not UTF-8" in refused(stage)
    file.write_bytes(b"")
    assert f"{file}: no rows" in refused(stage)
    file.unlink()
    assert f"{file}: no such file" in refused(stage)
    assert "no such dataset directory" in refused(stage, "--dataset_name", str(data / "nowhere"))


@pytest.mark.parametrize(("stage", "split"), [("sft", "sft"), ("reward", "preferences"), ("ppo", "heldout")])
def test_unknown_label_names_file_row_and_value(refused: Refused, data: Path, stage: str, split: str) -> None:
    file = data / f"{split}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[4]["answer"] = "Perhaps"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"{file}:5: unknown label 'Perhaps'" in refused(stage)


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "distill"])
def test_fewer_than_two_labels(refused: Refused, stage: str) -> None:
    assert "at least 2 are needed" in refused(stage, "--labels", "Yes")


@pytest.mark.parametrize("stage", ["ppo", "distill"])
def test_labels_that_differ_between_data_reference_and_grader(
    refused: Refused, stage: str, tmp_path: Path, reward_run: Path
) -> None:
    assert "labels differ" in refused(stage, "--labels", "No", "Yes", "Maybe")
    model = AutoModelForSequenceClassification.from_pretrained(reward_run)
    model.config.id2label = {0: "Maybe", 1: "No", 2: "Yes"}
    other = tmp_path / "other"
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((reward_run / name).read_bytes())
    assert f"--reward_model_path {other}" in refused(stage, "--reward_model_path", str(other))


@pytest.mark.parametrize("flag", ["--sft_model_path", "--reward_model_path"])
def test_a_checkpoint_that_is_none(refused: Refused, tmp_path: Path, sft_run: Path, flag: str) -> None:
    assert f"{flag} {tmp_path / 'nowhere'}: no such directory" in refused("ppo", flag, str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    assert "not a checkpoint, it holds no config.json" in refused("ppo", flag, str(tmp_path / "empty"))
    torn = tmp_path / "torn"
    torn.mkdir()
    for file in sft_run.iterdir():
        (torn / file.name).write_bytes(file.read_bytes()[: 1000 if file.name == "model.safetensors" else None])
    assert f"{flag} {torn}: not a loadable checkpoint" in refused("ppo", flag, str(torn))


def test_everything_is_checked_before_a_stage_is_trained(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a directory without runs/: the default SFT model would be trained first."""
    monkeypatch.chdir(tmp_path)
    missing = ("--sft_model_path", SFTConfig.output_dir)
    assert "no such directory" in refused("ppo", *missing, "--reward_model_path", "./nowhere")
    twice = ("--repeats_per_epoch", "2")
    assert "fill at most 120" in refused("ppo", *missing, *twice, "--per_device_train_batch_size", "500")
    assert "unknown grader" in refused("distill", *missing, "--grader", "brt")


def test_a_hub_id_that_cannot_be_read(refused: Refused) -> None:
    assert "nobody/nothing: neither a directory here nor a readable Hub dataset" in refused(
        "sft", "--dataset_name", "nobody/nothing"
    )
    assert "--sft_model_path nobody/nothing: not a loadable checkpoint" in refused(
        "ppo", "--sft_model_path", "nobody/nothing"
    )


def test_an_output_directory_that_is_an_input(refused: Refused, sft_run: Path) -> None:
    assert "is the --sft_model_path, which would be replaced" in refused(
        "ppo", "--output_dir", str(sft_run), "--overwrite_output_dir"
    )


def test_half_a_surrogate_pair_names_file_and_row(refused: Refused, data: Path) -> None:
    lines = (data / "rl.jsonl").read_text().splitlines()
    (data / "rl.jsonl").write_text("\n".join([lines[0], '{"question": "half \\ud83c?"}']) + "\n")
    assert f"{data / 'rl.jsonl'}:2: column 'question' holds half a surrogate pair" in refused("ppo")


def test_a_script_exits_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "ppo.py"), "--kl_coef", "-1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ppo.py: --kl_coef -1.0: must not be negative; 0 switches the penalty off\n"
    assert not list(tmp_path.iterdir())


def test_batches_that_cannot_be(refused: Refused) -> None:
    """60 questions, twice each."""
    twice = ("--repeats_per_epoch", "2")
    assert "too few for 121 minibatches" in refused("ppo", *twice, "--num_mini_batches", "121")
    assert "fill at most 120" in refused("ppo", *twice, "--per_device_train_batch_size", "121")
    assert "at least 8" in refused("ppo", "--per_device_train_batch_size", "4")
    assert "7 does not divide the batch of 64" in refused(
        "ppo", "--per_device_train_batch_size", "64", "--num_mini_batches", "7"
    )
    assert "minibatches of 4 episodes" in refused(
        "ppo", "--per_device_train_batch_size", "64", "--num_mini_batches", "16", "--whiten_rewards"
    )


def test_flags_out_of_range(refused: Refused) -> None:
    for stage in ("ppo", "distill"):
        assert "--kl_coef -0.1: must not be negative" in refused(stage, "--kl_coef", "-0.1")
    assert "unknown grader; did you mean bert?" in refused("ppo", "--grader", "brt")
    assert "--threshold 1.5: a probability" in refused("distill", "--threshold", "1.5")
    assert "no question reaches it" in refused("distill", "--threshold", "1.0")
    assert "--learning_rate 0.0" in refused("sft", "--learning_rate", "0")
    assert "--max_length 2" in refused("sft", "--max_length", "2")
    assert "no tokenizer there" in refused("sft", "--tokenizer", "/nowhere")
    assert "--model_name_or_path" in refused("reward", "--model_name_or_path", "/nowhere")
    assert "between 0 and 1" in refused("reward", "--validation_fraction", "1")
    for stage in ("sft", "ppo"):
        assert "invalid choice: 'sideways'" in refused(stage, "--lr_scheduler_type", "sideways")
        assert "--weight_decay -1.0: must not be negative" in refused(stage, "--weight_decay", "-1")
    for name in ("kl_coef", "learning_rate", "vf_coef"):
        assert f"--{name} inf: must be a finite number" in refused("ppo", f"--{name}", "inf")
    assert "--vf_coef -1.0: must not be negative" in refused("ppo", "--vf_coef", "-1")
    assert "BertForSequenceClassification reads at most 512 tokens" in refused("reward", "--max_length", "600")
    assert "unknown tracker 'banana'" in refused("ppo", "--report_to", "banana")
    assert "unknown tracker 'banana'" in refused("sft", "--report_to", "banana")
    assert "clearml is not installed" in refused("distill", "--report_to", "clearml")


def test_weak_grader_is_refused_unless_allowed(
    refused: Refused, data: Path, tmp_path: Path, sft_run: Path, reward_run: Path
) -> None:
    """The held-out wishes turned round: the same reward model is now wrong about most of them."""
    file = data / "heldout.jsonl"
    turned = {"Yes": "No", "No": "Maybe", "Maybe": "Yes"}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "answer": turned[row["answer"]]}) + "\n" for row in rows))
    for stage in ("ppo", "distill"):
        line = refused(stage)
        assert "is not above 0.6" in line and "--allow_weak_grader" in line
    allowed = PPOConfig(
        output_dir=str(tmp_path / "allowed"),
        dataset_name=str(data),
        sft_model_path=str(sft_run),
        reward_model_path=str(reward_run),
        total_episodes=120,
        disable_tqdm=True,
        allow_weak_grader=True,
    )
    assert (run_method(allowed) / "results.json").exists()


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "distill"])
def test_an_output_directory_that_holds_another_run(refused: Refused, tmp_path: Path, stage: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    (tmp_path / "out" / "config.yaml").write_text("{}")
    assert f"{tmp_path / 'out'}: holds another run; pass --overwrite_output_dir" in refused(stage)


def test_predict(refused: Refused, tmp_path: Path, sft_run: Path) -> None:
    policy = ("--model_name_or_path", str(sft_run))
    assert "pass either one question" in refused("predict", *policy)
    assert "pass either one question" in refused("predict", *policy, "--question", "a?", "--file", "b")
    assert "the question is blank" in refused("predict", *policy, "--question", " ")
    assert "No such file" in refused("predict", *policy, "--file", str(tmp_path / "nowhere"))
    (tmp_path / "empty.txt").write_text("\n")
    assert "holds no question" in refused("predict", *policy, "--file", str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9?\n")
    assert "not UTF-8 (byte 3)" in refused("predict", *policy, "--file", str(tmp_path / "latin.txt"))
    assert "no such directory" in refused("predict", "--question", "a?", "--model_name_or_path", str(tmp_path / "no"))


# --- the table

AS_PROCESSES = ("NaN", "a tag", "an output nobody may write to", "an unknown key", "an unknown method")


def command_line(case: BadInput, runs: dict[str, Path]) -> list[str]:
    """The command of a case and its options, behind those that every stage gets."""
    words = case.argv.split() if isinstance(case.argv, str) else case.argv
    name, *own = [word.format(**runs) if "{" in word else word for word in words]
    if name in ("predict", "report", "push", "demo"):
        return [name, *own]
    common = [
        "--dataset_name",
        str(runs["data"]),
        "--disable_tqdm",
        *(["--labels", *case.labels] if case.labels else []),
    ]
    if name not in ("sft", "reward"):
        common += ["--reward_model_path", str(runs["reward"]), "--grade_store", "grades.sqlite3"]
    if name not in ("sft", "reward", "grade", "audit"):
        common += ["--sft_model_path", str(runs["sft"])]
    return [name, *common, *own]


@pytest.fixture
def runs(small_data: Path, sft_run: Path, reward_run: Path) -> dict[str, Path]:
    return {"data": small_data, "sft": sft_run, "reward": reward_run}


def write_files(case: BadInput, directory: Path, runs: dict[str, Path]) -> None:
    for name, content in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path, runs)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a directory."""
    stats = {str(path.relative_to(directory)): path.lstat() for path in directory.rglob("*")}
    return {name: (own.st_size, own.st_mtime_ns) for name, own in stats.items()}


def assert_refused(case: BadInput, code: int | str | None, out: str, err: str) -> None:
    assert (code, out) == (2, ""), err
    assert err.endswith("\n") and len(err.splitlines()) == 1 and "Traceback" not in err, err
    for part in case.says:
        assert part in err, f"{part!r} is not in: {err}"


def test_the_table_names_every_case_once_and_every_command() -> None:
    names = [case.name for case in BAD_INPUTS]
    assert len(set(names)) == len(names) >= 60 and set(AS_PROCESSES) <= set(names)
    used = {(case.argv.split() if isinstance(case.argv, str) else case.argv)[0] for case in BAD_INPUTS}
    assert used == set(commands.COMMANDS) - {"env"}  # which takes no input


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_bad_input(case: BadInput, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, runs)
    name, *arguments = command_line(case, runs)
    before = snapshot(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        commands.run(name, arguments)
    captured = capsys.readouterr()
    assert_refused(case, exit_.value.code, captured.out, captured.err)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("case", [case for case in BAD_INPUTS if case.name in AS_PROCESSES], ids=lambda case: case.name)
def test_bad_input_to_a_process(case: BadInput, runs: dict[str, Path], tmp_path: Path) -> None:
    write_files(case, tmp_path, runs)
    name, *arguments = command_line(case, runs)
    before = snapshot(tmp_path)
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{name}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert_refused(case, done.returncode, done.stdout, done.stderr)
    assert done.stderr.startswith(f"{name}.py: ") and snapshot(tmp_path) == before
