"""Pushes a finished run: prints the files, creates the repository, uploads all files in one commit."""

import shlex
from pathlib import Path

import stamina
from huggingface_hub import CommitOperationAdd, HfApi, constants
from rich.console import Console
from rich.table import Table

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.tools import PushConfig
from eightball_ppo.errors import InputError
from eightball_ppo.hub.access import check_repo_id, check_write_access, hub_errors, is_transient
from eightball_ppo.hub.bundles import Bundle, bundle
from eightball_ppo.hub.cards import PUSH_RECORD
from eightball_ppo.hub.spaces import space_bundle
from eightball_ppo.report.tables import escape
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import is_main_process

MAX_ATTEMPTS = 3
_FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def run(config: PushConfig) -> None:
    """Pushes the runs of `config`; a dry run only prints the files, without network access.

    Raises:
        InputError: A run is not finished, the repository id is invalid, or the token may not write there.
        IncompleteError: The Hub or the connection failed; the same command resumes the upload.
    """
    repo_id = config.repo_id
    check_repo_id(repo_id, "--repo_id")
    directories = [Path(name).expanduser() for name in config.run_dirs]
    if not config.dry_run:
        repo_id = check_write_access(repo_id, "--repo_id")
    content = _content(config, directories, repo_id)
    print_files(content, repo_id, config.hub_private_repo)
    if config.dry_run:
        print("dry run: nothing was uploaded")
        return
    url = upload(content, repo_id, config.hub_private_repo, _resume_hint(config))
    if not config.space:
        # the cards of models that are trained from this run name the repository
        record = {"repo_type": content.repo_type, "repo_id": repo_id, "url": url}
        write_json(directories[0] / PUSH_RECORD, record)
    print(f"pushed {' '.join(config.run_dirs)} -> {url}")


def _content(config: PushConfig, directories: list[Path], repo_id: str) -> Bundle:
    if config.space:
        return space_bundle(directories, repo_id, config.trust_remote_code)
    comparison = None if config.comparison is None else Path(config.comparison)
    return bundle(directories[0], repo_id, comparison, config.trust_remote_code)


def check_stage(config: RunConfig) -> None:
    """Raises InputError before a stage with `push_to_hub` begins, if its run could not be pushed."""
    if config.push_to_hub and config.hub_model_id is None:
        raise InputError("--push_to_hub: to which repository? pass --hub_model_id USER/NAME")
    if config.push_to_hub and is_main_process():
        check_write_access(str(config.hub_model_id), "--hub_model_id")


def push_stage(config: RunConfig) -> None:
    """Pushes the finished run of a stage with `push_to_hub`."""
    if config.push_to_hub and is_main_process():
        assert config.hub_model_id is not None
        options = PushConfig(run_dirs=[config.output_dir], repo_id=config.hub_model_id)
        options.hub_private_repo, options.trust_remote_code = config.hub_private_repo, config.trust_remote_code
        run(options)


def _resume_hint(config: PushConfig) -> str:
    command = ["eightball", "push", *config.run_dirs, "--repo_id", config.repo_id]
    command += ["--space"] if config.space else []
    command += ["--comparison", config.comparison] if config.comparison is not None else []
    command += [] if config.hub_private_repo else ["--hub_private_repo", "False"]
    return f"the run is complete and uploaded files are kept; resume with: {shlex.join(command)}"


def print_files(content: Bundle, repo_id: str, private: bool) -> None:
    """Prints the repository and its files; one line for a Space's copy of this package."""
    where = f"{constants.ENDPOINT}/{_FOLDERS[content.repo_type]}{repo_id}"
    print(f"to {where} ({content.repo_type}, {'private' if private else 'public'} if it is new):")
    table = Table("file", "bytes")
    package = [name for name in content.files if name.startswith("eightball_ppo/")]
    for name in content.files:
        if name not in package:
            table.add_row(escape(name), f"{content.size(name):,}")
    if package:
        table.add_row(f"eightball_ppo/ ({len(package)} files)", f"{sum(map(content.size, package)):,}")
    Console(width=None if Console().is_terminal else 120).print(table)


def upload(content: Bundle, repo_id: str, private: bool, resume_hint: str) -> str:
    """Creates the repository if it does not exist and commits all files at once, with retries.

    The Hub skips files that it already has, so that a second push resumes an interrupted one.

    Returns:
        The URL of the repository.

    Raises:
        InputError: As `hub_errors`.
        IncompleteError: As `hub_errors`.
    """
    api = HfApi(library_name="eightball-ppo")

    def create() -> str:
        sdk = "gradio" if content.repo_type == "space" else None
        return str(api.create_repo(repo_id, private=private, repo_type=content.repo_type, exist_ok=True, space_sdk=sdk))

    def commit() -> None:
        files = [CommitOperationAdd(name, content) for name, content in content.files.items()]
        api.create_commit(repo_id, files, commit_message="Upload by eightball-ppo", repo_type=content.repo_type)

    retry = stamina.RetryingCaller(attempts=MAX_ATTEMPTS, wait_initial=0.5, wait_max=10, timeout=None).on(is_transient)
    with hub_errors(repo_id, resume_hint):
        url = retry(create)
        retry(commit)
    return url
