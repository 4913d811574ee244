"""Paths and links in the models and data of other people lead nowhere else."""

import json
import os
import shutil
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import encoders
import pytest
from safetensors.torch import load_file
from test_trust import change, loaders, one_line, refused_by_all

from conftest import small_dataset
from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import load_named
from eightball_ppo.hub.bundles import Bundle
from eightball_ppo.models.loading import load_classifier


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return encoders.save("bert", tmp_path / "model", ("a", "b"))


# --- paths and links in a model


def test_links_that_lead_out_of_a_model_are_refused(model: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).rename(tmp_path / name)
        (model / name).symlink_to(tmp_path / name)
        refused_by_all(model, f"{name} leads to {tmp_path / name}, outside the directory; copy it there")
        (model / name).unlink()
        (tmp_path / name).rename(model / name)
    (model / "additional_chat_templates").mkdir()
    (tmp_path / "private").write_text("hush")
    for name, target in (
        ("nothing", "/nowhere"),
        ("circle", "circle"),
        ("additional_chat_templates/a.jinja", tmp_path / "private"),
    ):
        (model / name).symlink_to(target)
        refused_by_all(model, f"{name} leads to")
        (model / name).unlink()
    os.mkfifo(model / "vocab.txt.new")  # reading it would wait for ever
    refused_by_all(model, "vocab.txt.new leads to")


def test_links_within_a_model_and_those_of_the_hubs_cache_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "weights")
    (model / "model.safetensors").symlink_to("weights")
    (tmp_path / "best").symlink_to(model)  # whoever names it has asked for it
    (model / "logs").mkdir()
    (model / "logs" / "latest").symlink_to("/nowhere")  # nothing is read there
    load_classifier(str(tmp_path / "best"), "--sft_model_path")
    shutil.rmtree(model / "logs")
    blobs, snapshot = tmp_path / "models--me--x" / "blobs", tmp_path / "models--me--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (model / "model.safetensors").unlink()
    (model / "weights").rename(model / "model.safetensors")
    for place, file in enumerate(sorted(model.iterdir())):
        file.rename(blobs / str(place))
        (snapshot / file.name).symlink_to(f"../../blobs/{place}")
    load_classifier(str(snapshot), "--sft_model_path")
    (snapshot / "notes.txt").symlink_to("/etc/hostname")
    assert "notes.txt leads to /etc/hostname" in one_line(loaders(snapshot)[0])


@pytest.mark.parametrize("shard", ["../weights.safetensors", "/weights.safetensors", "weights.bin"])
def test_shards_that_lie_elsewhere_by_their_name_are_refused(model: Path, shard: str) -> None:
    (model / "model.safetensors").rename(model.parent / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(model.parent / "weights.safetensors"), shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    refused_by_all(model, f"names {shard!r} as one of its files; only files beside it are read")


def test_a_tokenizer_that_names_files_of_this_machine_gets_none(model: Path, tmp_path: Path) -> None:
    """Else a private file would become a vocabulary, and be pushed with the next policy."""
    (tmp_path / "private.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nhush\n")
    change(model / "tokenizer_config.json", vocab_file=str(tmp_path / "private.txt"))
    _, tokenizer = load_classifier(str(model), "--sft_model_path")
    assert len(tokenizer) > 1000 and "private" not in json.dumps(tokenizer.init_kwargs, default=str)
    change(model / "tokenizer_config.json", fast_tokenizer_files=["../other/tokenizer.1.0.0.json"])
    refused_by_all(model, "names '../other/tokenizer.1.0.0.json' as one of its files")


# --- paths and links in data


def test_links_that_lead_out_of_a_data_set_are_refused(tmp_path: Path) -> None:
    data = small_dataset(tmp_path / "data")
    outside = (data / "rl.jsonl").rename(tmp_path / "private.jsonl")
    (data / "rl.jsonl").symlink_to(outside)
    config = DataConfig(dataset_name=str(data))
    line = one_line(lambda: load_named(config, "rl"))
    assert line == f"{data / 'rl.jsonl'}: leads to {outside}, which is no file of {data}; put a copy there"
    assert len(load_named(config, "sft")) == 40
    (data / "within.jsonl").symlink_to("sft.jsonl")
    assert len(load_named(config, "within")) == 40
    (tmp_path / "link.jsonl").symlink_to(outside)
    named = DataConfig(dataset_name=str(tmp_path / "link.jsonl"))  # whoever names it has asked for it
    assert len(load_named(named, "train")) == 60


def test_a_saved_data_set_names_no_file_but_its_own(tmp_path: Path) -> None:
    rows = [{"question": f"Is it {i}?"} for i in range(4)]
    for name in ("mine", "private"):
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / name)
    config = DataConfig(dataset_name=str(tmp_path / "mine"))
    assert len(load_named(config, "train")) == 4
    there = "../private/data-00000-of-00001.arrow"
    change(tmp_path / "mine" / "state.json", _data_files=[{"filename": there}])
    assert f"names {there!r}; only files beside it are read" in one_line(lambda: load_named(config, "train"))
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "split")
    change(tmp_path / "split" / "dataset_dict.json", splits=["train", "../private"])
    config = DataConfig(dataset_name=str(tmp_path / "split"))
    assert len(load_named(config, "train")) == 4
    for split in ("../private", str(tmp_path / "private")):
        assert "no split" in one_line(partial(load_named, config, split))
    shutil.rmtree(tmp_path / "split" / "train")
    (tmp_path / "split" / "train").symlink_to(tmp_path / "private")
    assert "which is no file of" in one_line(lambda: load_named(config, "train"))


def test_columns_that_name_files_have_none_of_them_opened(tmp_path: Path) -> None:
    """As text they are text; as the picture that a saved data set declares them to be they are not looked at."""
    private = tmp_path / "private.txt"
    private.write_text("hush")
    paths = [str(private), f"file://{private}", "../private.txt", "/etc/passwd"]
    rows = [{"question": path, "picture": {"path": str(private), "bytes": None}} for path in paths]
    features = datasets.Features({"question": datasets.Value("string"), "picture": datasets.Image()})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    for name in ("saved", "rows.jsonl"):
        assert list(load_named(DataConfig(dataset_name=str(tmp_path / name)), "train").texts) == paths
    watching = False
    assert opened and not [path for path in opened if path.endswith(("private.txt", "passwd"))]


def test_a_link_in_a_run_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "private.parquet").write_text("hush")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vocab.txt").symlink_to(tmp_path / "private.parquet")
    made = Bundle("model")
    line = one_line(lambda: made.add(tmp_path / "run", ("vocab.*",)))
    assert line.endswith("which is no file of the run; not uploaded") and not made.files


def test_an_archive_is_no_model_and_no_data_set(model: Path, tmp_path: Path) -> None:
    for suffix in ("zip", "tar", "tgz"):
        archive = tmp_path / f"it.{suffix}"
        with zipfile.ZipFile(archive, "w") as packed:
            packed.write(model / "config.json", "../../outside.json")
        assert "is a file; name the directory of a checkpoint" in one_line(loaders(archive)[0])
        data = DataConfig(dataset_name=str(archive), labels=["a", "b"])
        assert "the name of a data file ends in one of" in one_line(partial(load_named, data, "train"))
    assert not list(tmp_path.rglob("outside.json"))
