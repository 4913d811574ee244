"""The `eightball` command: what it lists, that its examples hold, its help, completion and bug report."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY
from eightball_ppo import __version__
from eightball_ppo.cli import parser
from eightball_ppo.cli.commands import COMMANDS, completion, main, overview
from eightball_ppo.config.methods import GRPOConfig
from eightball_ppo.config.registry import load

HEAVY = ("torch", "transformers", "numpy", "pandas", "huggingface_hub", "gradio", "matplotlib", "datasets", "shtab")


def test_every_command_is_listed_and_its_stage_and_script_exist() -> None:
    for name in (*COMMANDS, "completion"):
        assert f"\n  {name} " in overview()
    for command in COMMANDS.values():
        assert callable(load(command.stage))
    scripts = {file.stem: file.read_text() for file in (REPOSITORY / "scripts").glob("*.py")}
    for name in ("sft", "reward", "grade", "audit", "distill", "ppo", "compare", "predict", "report"):
        assert f'run("{name}")' in scripts[name]
    assert 'run("push")' in scripts["push_to_hub"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_parse(name: str) -> None:
    command = COMMANDS[name]
    assert command.examples
    for example in command.examples:
        parser.parse(command.config_class, command.arguments(shlex.split(example)))


def test_help_shows_groups_one_spelling_and_no_empty_default() -> None:
    text = parser.build_parser(GRPOConfig).format_help()
    assert [title in text for title in ("\ndata:\n", "\ngrader:\n", "\nLoRA:\n")] == [True] * 3
    assert "--kl_coef KL_COEF" in text and "--kl-coef" not in text and "(default: None)" not in text
    assert "--no_kl_in_reward Turn --kl_in_reward off." in " ".join(text.split()) and "(default: 0.9)" in text


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["ppo", "--help"]])
def test_help_and_version_import_nothing_heavy(argv: list[str]) -> None:
    code = (
        f"import sys\nsys.argv = {['eightball', *argv]!r}\nfrom eightball_ppo.cli.commands import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "[]", done.stderr
    assert (__version__ in done.stdout) if argv == ["--version"] else ("examples:\n  eightball " in done.stdout)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "eightball: no command was given; pass one of sft, reward"),
        (["fly"], "eightball: unknown command 'fly'"),
        (["completion", "cmd"], "eightball: completion: names no known shell; pass one of bash, zsh, tcsh"),
        (["report"], "report: which runs?"),
    ],
)
def test_bad_calls_are_one_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["eightball", *argv])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 2 and message in printed.err and printed.err.count("\n") == 1 and not printed.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("eightball pp", {"ppo"}),
        ("eightball push --rep", {"--repo_id", "--repo-id"}),
        ("eightball ppo --score_type ", {"log_prob", "probability", "logit_margin", "raw"}),
        ("eightball completion z", {"zsh"}),
    ],
)
def test_bash_completion(line: str, words: set[str], tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(completion("bash"))
    typed = line.split(" ")
    assert "#compdef eightball" in completion("zsh") and "complete eightball" in completion("tcsh")
    last = typed[-1] or "''"
    code = (
        f"source {script}\nCOMP_WORDS=({' '.join(shlex.quote(word) for word in typed)})\nCOMP_CWORD={len(typed) - 1}\n"
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}\n_shtab_eightball eightball {last}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert {word.strip() for word in done.stdout.split()} == words, done.stderr


@pytest.mark.slow
def test_env_prints_versions_and_no_secret(tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_this_is_secret", "OPENAI_API_KEY": "sk-this-is-secret"}
    environment = {**os.environ, **secrets, "HF_ENDPOINT": "http://me:password@127.0.0.1:1", "HF_HOME": f"{tmp_path}/h"}
    code = "import sys; sys.argv = ['eightball', 'env']; from eightball_ppo.cli.commands import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "- torch: 2.13.0" in done.stdout and "- trl: 1.12.0" in done.stdout
    assert "- HF_TOKEN: set" in done.stdout and "- HF_ENDPOINT: http://***@127.0.0.1:1" in done.stdout
    for word in ("secret", "password", str(tmp_path)):
        assert word not in done.stdout
