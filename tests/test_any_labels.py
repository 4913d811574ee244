"""All stages run with two and with five labels that are not those of the eight ball."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification

from conftest import write_rows
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import GradeConfig, RewardConfig, SFTConfig
from eightball_ppo.graders import export
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.packaged import minilm_dir
from eightball_ppo.report import tables

TEXT_OF = {
    2: {"spam": "win a free prize", "ham": "lunch on tuesday then"},
    5: {
        "refund please": "money back now",
        "outage": "server is down again",
        "how-to": "how can one set this up",
        "praise": "great work folks",
        "[/b] $$ | <i>": "the weather is mild",  # markup, mathematics, cells: words of those who label
    },
}


def write_data(directory: Path, texts: dict[str, str]) -> str:
    """Twelve texts a label, four splits."""
    directory.mkdir()
    rest = ["today", "here", "sir", "once more", "my friend", "at home", "for real", "really", "indeed", "I say", "now"]
    for split, ends in {"sft": rest[:3], "preferences": rest[3:7], "rl": rest[7:9], "heldout": rest[9:]}.items():
        rows = [{"note": f"{text} {end}", "kind": label} for end in ends for label, text in texts.items()]
        write_rows(directory / f"{split}.jsonl", [{"note": row["note"]} if split == "rl" else row for row in rows])
    return str(directory)


def write_encoder(directory: Path) -> str:
    """A BERT of a few thousand weights that nobody has trained."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(**sizes)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(minilm_dir())).save_pretrained(directory)
    return str(directory)


def test_labels_with_terminal_markup_are_printed_literally(capsys: pytest.CaptureFixture[str]) -> None:
    shares = {":x:": 0.5, "[b]": 0.25, "$^$": 0.25}
    tables.print_record("[m]", ":+1:", {"label_histogram": shares})
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("[m]", ":+1:", ":x: 0.500", "[b] 0.250", "$^$ 0.250"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 5])
def test_every_stage_runs_with_two_and_five_other_labels(number: int, tmp_path: Path) -> None:
    texts = TEXT_OF[number]
    names, favourite = list(texts), list(texts)[-1]
    shared: dict[str, Any] = {
        "dataset_name": write_data(tmp_path / "data", texts),
        "text_column": "note",
        "label_column": "kind",
        "labels": names,
        "disable_tqdm": True,
    }
    runs = {name: tmp_path / name for name in ("sft", "reward", "grades", "distill", "ppo", "judged")}
    out = {name: {"output_dir": str(run)} | shared for name, run in runs.items()}
    graded: dict[str, Any] = {"sft_model_path": str(runs["sft"]), "reward_model_path": str(runs["reward"])}
    encoder = write_encoder(tmp_path / "encoder")

    sft.train(SFTConfig(num_train_epochs=2, **out["sft"]))
    reward_model.train(
        RewardConfig(model_name_or_path=encoder, num_train_epochs=1, validation_fraction=0.25, **out["reward"])
    )
    export.run(GradeConfig(grader=f"rule:{favourite}", **out["grades"]))
    run_method(DistillConfig(grader=f"rule:{favourite}", **graded, **out["distill"]))
    few: dict[str, Any] = {"total_episodes": 960, "repeats_per_epoch": 20}
    run_method(PPOConfig(grader=f"rule:{favourite}", kl_coef=0.5, **few, **graded, **out["ppo"]))
    run_method(PPOConfig(allow_weak_grader=True, **few, **graded, **out["judged"]))

    assert set(pd.read_parquet(runs["grades"] / "grades.parquet")["label"]) == set(names)
    for run in (run for name, run in runs.items() if name != "grades"):
        assert AutoConfig.from_pretrained(run).id2label == dict(enumerate(names))
        record = json.loads((run / "results.json").read_text())["splits"]["heldout"]
        assert list(record["label_histogram"]) == names
        assert sum(record["label_histogram"].values()) == pytest.approx(1, abs=1e-4)
    for run in (runs["distill"], runs["ppo"]):
        record = json.loads((run / "results.json").read_text())
        before, after = record["reference"]["heldout"], record["splits"]["heldout"]
        assert after["label_histogram"][favourite] > max(before["label_histogram"][favourite], 0.6)
        assert favourite in (run / "README.md").read_text(encoding="utf-8")
