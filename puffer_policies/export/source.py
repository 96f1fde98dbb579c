"""What is exported: a policy, its spaces and its origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from puffer_policies.assembly.checkpoint import header_of, read_checkpoint
from puffer_policies.assembly.header import Header, require_spaces
from puffer_policies.contract import LSTM_STATE
from puffer_policies.errors import BuildError, ExportError, PolicyError
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.registry import Registry
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.spaces.data import default_text
from puffer_policies.wrappers.base import actor_of


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A policy, with what a file tells about it."""

    policy: nn.Module
    spaces: Spaces
    header: Header
    """As a checkpoint holds it."""
    has_values: bool = True
    """False of an actor whose critic sees more than it does, and so is left out."""

    @property
    def name(self) -> str:
        """The policy in words, for errors."""
        return str(self.header.spec or type(self.policy).__name__)

    def about(self) -> dict[str, Any]:
        """Return what a file tells about the policy, as plain data."""
        data = json.loads(self.header.to_json())
        keys = ("spec", "spaces", "observation_space", "action_space", "training", "versions")
        about = {key: data[key] for key in keys}
        env_name = self.header.config.get("env_name")
        return {**about, "env_name": env_name} if env_name else about


def source_of(
    policy_or_path: nn.Module | Location,
    env: Any = None,
    *,
    best: bool = False,
    registry: Registry | None = None,
) -> Source:
    """Return the source that is a policy, or stands in a checkpoint. See `export_policy`."""
    if isinstance(policy_or_path, nn.Module):
        policy = policy_or_path
        spaces = getattr(policy, "spaces", None) if env is None else env
        if spaces is None:
            raise BuildError(
                f"{type(policy).__name__} does not say for which spaces it was built.",
                fix="Pass the env as well: export_policy(policy, path, env=env).",
            )
        spaces = spaces_of(spaces)
        return _source(policy, spaces, header_of(policy, env=spaces, registry=registry))
    path = checkpoint_of(policy_or_path, best=best, registry=registry)
    checkpoint = read_checkpoint(path)
    spaces = require_spaces(checkpoint.header, path) if env is None else spaces_of(env)
    policy = checkpoint.build_policy(spaces, registry=registry)
    _require_known_memory(policy, checkpoint.header)
    return _source(policy, spaces, checkpoint.header)


def _source(policy: nn.Module, spaces: Spaces, header: Header) -> Source:
    actor = actor_of(policy, spaces)
    if actor.is_part:
        observation = actor.spaces.observation
        text = default_text(observation)
        header = replace(header, observation=observation, observation_space=text)
    return Source(actor.policy, actor.spaces, header, has_values=not actor.is_part)


def _require_known_memory(policy: nn.Module, header: Header) -> None:
    train = header.config.get("train")
    declared = isinstance(train, Mapping) and train.get("use_rnn") is True
    if declared and not callable(getattr(policy, "initial_state", None)):
        raise unknown_memory(type(policy).__name__)


def unknown_memory(name: str) -> ExportError:
    """Return the error for a memory of PufferLib's form, which does not declare its state."""
    return ExportError(
        f"{name} can't be exported: it has a memory, and no 'initial_state' that says what is in "
        "it.",
        fix="Give it initial_state(batch_size, device), or use LSTMWrapper around it.",
    )


def exported(source: Source, make: Callable[[], Any]) -> Any:
    """Return what `make` returns; whatever it raises is an error that names the policy."""
    try:
        return make()
    except ExportError:
        raise
    except PolicyError as error:
        raise ExportError(
            f"{source.name} can't be exported: {error.problem}", fix=error.fix
        ) from error
    except KeyError as error:
        # A memory of this form reads keys that only a declared state would have put there.
        if error.args[:1] and error.args[0] in LSTM_STATE:
            raise unknown_memory(source.name) from error
        raise refused(source, "its step can't be recorded", error) from error
    except Exception as error:
        raise refused(source, "its step can't be recorded", error) from error


def refused(source: Source, problem: str, error: Exception) -> ExportError:
    """Return the error for a step that can't be recorded, or not for any number of rows."""
    # The first line names the fault; those after it are torch's own frames and advice.
    lines = [each.strip() for each in str(error).splitlines() if each.strip()]
    reason = f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
    return ExportError(
        f"{source.name} can't be exported: {problem} ({reason}).",
        fix="Keep the step a function of tensors, without a branch on their numbers, and use "
        "tensor.shape[0] instead of len(tensor), which fixes the number of rows.",
    )
