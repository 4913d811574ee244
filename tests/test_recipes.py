"""Recipes: one YAML file for several stages, and what of it each stage gets."""

from pathlib import Path

import pytest

from eightball_ppo.cli import parse
from eightball_ppo.configs import DistillConfig, PPOConfig, RewardConfig, SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.batches import batch_size, generations
from eightball_ppo.recipes import SECTIONS, read_recipe, read_section

RECIPE = """
labels: [a, b]
kl_coef: 0.5
learning_rate: 0.003
sft:
  output_dir: runs/mine
  learning_rate: 1e-4
ppo:
  total_episodes: 960
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_stage_gets_what_all_share_and_what_is_its_own(file: Path) -> None:
    ppo = parse(PPOConfig, ["--config", str(file), "--seed", "3"])
    assert (ppo.labels, ppo.kl_coef, ppo.learning_rate, ppo.total_episodes) == (["a", "b"], 0.5, 0.003, 960)
    assert (ppo.seed, ppo.prerequisites) == (3, str(file))
    sft = parse(SFTConfig, ["--config", str(file)])  # kl_coef is no option of it, and known to others
    assert (sft.labels, sft.output_dir, sft.learning_rate) == (["a", "b"], "runs/mine", 1e-4)
    distill = parse(DistillConfig, ["--config", str(file), "--kl_coef", "0.2"])
    assert (distill.kl_coef, distill.learning_rate, distill.output_dir) == (0.2, 0.003, "runs/distill")


def test_a_section_alone(file: Path) -> None:
    assert read_section(file, "sft") == {"output_dir": "runs/mine", "learning_rate": 1e-4}
    assert read_section(file, "reward") is None


@pytest.mark.parametrize(
    ("text", "config_class", "message"),
    [
        ("kl_coeff: 1\nsft: {}\n", PPOConfig, "unknown option 'kl_coeff'"),
        ("sft: {kl_coef: 1}\n", SFTConfig, "unknown option 'kl_coef'"),
        ("sft: {}\nppo: {fp16: true}\n", PPOConfig, "fp16: not an option here"),
        ("sft: {}\nreward: {num_train_epochs: many}\n", RewardConfig, "num_train_epochs 'many'"),
        ("total_episodes: 5\n", SFTConfig, "unknown option 'total_episodes'"),  # no sections: of one stage alone
    ],
)
def test_what_no_stage_knows_is_refused(tmp_path: Path, text: str, config_class: type, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_recipe(path, config_class)


def test_every_stage_that_takes_a_config_may_have_a_section() -> None:
    from eightball_ppo.commands import COMMANDS
    from eightball_ppo.options import StageConfig

    stages = {name for name, command in COMMANDS.items() if issubclass(command.config_class, StageConfig)}
    assert stages == set(SECTIONS)


@pytest.mark.parametrize(("questions", "times"), [(600, 2), (5000, 2), (40, 30), (324, 4), (1199, 2)])
def test_few_questions_stand_often_enough_to_fill_a_default_batch(questions: int, times: int) -> None:
    assert generations(PPOConfig(), questions, 1) == times
    assert batch_size(PPOConfig(), questions, 1) == min(1200, questions * times)
    assert generations(PPOConfig(num_generations=7), questions, 1) == 7
    assert generations(PPOConfig(total_episodes=120), 40, 1) == 3  # but not for more than is asked for
    assert generations(PPOConfig(per_device_train_batch_size=600), 100, 2) == 12
