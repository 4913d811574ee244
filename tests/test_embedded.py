"""The embedded data sets and recipes are found by name from any directory; a path of that name comes first."""

import shutil
from pathlib import Path

import pytest

from conftest import REPOSITORY, write_rows
from eightball_ppo.cli.parser import parse
from eightball_ppo.config import embedded
from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.recipes import read_section
from eightball_ppo.data import load_named
from eightball_ppo.errors import InputError
from eightball_ppo.hub.cards import eval_results_yaml
from eightball_ppo.labels import EIGHTBALL_LABELS
from eightball_ppo.methods import prerequisites

RECIPES = sorted(file.stem for file in (REPOSITORY / "recipes").glob("*.yaml"))
RECIPES += sorted(f"real/{file.stem}" for file in (REPOSITORY / "recipes" / "real").glob("*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_embedded_data_are_read_by_name_from_any_directory() -> None:
    assert len(load_named(DataConfig(), "heldout")) == 600
    tickets = DataConfig(dataset_name="tickets", text_column="text", label_column="intent")
    assert len(load_named(tickets, "rl")) == 324
    with pytest.raises(InputError, match=r"datasets/tickets/none.jsonl: no such file; .*'heldout', 'preferences'"):
        load_named(tickets, "none")


def test_a_path_of_that_name_comes_before_the_embedded_data(elsewhere: Path) -> None:
    (elsewhere / "tickets").mkdir()
    write_rows(elsewhere / "tickets" / "rl.jsonl", [{"question": "Mine?"}])
    assert list(load_named(DataConfig(dataset_name="tickets"), "rl").texts) == ["Mine?"]
    assert DataConfig(dataset_name="tickets").labels is None


@pytest.mark.parametrize("name", ["eightball", str(REPOSITORY / "datasets" / "eightball")])
def test_default_data_have_their_labels_by_name_and_by_path(name: str) -> None:
    assert DataConfig(dataset_name=name).labels == list(EIGHTBALL_LABELS)
    assert prerequisites.same_dataset(name, "eightball")  # a run on one reuses the reference of the other
    assert eval_results_yaml({"splits": {"heldout": {}}}, {"dataset_name": name}) is None  # no data set of the Hub


def test_embedded_folders_are_those_of_the_package_where_it_is_installed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an installed package lies Hugging Face's `datasets`, whose folders are no data sets."""
    package = elsewhere / "site-packages" / "eightball_ppo"
    (elsewhere / "site-packages" / "datasets" / "io").mkdir(parents=True)
    shutil.copytree(REPOSITORY / "datasets", package / "datasets")
    monkeypatch.setattr(embedded, "_PACKAGE", package)
    assert embedded.embedded_dataset("tickets") == package / "datasets" / "tickets"
    assert embedded.embedded_dataset("io") is None


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_by_its_name(name: str) -> None:
    stage = DistillConfig if name == "original" else PPOConfig
    extra = ["--grader_model", "m"] if name == "llm_judge" else []
    by_path = parse(stage, ["--config", str(REPOSITORY / "recipes" / f"{name}.yaml"), *extra])
    by_name = parse(stage, ["--config", name, *extra])
    assert by_name.upstream_config in (None, name)  # no path of this machine
    by_name.upstream_config = by_path.upstream_config
    assert by_name == by_path


def test_missing_models_are_trained_by_a_recipe_that_was_named() -> None:
    config = parse(PPOConfig, ["--config", "minilm_lora"])
    assert read_section(str(config.upstream_config), "sft") is not None
    options = prerequisites._options_if_missing(config, "sft")
    assert options is not None
    assert (options.model_name_or_path, options.output_dir) == ("minilm", "runs/minilm/sft")


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=f"--config minilm: neither a file nor a recipe .*: {', '.join(RECIPES)}$"):
        parse(PPOConfig, ["--config", "minilm"])


def test_a_recipe_beside_the_user_comes_before_the_one_of_the_package(elsewhere: Path) -> None:
    (elsewhere / "original").write_text("seed: 7\n")
    assert parse(PPOConfig, ["--config", "original"]).seed == 7
