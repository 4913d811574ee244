"""Push a finished run: say what goes where, make the repository, upload all of it in one commit."""

import shlex
from pathlib import Path

import httpx2
import stamina
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.tools import PushConfig
from eightball_ppo.errors import InputError
from eightball_ppo.hub.access import checked_repo_id, hub_errors, signed_in
from eightball_ppo.hub.bundles import Bundle, bundle
from eightball_ppo.hub.cards import RECORDED
from eightball_ppo.hub.spaces import space_bundle
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import is_main_process

ATTEMPTS = 3
_FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def run(config: PushConfig) -> None:
    """Push what `config` names; a dry run says what would be pushed, and asks nobody.

    Raises:
        InputError: no finished run, a bad repository id, or a token that may not write there.
        IncompleteError: the Hub or the line to it failed; the run is whole, and the same command goes on.
    """
    repo_id = checked_repo_id(config.repo_id, "--repo_id")
    directories = [Path(name).expanduser() for name in config.run_dirs]
    if not config.dry_run:
        repo_id = signed_in(repo_id, "--repo_id")
    comparison = None if config.comparison is None else Path(config.comparison)
    made = space_bundle(directories, repo_id) if config.space else bundle(directories[0], repo_id, comparison)
    show(made, repo_id, config.hub_private_repo)
    if config.dry_run:
        print("dry run: nothing was uploaded")
        return
    url = upload(made, repo_id, config.hub_private_repo, _again(config))
    if not config.space:
        record(directories[0], made, repo_id, url)
    print(f"pushed {' '.join(config.run_dirs)} -> {url}")


def check_stage(config: RunConfig) -> None:
    """Raises InputError before a stage that is to be pushed begins, if it could not be."""
    if config.push_to_hub and config.hub_model_id is None:
        raise InputError("--push_to_hub: to which repository? pass --hub_model_id USER/NAME")
    if config.push_to_hub and is_main_process():
        signed_in(str(config.hub_model_id), "--hub_model_id")


def push_stage(config: RunConfig) -> None:
    """Push the run that a stage has just finished, if that was asked for."""
    if config.push_to_hub and is_main_process():
        assert config.hub_model_id is not None
        run(PushConfig([config.output_dir], config.hub_model_id, hub_private_repo=config.hub_private_repo))


def _again(config: PushConfig) -> str:
    command = ["eightball", "push", *config.run_dirs, "--repo_id", config.repo_id]
    command += ["--space"] if config.space else []
    command += ["--comparison", config.comparison] if config.comparison is not None else []
    command += [] if config.hub_private_repo else ["--hub_private_repo", "False"]
    return f"the run is whole, and what was uploaded is kept; go on with: {shlex.join(command)}"


def show(made: Bundle, repo_id: str, private: bool) -> None:
    """Print what will be uploaded, and to where. Of a Space's copy of this package, one line."""
    where = f"{constants.ENDPOINT}/{_FOLDERS[made.repo_type]}{repo_id}"
    privacy = "private" if private else "public"
    print(f"to {where} ({made.repo_type}, {privacy} if it is new):")
    table = Table("file", "bytes")
    ours = [name for name in made.files if name.startswith("eightball_ppo/")]
    for name in made.files:
        if name not in ours:
            table.add_row(escape(name), f"{made.size(name):,}")
    if ours:
        table.add_row(f"eightball_ppo/ ({len(ours)} files)", f"{sum(map(made.size, ours)):,}")
    Console(width=None if Console().is_terminal else 120).print(table)


def upload(made: Bundle, repo_id: str, private: bool, go_on: str) -> str:
    """Create the repository if it is not there, and commit all files at once. Returns the address of the repository.

    Files that are there already are not sent again, so that a push that was cut off goes on where it stood. Tried
    again where the server failed; see `hub_errors` for what is raised.
    """
    api = HfApi(library_name="eightball-ppo")

    def create() -> str:
        sdk = "gradio" if made.repo_type == "space" else None
        return str(api.create_repo(repo_id, private=private, repo_type=made.repo_type, exist_ok=True, space_sdk=sdk))

    def commit() -> None:
        files = [CommitOperationAdd(name, content) for name, content in made.files.items()]
        api.create_commit(repo_id, files, commit_message="Upload by eightball-ppo", repo_type=made.repo_type)

    persistent = stamina.RetryingCaller(attempts=ATTEMPTS, wait_initial=0.5, wait_max=10, timeout=None).on(_passing)
    with hub_errors(repo_id, go_on):
        url = persistent(create)
        persistent(commit)
    return url


def _passing(error: Exception) -> bool:
    """Whether a failure may be gone at the next attempt."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in (408, 409, 412, 429)
    return isinstance(error, httpx2.HTTPError | OSError | RuntimeError) and not isinstance(error, FileNotFoundError)


def record(directory: Path, made: Bundle, repo_id: str, url: str) -> None:
    """Note in the run where it is on the Hub, so that the cards of what was trained from it can say so."""
    write_json(directory / RECORDED, {"repo_type": made.repo_type, "repo_id": repo_id, "url": url})
