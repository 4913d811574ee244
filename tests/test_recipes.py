"""Recipes: one YAML file for several stages, and what of it each stage gets."""

import dataclasses
import re
from pathlib import Path
from typing import get_type_hints

import encoders
import pytest
import yaml

from conftest import REPOSITORY
from eightball_ppo.cli.commands import COMMANDS
from eightball_ppo.cli.parser import parse
from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.recipes import read_recipe, sections
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.defaults import fitting
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.run import read_config, read_results

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


def test_stage_reads_the_shared_options_and_its_section(file: Path) -> None:
    ppo = parse(PPOConfig, ["--config", str(file), "--seed", "3"])
    assert (ppo.labels, ppo.kl_coef, ppo.learning_rate, ppo.total_episodes) == (["a", "b"], 0.5, 0.003, 960)
    assert (ppo.seed, ppo.upstream_config) == (3, str(file))
    sft = parse(SFTConfig, ["--config", str(file)])  # kl_coef is no option of it, and known to others
    assert (sft.labels, sft.output_dir, sft.learning_rate) == (["a", "b"], "runs/mine", 1e-4)
    distill = parse(DistillConfig, ["--config", str(file), "--kl_coef", "0.2"])
    assert (distill.kl_coef, distill.learning_rate, distill.output_dir) == (0.2, 0.003, "runs/distill")


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
def test_unknown_option_of_a_recipe_is_refused(tmp_path: Path, text: str, config_class: type, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_recipe(str(path), config_class)


RECIPES = REPOSITORY / "recipes"
SERVES = {  # which commands take a recipe as it is; the others refuse an option by name
    "eightball": ("ppo",),
    "original": ("distill",),
    "llm_judge": ("grade", "audit", "distill", "ppo", "rloo", "grpo", "best_of_n", "exact", "compare"),
    "frozen_minilm": tuple(sections()),
    "minilm_lora": tuple(sections()),
    "own_data": tuple(sections()),
    "real/trec": tuple(sections()),
    "real/tweets": tuple(sections()),
}
SAME_STAGES = {
    "real/trec50": "real/trec",
    **dict.fromkeys(("real/amazon_reviews", "real/movie_reviews"), "real/tweets"),
}
SAME_STAGES["real/nyt_editorials"] = "real/tweets"

FLAGS: list[list[str]] = [
    [],
    ["--seed", "3", "--output_dir", "runs/other"],
    ["--labels", "a", "b", "c"],
    ["--overwrite_output_dir", "--disable_tqdm"],
    ["--dataset_test_split=0.2", "--max_length=40"],
    ["--push_to_hub", "--hub_model_id", "ME/ball", "--hub_private_repo", "False"],
    ["--kl_coef", "0.7"],
    ["--grader", "noisy:0.1:bert", "--max_grader_calls", "10"],
    ["--use_peft", "--lora_r", "4", "--merge_adapter"],
    ["--save_steps", "2", "--save_total_limit", "1"],
]


@pytest.mark.parametrize("command", sections())
@pytest.mark.parametrize(
    "recipe", [name for name in SERVES if "/" not in name]
)  # those of real data have no other options
def test_every_recipe_and_flag_is_read_by_the_commands_that_it_serves(recipe: str, command: str) -> None:
    """Flags beat the recipe, and the rest of the recipe stays; what a command does not know is refused by name."""
    file = str(RECIPES / f"{recipe}.yaml")
    config_class = sections()[command]
    known = get_type_hints(config_class)
    if command not in SERVES[recipe]:
        with pytest.raises(InputError, match=rf"{recipe}\.yaml: unknown option '\w+'; see --help"):
            parse(config_class, ["--config", file])
        return
    plain = vars(parse(config_class, ["--config", file]))
    for flags in FLAGS:
        given = {word[2:].partition("=")[0] for word in flags if word.startswith("--")}
        if plain.get("freeze_encoder") and "use_peft" in given:
            continue  # which leaves nothing to adapt
        if not given <= set(known):
            with pytest.raises(InputError, match="unknown option"):
                parse(config_class, ["--config", file, *flags])
            continue
        if command == "compare" and given & {"overwrite_output_dir", "seed"}:
            continue  # which a comparison refuses, whatever else it is given
        read = vars(parse(config_class, [*flags, "--config", file]))
        assert read == vars(parse(config_class, ["--config", file, *flags]))
        changed = {name for name in read if read[name] != plain[name]}
        assert changed <= given | {"learning_rate"}  # by default, it follows kl_coef and use_peft


def test_every_recipe_serves_the_command_in_its_first_lines() -> None:
    files = [*RECIPES.glob("*.yaml"), *RECIPES.glob("real/*.yaml")]
    assert {*SERVES, *SAME_STAGES} == {str(file.relative_to(RECIPES).with_suffix("")) for file in files}
    defaults = fitting(PPOConfig(), "small", num_texts=1200)  # of which the rate follows kl_coef
    written_out = dataclasses.replace(defaults, learning_rate=None, stop_optimum_fraction=None)
    written_out.kl_coef, written_out.score_type = 0.1, "log_prob"
    assert parse(PPOConfig, ["--config", str(RECIPES / "eightball.yaml")]) == written_out
    for name, served in SERVES.items():
        head = "".join(line for line in (RECIPES / f"{name}.yaml").open() if line.startswith("#"))
        commands = re.findall(r"(?:scripts/|eightball )(\w+)(?:\.py)? --config", head)
        assert commands and set(commands) <= set(served)


@pytest.mark.parametrize("name", SAME_STAGES)
def test_recipes_of_real_data_differ_in_the_data_and_the_epochs_alone(name: str) -> None:
    def options(recipe: str) -> str:
        text = re.sub("^(#|  num_train_epochs).*\n", "", (RECIPES / f"{recipe}.yaml").read_text(), flags=re.MULTILINE)
        return text.replace("dataset_name: trec6", "dataset_name: trec").replace(Path(recipe).name, "NAME")

    assert options(name) == options(SAME_STAGES[name])


def test_every_stage_may_have_a_section() -> None:
    stages = {name for name, command in COMMANDS.items() if issubclass(command.config_class, RunConfig)}
    assert stages == set(sections())


@pytest.mark.parametrize("name", SERVES)
def test_every_section_of_a_shipped_recipe_is_read(name: str) -> None:
    file = RECIPES / f"{name}.yaml"
    content = yaml.safe_load(file.read_text())
    for section in (section for section in content if isinstance(content[section], dict)):
        config = parse(sections()[section], ["--config", str(file)])
        for key, value in content[section].items():
            assert getattr(config, key) == value, (section, key)


@pytest.mark.slow
def test_own_data_recipe_trains_every_stage(tmp_path: Path) -> None:
    """Its own sections and data, a tiny encoder in place of the MiniLM, and one short pass each."""
    encoder = str(encoders.save("bert", tmp_path / "encoder", tuple(f"of another head {i}" for i in range(5))))
    content = yaml.safe_load((REPOSITORY / "recipes" / "own_data.yaml").read_text())
    content |= {"disable_tqdm": True, "seed": 3}
    content |= {"allow_weak_grader": True, "dataset_train_split": "rl"}  # said, and yet not the split of all stages
    for name, epochs in (("sft", 1.0), ("reward", 2.0)):
        content[name] |= {"model_name_or_path": encoder, "num_train_epochs": epochs}
    content["ppo"]["total_episodes"] = content["ppo"]["per_device_train_batch_size"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    run = run_method(parse(PPOConfig, ["--config", str(recipe)]))
    results = read_results(run)
    assert results["seed"] == 3 and results["updates"] == 1 and results["splits"]["train"]["kl"] > 0
    assert run.name == "ppo" and run.parent.name == "tickets"
    for name in ("sft", "reward"):
        config = read_config(run.parent / name)
        assert (config["seed"], config["dataset_train_split"]) == (3, None)
        assert {key: config[key] for key in content[name]} == content[name]
