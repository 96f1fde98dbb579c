"""P, weights: whether a state_dict travels through files, prefixes and strict loading.

`persistence.CHECKS` lists these checks with the others of the family.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.checkpoint import load_weights, save_checkpoint
from puffer_policies.checks.model import CheckFailed, check
from puffer_policies.checks.probes.rollouts import judged
from puffer_policies.checks.probes.subject import Subject
from puffer_policies.errors import PolicyError


@check(
    "P4",
    "prefixes-are-harmless",
    promise="Weights of a compiled or distributed policy load into a bare one, and back.",
    why="Both torch.compile and DistributedDataParallel put a prefix, `_orig_mod.` or `module.`, "
    "before every key; a policy that rewrites keys loses weights.",
    fix="Rename no keys in state_dict or load hooks, or honour their `prefix` and change the start "
    "of a key only.",
)
def prefixes_are_harmless(subject: Subject) -> None:
    """Carry weights from inside a holder to a bare policy and back, through checkpoints."""
    policy = judged(subject)
    own = policy.state_dict()
    for name in ("module", "_orig_mod"):
        holder, bare = _held(policy, name), judged(subject, seed=2)
        keys = list(holder.state_dict())
        if keys != [f"{name}.{key}" for key in own]:
            raise CheckFailed(f"its keys after {name!r} when it is inside a module", f"{keys[:3]}")
        _try(lambda h=holder: h.load_state_dict(h.state_dict()), f"loading it as {name!r}")  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "policy.safetensors")
            _try(
                lambda p=path, h=holder, b=bare: _move(p, h, b, subject),  # type: ignore[misc]
                f"moving weights out of {name!r}",
            )
            _require_equal(bare.state_dict(), own, f"out of {name!r}")
            other = judged(subject, seed=3)
            _try(
                lambda p=path, o=other, n=name: _move(p, policy, _held(o, n), subject),  # type: ignore[misc]
                f"moving weights into {name!r}",
            )
            _require_equal(other.state_dict(), own, f"into {name!r}")


def _held(policy: nn.Module, name: str) -> nn.Module:
    holder = nn.Module()
    holder.add_module(name, policy)
    return holder


def _move(path: Path, source: nn.Module, target: nn.Module, subject: Subject) -> None:
    save_checkpoint(path, source, env=subject.spaces)
    load_weights(path, target)


def _try(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except (PolicyError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CheckFailed(f"{what} to work", f"{type(error).__name__}: {error}") from error


def _require_equal(found: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    for key, value in expected.items():
        if isinstance(value, Tensor) and not (key in found and torch.equal(found[key], value)):
            raise CheckFailed(f"{key!r} to arrive unchanged {where}", "it is missing or differs")


@check(
    "P5",
    "strict-state-dict",
    promise="Its state_dict loads safely and strictly, and holds every tensor once.",
    why="A tensor under two names is trained once and saved twice; a key that is dropped silently "
    "is a layer that was never loaded.",
    fix="Leave state_dict and load_state_dict to nn.Module, keep plain tensors in them, and share "
    "modules instead of parameters (or declare {'tied': [names]}).",
)
def strict_state_dict(subject: Subject) -> None:
    """Load what it saves into another, with a key more and a key less, and look for twins."""
    policy, other = judged(subject), judged(subject, seed=2)
    state = policy.state_dict()
    hidden = [name for name, _ in policy.named_parameters() if name not in state]
    if hidden:
        raise CheckFailed("every parameter to be in the state_dict", f"{hidden[0]!r} is not")
    loaded: dict[str, Any] = {}
    _try(lambda: loaded.update(through_bytes(state)), "torch.load(weights_only=True)")
    _try(lambda: other.load_state_dict(loaded), "loading its own state_dict")
    _require_equal(other.state_dict(), state, "in a new policy")
    if state:
        short = dict(list(loaded.items())[1:])
        _require_refused(other, {**loaded, "no_such_tensor": torch.zeros(1)}, "an unknown key")
        _require_refused(other, short, "a missing key")
    _require_distinct(state, subject.declared.get("tied", ()))


def _require_refused(policy: nn.Module, state: dict[str, Any], what: str) -> None:
    try:
        policy.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError):
        return
    raise CheckFailed(f"load_state_dict to refuse {what}", "it accepts it silently")


def _require_distinct(state: dict[str, Any], tied: Any) -> None:
    first: dict[Any, str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.numel():
            continue
        place = (value.data_ptr(), tuple(value.shape), value.stride())
        twin = first.setdefault(place, name)
        if twin != name and not {twin, name} & set(tied):
            raise CheckFailed(
                "every tensor under one name in the state_dict", f"{twin!r} and {name!r} are one"
            )


def through_bytes(data: Any) -> Any:
    """Save and load as `torch.load` does it safely."""
    file = io.BytesIO()
    torch.save(data, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
