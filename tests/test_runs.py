"""A run directory is complete or does not exist."""

import errno
import json
import os
from pathlib import Path

import pytest
import yaml

from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.runtime import atomic_io
from eightball_ppo.runtime.run import Run, check_output_dir, read_metrics


def config(directory: Path, **overrides: object) -> SFTConfig:
    return SFTConfig(output_dir=str(directory), **overrides)  # type: ignore[arg-type]


def test_a_finished_run_holds_config_environment_metrics_and_results(tmp_path: Path) -> None:
    with Run(config(tmp_path / "run", seed=7), "sft") as run:
        run.log({"step": 1, "loss": float("nan")})
        run.log({"step": 2, "loss": 0.5})
        assert not (tmp_path / "run").exists()
        done = run.finish({"x": float("inf"), "y": [1.5]})
    assert yaml.safe_load((done / "config.yaml").read_text())["seed"] == 7
    assert json.loads((done / "environment.json").read_text())["packages"]["trl"] == "1.12.0"
    assert read_metrics(done) == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
    assert json.loads((done / "results.json").read_text()) == {"x": None, "y": [1.5]}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_bad_input_leaves_nothing_and_a_crash_an_unfinished_run(tmp_path: Path) -> None:
    with pytest.raises(InputError), Run(config(tmp_path / "run"), "sft"):
        raise InputError("bad")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), Run(config(tmp_path / "run"), "sft") as run:
        run.log({"step": 1})
        _ = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["run.unfinished"]
    with Run(config(tmp_path / "run"), "sft") as run:  # the next run clears it away
        run.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and not (tmp_path / "run" / "metrics.jsonl").exists()


def test_run_is_replaced_on_request_and_by_a_finished_run(tmp_path: Path) -> None:
    with Run(config(tmp_path / "run"), "sft") as run:
        run.finish({"run": 1})
    with pytest.raises(InputError, match="holds another run; pass --overwrite_output_dir"):
        check_output_dir(config(tmp_path / "run"))
    again = config(tmp_path / "run", overwrite_output_dir=True)
    with pytest.raises(ZeroDivisionError), Run(again, "sft"):
        _ = 1 / 0
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"run": 1}
    with Run(again, "sft") as run:
        run.finish({"run": 2})
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"run": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_output_directory_cannot_be_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="file is a file; name a directory"):
            check_output_dir(config(path))


def test_only_a_run_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    for path in (tmp_path / "precious", tmp_path):
        with pytest.raises(InputError, match="holds files that are no run"):
            check_output_dir(config(path, overwrite_output_dir=True))
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_rest_of_a_killed_replacement_is_removed(tmp_path: Path) -> None:
    (tmp_path / "run.replaced").mkdir()
    (tmp_path / "run.replaced" / "old").write_text("")
    for number in (1, 2):
        with Run(config(tmp_path / "run", overwrite_output_dir=True), "sft") as run:
            run.finish({"run": number})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_another_process_finished_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    first = config(tmp_path / "run")
    check_output_dir(first)
    with Run(config(tmp_path / "run"), "sft") as run:
        run.finish({"run": "of another process"})
    with pytest.raises(InputError, match="holds another run; pass --overwrite_output_dir"):
        Run(first, "sft")
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == {"run": "of another process"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("suffix", [".unfinished", ".replaced"])
@pytest.mark.parametrize("kind", ["link", "directory", "file"])
def test_files_that_no_run_has_written_are_not_removed(suffix: str, kind: str, tmp_path: Path) -> None:
    other, rest = tmp_path / "other", tmp_path / f"run{suffix}"
    directory = other if kind == "link" else rest
    if kind == "file":
        rest.write_text("of a user")
    else:
        directory.mkdir()
        (directory / "thesis.tex").write_text("of a user")
    if kind == "link":
        rest.symlink_to(other)
    with pytest.raises(InputError, match=rf"run{suffix}: .*; move it away, or name another --output_dir"):
        check_output_dir(config(tmp_path / "run"))
    assert rest.read_text() == "of a user" if kind == "file" else (rest / "thesis.tex").exists()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic_io, "lock_descriptor", no_locks)
    with pytest.raises(InputError, match=r"cannot be locked .*; name an --output_dir on a file system with locks"):
        Run(config(tmp_path / "run"), "sft")
    assert not list(tmp_path.iterdir())
