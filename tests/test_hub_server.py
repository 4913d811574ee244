"""The loopback Hub is what the tests of uploads rely on: the untouched clients must find it a Hub."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_cards import check_card, check_eval_results
from hub_server import Hub, running_hub

WRITE, READ, FINE = "hf_write_1", "hf_read_1", "hf_fine_1"
START = """
import json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_session, hf_hub_download
here = Path(sys.argv[1])
api = HfApi()
def caught(call):
    try:
        return ["", call()]
    except Exception as reason:
        return [type(reason).__name__, str(reason)]
"""
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
language: en
tags: [eightball-ppo, ppo]
datasets: ball/questions
model-index:
- name: ball
  results:
  - task: {type: text-classification}
    dataset: {type: ball/questions, name: Questions}
    metrics: [{type: accuracy, value: 0.5}]
---
# A ball
"""
SPACE = "---\ntitle: Ball\nemoji: 🎱\ncolorFrom: indigo\ncolorTo: gray\nsdk: gradio\napp_file: app.py\n---\n"
DATA = "---\nlicense: mit\ntask_categories: [text-classification]\nsize_categories: n<1K\nconfigs:\n"
DATA += "- config_name: grades\n  data_files: [{split: train, path: grades/*.parquet}]\n---\n"

Client = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub) -> Hub:
    server.clear()
    return server


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    """Runs a script in a process of its own, as the user of a token, and returns what its `told` is at the end."""

    def run(script: str, token: str = WRITE) -> Any:
        own = {"HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        code = f"{START}\n{script}\nPath(here, 'told.json').write_text(json.dumps(told))"
        environment = {**os.environ, **hub.environment, **own, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((tmp_path / "told.json").read_text())

    return run


def asked(hub: Hub, method: str, pattern: str) -> list[int | None]:
    """The statuses of the requests so far that match."""
    return [r["status"] for r in hub.log() if r["method"] == method and re.search(pattern, r["path"])]


def test_a_folder_goes_up_once_and_comes_back_equal(hub: Hub, client: Client, tmp_path: Path) -> None:
    up = tmp_path / "up"
    (up / "deep" / "er").mkdir(parents=True)
    contents = {"weights.safetensors": bytes(range(256)) * 500, "deep/er/a b.txt": "é".encode(), "empty.bin": b""}
    contents["README.md"] = CARD.encode()
    for name, content in contents.items():
        (up / name).write_bytes(content)
    oids = client("""
api.create_repo("ball/folder", private=True)
told = [api.upload_folder(folder_path=here / "up", repo_id="ball/folder").oid for _ in range(2)]
""")
    files = hub.files("model", "ball/folder")
    assert {name: files[name] for name in files if name != ".gitattributes"} == contents
    repo = hub.repo("model", "ball/folder")
    assert repo is not None and repo["private"] and [c["oid"] for c in repo["commits"]][1:] == oids[:1] == oids[1:]
    assert asked(hub, "PUT", "/lfs/") == [200] and asked(hub, "POST", "/verify$") == [200]
    assert asked(hub, "POST", "/commit/main$") == [200]
    client("told = api.upload_file(path_or_fileobj=here / 'up/weights.safetensors', path_in_repo='again.bin',"
           "repo_id='ball/folder').oid")  # fmt: skip
    assert len(asked(hub, "PUT", "/lfs/")) == 1 and len(asked(hub, "POST", "/commit/main$")) == 2
    told = client(
        """
root = Path(api.snapshot_download("ball/folder"))
info = api.model_info("ball/folder", files_metadata=True)
url = api.endpoint + "/ball/folder/resolve/main/weights.safetensors"
part = get_session().get(url, headers={"Range": "bytes=3-6", "Authorization": "Bearer hf_read_1"})
told = {"files": {str(p.relative_to(root)): p.read_bytes().hex() for p in root.rglob("*") if p.is_file()},
        "part": [part.status_code, part.content.hex(), part.headers["Content-Range"]], "card": info.card_data.license,
        "lfs": [s.rfilename for s in info.siblings if s.lfs],
        "tree": [[e.path for e in api.list_repo_tree("ball/folder", recursive=r)] for r in (False, True)],
        "inside": [e.path for e in api.list_repo_tree("ball/folder", "deep")],
        "paths": [e.path for e in api.get_paths_info("ball/folder", ["deep", "empty.bin", "no"], expand=True)],
        "old": api.list_repo_files("ball/folder", revision=api.list_repo_commits("ball/folder")[-1].commit_id)}
""",
        READ,
    )
    assert {name: bytes.fromhex(told["files"][name]) for name in contents} == contents
    assert told["part"] == [206, "03040506", "bytes 3-6/128000"] and told["card"] == "apache-2.0"
    assert told["lfs"] == ["again.bin", "weights.safetensors"]
    flat = [".gitattributes", "README.md", "again.bin", "deep", "empty.bin", "weights.safetensors"]
    assert told["tree"][0] == flat and set(told["tree"][1]) == {*flat, "deep/er", "deep/er/a b.txt"}
    assert told["inside"] == ["deep/er"] and told["paths"] == ["deep", "empty.bin"]
    assert told["old"] == [".gitattributes"]


def test_who_may_do_what(hub: Hub, client: Client) -> None:
    script = """
me = api.whoami()
def push(repo_id):
    return caught(lambda: api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=repo_id).oid)
told = {"me": me, "create": caught(lambda: str(api.create_repo("ball/secret", private=True, exist_ok=True))),
        "other": caught(lambda: str(api.create_repo("others/ball"))), "secret": push("ball/secret"),
        "allowed": push("ball/allowed"), "see": caught(lambda: api.model_info("ball/secret").id)}
"""
    client("told = [str(api.create_repo(name, private=True)) for name in ('ball/secret', 'ball/allowed', 'toys/x')]")
    write, read, fine = (client(script, token) for token in (WRITE, READ, FINE))
    assert [told["me"]["auth"]["accessToken"]["role"] for told in (write, read, fine)] == [
        "write",
        "read",
        "fineGrained",
    ]
    assert {(t["me"]["type"], t["me"]["name"], t["me"]["orgs"][0]["name"]) for t in (write, read, fine)} == {
        ("user", "ball", "toys")
    }
    [scope] = fine["me"]["auth"]["accessToken"]["fineGrained"]["scoped"]
    assert scope["entity"]["name"] == "ball/allowed" and "repo.write" in scope["permissions"]
    for told in (write, read, fine):
        assert (
            told["other"][0] == "HfHubHTTPError" and "rights to create a model under the namespace" in told["other"][1]
        )
    assert [told["secret"][0] for told in (write, read, fine)] == ["", "HfHubHTTPError", "HfHubHTTPError"]
    assert "403 Forbidden" in read["secret"][1] and [t["allowed"][0] for t in (write, read, fine)][::2] == ["", ""]
    assert (
        read["create"][0] == "" and fine["create"][0] == "HfHubHTTPError"
    )  # it stands, and who may read it is told so
    assert [told["see"][0] for told in (write, read, fine)] == ["", "", "RepositoryNotFoundError"]
    bad = client(
        """
told = {"me": caught(lambda: api.whoami()), "push": caught(lambda: api.create_repo("ball/x")),
        "none": caught(lambda: HfApi(token=False).model_info("ball/secret").id)}
""",
        "hf_stranger",
    )
    assert bad["me"] == ["HfHubHTTPError", bad["me"][1]] and "Invalid user token" in bad["me"][1]
    assert bad["push"][0] == "HfHubHTTPError" and bad["none"][0] == "RepositoryNotFoundError"


def test_refusals_are_the_clients_exceptions(hub: Hub, client: Client) -> None:
    told = client("""
api.create_repo("ball/odd", repo_type="space", space_sdk="gradio")
add = lambda name, content=b"x": CommitOperationAdd(name, content)
def commit(*operations, **options):
    options |= {"commit_message": "m", "repo_type": "space"}
    return caught(lambda: api.create_commit("ball/odd", operations, **options).oid)
def post(path, body):
    return get_session().post(api.endpoint + path, json=body, headers={"Authorization": "Bearer hf_write_1"})
first = commit(add("a.txt"))[1]
line = {"key": "lfsFile", "value": {"path": "a.pt", "algo": "sha256", "oid": "0" * 64, "size": 1}}
head = {"key": "header", "value": {"summary": "s"}}
told = {
    "twice": caught(lambda: api.create_repo("ball/odd", repo_type="space", space_sdk="gradio")),
    "exists": caught(lambda: str(api.create_repo("ball/odd", repo_type="space", space_sdk="gradio", exist_ok=True))),
    "sdk": post("/api/repos/create", {"name": "s", "type": "space"}).status_code,
    "name": post("/api/repos/create", {"name": "a--b"}).status_code,
    "parent": [commit(add("b.txt"), parent_commit=first)[0], commit(add("c.txt"), parent_commit=first)],
    "gone": [commit(CommitOperationDelete("a.txt"))[0], commit(CommitOperationDelete("a.txt"))[0]],
    "folder": [commit(add("d/e.txt"))[0], commit(CommitOperationDelete("d/"))[0]],
    "pointer": get_session().post(api.endpoint + "/api/spaces/ball/odd/commit/main",
        content="\\n".join(map(json.dumps, [head, line])), headers={"Authorization": "Bearer hf_write_1"}).text,
    "entry": caught(lambda: hf_hub_download("ball/odd", "no.txt", repo_type="space"))[0],
    "revision": caught(lambda: api.space_info("ball/odd", revision="0" * 40).sha)[0],
    "repo": caught(lambda: api.dataset_info("ball/no").sha)[0],
    "sdk_of": api.space_info("ball/odd").sdk,
    "card": commit(add("README.md", b"---\\nsdk: gradoi\\n---\\n")),
}
""")
    assert told["twice"][0] == "HfHubHTTPError" and "409" in told["twice"][1] and told["exists"][0] == ""
    assert told["sdk"] == told["name"] == 400 and told["sdk_of"] == "gradio"
    assert told["parent"][0] == "" and told["parent"][1][0] == "HfHubHTTPError" and "412" in told["parent"][1][1]
    assert told["gone"] == ["", "RemoteEntryNotFoundError"] and told["folder"] == ["", ""]
    assert "does not exist" in told["pointer"] and told["entry"] == "RemoteEntryNotFoundError"
    assert told["revision"] == "RevisionNotFoundError" and told["repo"] == "RepositoryNotFoundError"
    assert told["card"][0] == "ValueError" and '"sdk" must be one of' in told["card"][1]
    assert set(hub.files("space", "ball/odd")) == {".gitattributes", "b.txt"}


def test_cards_through_the_client(hub: Hub, client: Client) -> None:
    (good, bad, other) = client(f"""
card = {CARD!r}
results = b"- {{dataset: {{id: ball/q}}, value: 1}}"
api.create_repo("ball/card")
def push():
    return api.upload_file(path_or_fileobj=results, path_in_repo=".eval_results/q.yaml", repo_id="ball/card")
told = [caught(ModelCard(text).validate) for text in (card, card.replace("apache-2.0", "mine"))] + [caught(push)]
""")
    assert good == ["", None] and bad[0] == "ValueError" and '\\"license\\" must be one of' in bad[1]
    assert other[0] == "BadRequestError" and "task_id" in other[1]


def test_each_fault_is_what_the_client_says_it_is(hub: Hub, client: Client) -> None:
    client("told = str(api.create_repo('ball/faulty'))")
    hub.fault("status", "whoami", code=401)
    hub.fault("status", "create", code=409)
    hub.fault("status", "preupload", code=403)
    hub.fault("status", "put", code=500)  # the client tries again
    hub.fault("cut", "put", after=1000)  # and again
    hub.fault("status", "commit", code=500)
    hub.fault("cut", "commit", after=10)
    hub.fault("slow", "resolve", seconds=0.5)
    told = client("""
import time
def push(name="x.txt"):
    add = CommitOperationAdd(name, bytes(2_000_000))
    return caught(lambda: api.create_commit("ball/faulty", [add], commit_message="m").oid)
told = [caught(api.whoami), caught(lambda: api.create_repo("ball/new")), push(), push("x.pt"), push("x.pt")]
last, start = push("x.pt"), time.time()
hf_hub_download("ball/faulty", "x.pt")
told += [last, time.time() - start]
""")
    whoami, create, preupload, error, cut, good, seconds = told
    assert whoami[0] == "HfHubHTTPError" and "Invalid user token" in whoami[1]
    assert "409" in create[1] and "403 Forbidden: Authorization error" in preupload[1]
    assert asked(hub, "PUT", "/lfs/") == [500, None, 200]
    assert (
        error[0] == "HfHubHTTPError"
        and "500" in error[1]
        and cut[0] in ("RemoteProtocolError", "ReadError", "WriteError")
    )
    assert good[0] == "" and seconds >= 0.5 and asked(hub, "POST", "/commit/") == [500, None, 200]
    for kind, route in (("status", "nowhere"), ("melt", "any")):
        with pytest.raises(urllib.error.HTTPError):
            hub.fault(kind, route)


def test_a_put_of_other_bytes_or_of_an_unasked_object_is_refused(hub: Hub, client: Client) -> None:
    client("told = str(api.create_repo('ball/puts'))")
    headers = {"Authorization": f"Bearer {WRITE}"}
    for granted, status in ((False, 403), (True, 400)):
        body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": "0" * 64, "size": 1}]}
        batch = urllib.request.Request(
            f"{hub.url}/ball/puts.git/info/lfs/objects/batch", json.dumps(body).encode(), headers
        )
        if granted:
            urllib.request.urlopen(batch, timeout=5).close()
        put = urllib.request.Request(f"{hub.url}/lfs/models/ball/puts/put/{'0' * 64}", b"x", method="PUT")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(put, timeout=5)
        caught.value.close()
        assert caught.value.code == status


def test_models_and_datasets_come_back_equal(hub: Hub, client: Client) -> None:
    told = client("""
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForSequenceClassification, BertConfig
config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
model = AutoModelForSequenceClassification.from_config(config).eval()
model.push_to_hub("ball/tiny", private=True)
other = AutoModelForSequenceClassification.from_pretrained("ball/tiny").eval()
rows = {"question": ["Is it so?", "Ümläut?"], "grade": [0.25, -1.0]}
for name in ("soft", "hard"):
    Dataset.from_dict(rows).push_to_hub("toys/grades", name, split="train", private=True)
loaded = [load_dataset("toys/grades", name, split="train").to_dict() == rows for name in ("soft", "hard")]
pairs = zip(model.state_dict().items(), other.state_dict().items(), strict=True)
told = [all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs), loaded]
""")
    assert told == [True, [True, True]]
    assert "model.safetensors" in hub.files("model", "ball/tiny")
    repo = hub.repo("dataset", "toys/grades")
    assert repo is not None and repo["private"] and len(repo["commits"]) == 3
    assert not [request for request in hub.log() if request["status"] == 500]


def test_good_cards_are_good() -> None:
    for card, kind in ((CARD, "model"), (SPACE, "space"), (DATA, "dataset")):
        assert check_card(card, kind) == ([], [])
    assert check_card("# nothing", "model")[1] and not check_card("# nothing", "model")[0]
    assert check_eval_results("x", b"- {dataset: {id: ball/q, task_id: default}, value: 0.5}") == []


@pytest.mark.parametrize(
    ("card", "kind", "good", "bad", "message"),
    [
        (CARD, "model", "text-classification\nlanguage", "magic\nlanguage", '"pipeline_tag" must be one of'),
        (CARD, "model", "language: en", "language: no", '"language" must be a string'),
        (CARD, "model", "language: en", "license: mit", "duplicated mapping key"),
        (CARD, "model", "[eightball-ppo, ppo]", "ppo", '"tags" must be an array'),
        (CARD, "model", "ball/questions\nmodel", "/work/questions\nmodel", '"datasets" with value "/work/questions"'),
        (CARD, "model", "{type: text-classification}", "{}", '"model-index[0].results[0].task.type" is required'),
        (CARD, "model", ", name: Questions", "", '"model-index[0].results[0].dataset.name" is required'),
        (CARD, "model", "value: 0.5", "value: .nan", '"model-index[0].results[0].metrics[0].value" is required'),
        (CARD, "model", "value: 0.5", "value: 1, score: 1", 'metrics[0].score" is not allowed'),
        (CARD, "model", "tags: [", "tags: [[", "YAML Metadata Error"),
        (SPACE, "space", "sdk: gradio", "pinned: no", '"sdk" is required'),
        (SPACE, "space", "indigo", "orange", '"colorFrom" must be one of'),
        (SPACE, "space", "🎱", "ball", '"emoji" must be an emoji'),
        (SPACE, "space", "app.py", "../app.py", '"app_file" must be relative'),
        (SPACE, "space", "title: Ball", f"short_description: {'x' * 61}", "60 characters"),
        (SPACE, "space", SPACE, "# Ball", "Missing configuration"),
        (DATA, "dataset", "grades/*", "/grades/*", "is no path inside the repository"),
        (DATA, "dataset", "n<1K", "few", '"size_categories" must be one of'),
        (DATA, "dataset", "split: train, ", "", "must have a split"),
        (DATA, "dataset", "[text-c", "[tex-c", '"task_categories[0]" must be one of'),
    ],
)
def test_bad_cards_are_told_so(card: str, kind: str, good: str, bad: str, message: str) -> None:
    assert good in card
    errors, _ = check_card(card.replace(good, bad, 1), kind)
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize(
    "text", ["a: 1", "- {value: 1}", "- {dataset: {id: /w, task_id: d}, value: 1}", "- {error: x}"]
)
def test_bad_evaluation_results_are_told_so(text: str) -> None:
    assert len(check_eval_results("x", text.encode())) == 1
