"""The Hugging Face Hub: ``hf://org/name@revision`` becomes a file here, and a folder a repo there.

Only the Hub's functions for files are used. Its `ModelHubMixin` would take weights that fit only in
part, and reads pickles where there is nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote

from puffer_policies.errors import CheckpointError, did_you_mean, short
from puffer_policies.foreign import error_text, import_optional

SCHEME = "hf://"
MODEL = "model.safetensors"
"""The file that ``hf://org/name`` stands for: the Hub shows the sizes of its tensors."""

FORM = "hf://org/name, hf://org/name@revision or hf://org/name@revision/file.safetensors"

_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_LONGEST_REPO = 96
# The only revisions with a slash that the Hub writes unquoted.
_REFERENCE = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)")


@dataclass(frozen=True, slots=True)
class HubLocation:
    """A file in a repo of the Hub."""

    repo: str
    """``org/name``."""
    revision: str = ""
    """A branch, a tag or a commit; the repo's main branch if empty."""
    file: str = MODEL

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``hf://org/name[@revision][/file]``, the form of huggingface_hub's own URIs.

        Raises:
            CheckpointError: it is of another form.
        """
        org, _, rest = text.removeprefix(SCHEME).partition("/")
        if "@" in rest.partition("/")[0]:
            name, _, rest = rest.partition("@")
            reference = _REFERENCE.match(rest)
            revision = reference[0] if reference else unquote(rest.partition("/")[0])
            file = rest[reference.end() :] if reference else rest.partition("/")[2]
            if not revision:
                raise CheckpointError(f"{text} has no revision after '@'.", fix=f"Write {FORM}.")
        else:
            name, _, file = rest.partition("/")
            revision = ""
        require_repo(f"{org}/{name}", text)
        return cls(f"{org}/{name}", revision, file.strip("/") or MODEL)

    def __str__(self) -> str:
        is_reference = _REFERENCE.fullmatch(self.revision)
        revision = self.revision if is_reference else quote(self.revision, safe="")
        at = f"@{revision}" if revision else ""
        file = "" if self.file == MODEL else f"/{self.file}"
        return f"{SCHEME}{self.repo}{at}{file}"


def require_repo(repo: str, source: str = "") -> None:
    """Refuse what is not the name of a repo.

    Raises:
        CheckpointError: it is not ``org/name``; `source` is the text that it stands in.
    """
    if not _REPO.fullmatch(repo) or len(repo) > _LONGEST_REPO:
        place = f" in {short(source)}" if source else ""
        raise CheckpointError(
            f"{short(repo)}{place} is not the name of a repo, which is org/name, of letters, "
            "digits, '-', '_' and '.'.",
            fix=f"Write {FORM}." if source else "Give it as 'org/name', or 'user/name'.",
        )


def download(location: HubLocation) -> Path:
    """Return the path of a file of the Hub, in the cache that all of the Hub's programs share.

    The Hub is asked whether the cached copy is the revision's. Where it can't be reached, the
    cached copy serves.

    Raises:
        MissingDependency: huggingface_hub is not installed.
        CheckpointError: there is no such repo, revision or file, or it can't be had.
    """
    api = _api()
    place = {"repo_id": location.repo, "filename": location.file}
    place |= {"revision": location.revision} if location.revision else {}
    with _explained(api, location):
        _require_answer(api, place)
        path = api.hf_hub_download(**place)
    return Path(path)


def _require_answer(api: Any, place: Mapping[str, str]) -> None:
    """Ask once for a file that is not in the cache: the library would ask for half a minute.

    Raises:
        LocalEntryNotFoundError: nothing answers; its cause says why.
    """
    hub = import_optional("huggingface_hub", **_NEEDED)
    try:
        api.hf_hub_download(**place, local_files_only=True)
    except hub.errors.LocalEntryNotFoundError as missing:
        try:
            api.get_hf_file_metadata(url=hub.hf_hub_url(**place, endpoint=api.endpoint))
        except hub.errors.HfHubHTTPError:
            pass  # an answer; the download gets it, too, and tries again where that may help
        except Exception as error:  # the classes of its network library change between versions
            raise missing from error


def upload(
    folder: Path,
    repo: str,
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
    replaced: Iterable[str] = (),
) -> HubLocation:
    """Upload the files of a folder to a repo, which is created if it is missing, in one commit.

    Args:
        folder: all of its files are uploaded.
        repo: ``org/name``.
        message: that of the commit.
        private: whether a repo that is created is private; by the rule of its owner if None.
        token: that of an account that may write there; the one that is logged in if None.
        replaced: patterns of files that leave the repo where `folder` has none in their place.

    Returns:
        Where its model is, at the new commit.

    Raises:
        MissingDependency: huggingface_hub is not installed.
        CheckpointError: `repo` is not the name of one, there is no token, or the Hub refuses.
    """
    require_repo(repo)
    api = _api(token)
    if not (token or import_optional("huggingface_hub", **_NEEDED).get_token()):
        raise CheckpointError(
            f"{repo} can't be written: there is no token of an account of {api.endpoint}.",
            fix="Log in by 'hf auth login', or set HF_TOKEN, to a token that may write.",
        )
    with _explained(api, HubLocation(repo)):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(replaced) or None,
        )
    return HubLocation(repo, commit.oid)


_NEEDED = {"extra": "hub", "purpose": "The Hugging Face Hub"}


def _api(token: str | None = None) -> Any:
    hub = import_optional("huggingface_hub", **_NEEDED)
    # The library reads the variable once, when it is imported.
    return hub.HfApi(
        endpoint=os.environ.get("HF_ENDPOINT") or None, token=token, library_name="puffer-policies"
    )


@contextmanager
def _explained(api: Any, location: HubLocation) -> Iterator[None]:
    """Turn whatever the Hub's library raises into words.

    Raises:
        CheckpointError: in place of any error.
    """
    errors = import_optional("huggingface_hub.errors", **_NEEDED)
    repo, page = location.repo, f"{api.endpoint}/{location.repo}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is shared with those alone who have accepted its terms.",
            fix=f"Accept them at {page}, and log in by 'hf auth login' or HF_TOKEN.",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"There is no repo {repo} at {api.endpoint}, or it is private.",
            fix="Check the name. For a private one, log in by 'hf auth login', or set HF_TOKEN.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"{repo} has no revision {location.revision!r}.",
            fix=f"Give a branch, a tag or a whole commit of {page}, or leave it out.",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{location} can't be had: the Hub at {api.endpoint} can't be reached, and there is no "
            f"copy in the cache. {_reason(error)}".rstrip(),
            fix="Check the network, and HF_ENDPOINT and HF_HUB_OFFLINE if they are set.",
        ) from error
    except errors.EntryNotFoundError as error:
        at = f" at {location.revision}" if location.revision else ""
        raise CheckpointError(
            f"{repo}{at} holds no {location.file}.", fix=_files_hint(api, location)
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refusal(api, location, error) from error
    except Exception as error:  # the classes of its network library change between versions
        raise CheckpointError(
            f"{location}: the exchange with the Hub at {api.endpoint} failed. {error_text(error)}",
            fix="Check the network, and HF_ENDPOINT if it is set.",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the error behind one of the library's, which says what did not answer."""
    return error_text(error.__cause__) if error.__cause__ else ""


def _refusal(api: Any, location: HubLocation, error: Any) -> CheckpointError:
    """Return the error of an answer of the Hub's that has no class of its own."""
    status = getattr(error.response, "status_code", 0)
    text = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    if status in (401, 403):
        return CheckpointError(
            f"The Hub at {api.endpoint} refuses {location.repo} to this token ({status}): {text}",
            fix="Log in by 'hf auth login', or set HF_TOKEN, to a token that may do so; or give "
            "the name of an account or an organization of yours.",
        )
    return CheckpointError(f"The Hub at {api.endpoint} answers {status} for {location}: {text}")


def _files_hint(api: Any, location: HubLocation) -> str:
    """Name the checkpoints that a repo has instead."""
    try:
        files = api.list_repo_files(location.repo, revision=location.revision or None)
    except Exception:  # the hint is not worth another error
        return ""
    checkpoints = sorted(each for each in files if each.endswith(".safetensors"))
    if not checkpoints:
        return "It holds no .safetensors file at all: other weights are not read."
    near = did_you_mean(location.file, checkpoints)
    first = HubLocation(location.repo, location.revision, checkpoints[0])
    return f"{near} It holds {', '.join(checkpoints)}: write {first}.".strip()
