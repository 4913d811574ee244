"""The Hub's client, and its errors in our words: what the user can mend, and what was cut off on the way."""

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import get_token, validate_repo_id

from eightball_ppo.errors import IncompleteError, InputError

TOKEN_HELP = (
    "make one with the right to write at huggingface.co/settings/tokens and set HF_TOKEN, or run `hf auth login`"
)


@contextlib.contextmanager
def hub_errors(doing: str, go_on: str) -> Iterator[None]:
    """Raises InputError for what the user can mend, and IncompleteError, with `go_on`, where server or line failed."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise InputError(f"{doing}: HF_HUB_OFFLINE is set; unset it to upload") from None
    except LocalTokenNotFoundError:
        raise InputError(f"{doing}: no token; {TOKEN_HELP}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        said = " ".join((error.server_message or str(error)).split())[:200]
        if status == 401:
            raise InputError(f"{doing}: the token is not valid ({said}); {TOKEN_HELP}") from None
        if status == 403:
            raise InputError(f"{doing}: the token may not write there ({said}); {TOKEN_HELP}") from None
        if 400 <= status < 500 and status not in (408, 409, 412, 429):
            raise InputError(f"{doing}: the Hub refuses it ({status}: {said})") from None
        raise IncompleteError(f"{doing}: the Hub failed ({status}: {said}); {go_on}") from None
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: how uploads of large files say it
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise IncompleteError(f"{doing}: the upload was cut off ({said}); {go_on}") from None


def checked_repo_id(repo_id: str, flag: str) -> str:
    """`repo_id`, if it can be one.

    Raises:
        InputError: it cannot.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        said = " ".join(str(error).split())
        raise InputError(f"{flag} {repo_id}: no repository id ({said}); USER/NAME is needed") from None
    return repo_id


def signed_in(repo_id: str, flag: str) -> str:
    """`repo_id` with its owner, after a look at the token: that there is one, that the Hub knows it, that it may write.

    Raises:
        InputError: it cannot be pushed there.
        IncompleteError: the Hub does not answer.
    """
    checked_repo_id(repo_id, flag)
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{flag} {repo_id}: HF_HUB_OFFLINE is set; unset it to upload")
    if get_token() is None:
        raise InputError(f"{flag} {repo_id}: no token; {TOKEN_HELP}")
    with hub_errors(f"{flag} {repo_id}", "try again"):
        me = HfApi().whoami()
    if not _may_write(me):
        raise InputError(f"{flag} {repo_id}: the token of {me['name']} may only read; {TOKEN_HELP}")
    return repo_id if "/" in repo_id else f"{me['name']}/{repo_id}"


def _may_write(me: dict[str, Any]) -> bool:
    """Whether a token may write anywhere; a fine-grained one says where only to the repository itself."""
    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") != "fineGrained":
        return token.get("role") != "read"
    fine = token.get("fineGrained") or {}
    granted = [
        *fine.get("global", []),
        *(one for scope in fine.get("scoped", []) for one in scope.get("permissions", [])),
    ]
    return not granted or any("write" in permission for permission in granted)
