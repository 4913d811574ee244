"""Access to the Hub: checks of repository ids and tokens, and the Hub's errors as messages that say what to do."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from eightball_ppo.errors import IncompleteError, InputError

TOKEN_HELP = (
    "make one with the right to write at huggingface.co/settings/tokens and set HF_TOKEN, or run `hf auth login`"
)
RETRY_STATUS = (408, 409, 412, 429)


@contextlib.contextmanager
def hub_errors(action: str, resume_hint: str) -> Iterator[None]:
    """Maps the Hub's errors to ours.

    Raises:
        InputError: The user can fix the cause.
        IncompleteError: The server or the connection failed; the message ends with `resume_hint`.
    """
    try:
        yield
    except OfflineModeIsEnabled:
        raise InputError(f"{action}: HF_HUB_OFFLINE is set; unset it to upload") from None
    except LocalTokenNotFoundError:
        raise InputError(f"{action}: no token; {TOKEN_HELP}") from None
    except HfHubHTTPError as error:
        status, message = error.response.status_code, _one_line(error.server_message or error)
        if status == 401:
            raise InputError(f"{action}: the token is not valid ({message}); {TOKEN_HELP}") from None
        if status == 403:
            raise InputError(f"{action}: the token may not write there ({message}); {TOKEN_HELP}") from None
        if not is_transient(error):
            raise InputError(f"{action}: the Hub refuses it ({status}: {message})") from None
        raise IncompleteError(f"{action}: the Hub failed ({status}: {message}); {resume_hint}") from None
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: raised by uploads of large files
        message = _one_line(error) or type(error).__name__
        raise IncompleteError(f"{action}: the upload was interrupted ({message}); {resume_hint}") from None


def is_transient(error: Exception) -> bool:
    """Whether the next attempt may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in RETRY_STATUS
    return isinstance(error, httpx2.HTTPError | OSError | RuntimeError) and not isinstance(error, FileNotFoundError)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]


def check_repo_id(repo_id: str, flag: str) -> None:
    """Raises InputError if `repo_id` is not a valid repository id."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{flag} {repo_id}: no repository id ({_one_line(error)}); pass USER/NAME") from None


def check_write_access(repo_id: str, flag: str) -> str:
    """Checks the token against the Hub.

    Returns:
        `repo_id` with its owner.

    Raises:
        InputError: The repository id is invalid, or the token is missing, unknown or read-only.
        IncompleteError: The Hub does not answer.
    """
    check_repo_id(repo_id, flag)
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{flag} {repo_id}: HF_HUB_OFFLINE is set; unset it to upload")
    with hub_errors(f"{flag} {repo_id}", "try again"):
        user = HfApi().whoami()
    if not _may_write(user):
        raise InputError(f"{flag} {repo_id}: the token of {user['name']} may only read; {TOKEN_HELP}")
    return repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"


def _may_write(user: dict[str, Any]) -> bool:
    """Whether the token may write anywhere; only an upload shows whether a fine-grained one may write here."""
    token = (user.get("auth") or {}).get("accessToken") or {}
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    scopes = token.get("fineGrained") or {}
    granted = list(scopes.get("global", []))
    for scope in scopes.get("scoped", []):
        granted += scope.get("permissions", [])
    return not granted or any("write" in permission for permission in granted)
