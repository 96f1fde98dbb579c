"""The contract of a policy: its methods as a Protocol, its state keys, and what a class lacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from puffer_policies.errors import ContractError
from puffer_policies.foreign import error_text, foreign_code

if TYPE_CHECKING:
    from torch import Tensor, nn

EPISODE_START = "episode_start"
"""State key: bool (B,) or (B, T), true where the observation is the first of an episode."""

ACTION_MASK = "action_mask"
"""State key: bool (B, A) or (B, T, A), true where an option is allowed; A counts all options.
A policy may read it; one whose record has ``needs_mask`` requires it."""

NEEDS_MASK = "needs_mask"
"""Attribute of a module that reads the mask, so that trainers send it; absent means False. The
builder sets it where the record has this capability, as it does `NEEDS_PREVIOUS`."""

PREV_ACTION, PREV_REWARD = "prev_action", "prev_reward"
"""State keys: the last action as the policy drew it, (B, ...) or (B, T, ...), and its raw reward,
(B,) or (B, T). Where ``episode_start`` is true they belong to the last episode and are ignored."""

NEEDS_PREVIOUS = "needs_previous"
"""Attribute of a module that reads them, so that trainers send them; absent means False."""

PRIVILEGED_KEYS = "privileged_keys"
"""Attribute of a module: the keys of a Dict observation that its critic sees and its actor does
not; absent means none."""

CRITIC_STATE = "critic_"
"""What the state keys of a critic's own memory begin with, such as ``critic_lstm_h``."""

LSTM_STATE = ("lstm_h", "lstm_c")
"""State keys that PufferLib's trainer carries from step to step."""

State = MutableMapping[str, Any]
"""The recurrent carry of a batch: tensors with the batch first, mutated by a step."""


@runtime_checkable
class Policy(Protocol):
    """A policy of PufferLib 3.0's structured form. `B` batch, `T` time, `N` = B or B*T, `H` hidden.

    Two plain attributes complete it: ``is_continuous`` (bool) and ``hidden_size`` (int).
    They stay out of the Protocol, whose runtime check of non-methods differs between Pythons.
    """

    def encode_observations(self, observations: Any, state: State | None = None) -> Tensor:
        """(N, *obs) in any dtype of the space -> hidden (N, H) float32."""
        ...

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, H) -> logits, values (N, 1).

        logits: a Tensor (N, n) for Discrete; a tuple of Tensors for MultiDiscrete and MultiBinary;
        ``torch.distributions.Normal`` for Box; for Dict and Tuple a dict or a tuple with those of
        each part, under its key or in its place.
        """
        ...

    def forward_eval(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """One step: (B, *obs) -> logits, values (B, 1). A recurrent policy mutates `state`."""
        ...

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """Training: (B, *obs) or (B, T, *obs) -> logits flat (B*T, ...), values.

        values: (B, T) if recurrent, else (N, 1).
        """
        ...


REQUIRED = {
    "encode_observations": ("observations", "state"),
    "decode_actions": ("hidden",),
    "forward_eval": ("observations", "state"),
    "forward": ("observations", "state"),
}
"""The parameter names of every method, after ``self``."""

ATTRIBUTES = {"is_continuous": bool, "hidden_size": int}


def any_module_has(policy: nn.Module, need: str) -> bool:
    """Return whether a module has an attribute that is set, such as `NEEDS_MASK`."""
    return any(getattr(module, need, False) for module in policy.modules())


def missing_members(policy: object) -> list[str]:
    """Return every offence of a policy class, or of a policy, against the contract; empty if none.

    Of a class the methods are compared, of an instance the attributes as well. Nothing is called
    but what answers for an attribute, such as a property or a ``__getattr__``.
    """
    readers: list[tuple[str, Callable[[], str]]] = [
        (name, partial(_method_offence, policy, name, parameters))
        for name, parameters in REQUIRED.items()
    ]
    if not isinstance(policy, type):
        readers += [
            (name, partial(_attribute_offence, policy, name, kind))
            for name, kind in ATTRIBUTES.items()
        ]
    return [offence for name, read in readers if (offence := _offence(name, read))]


def require_members(policy: object, *, name: str) -> None:
    """Raise one `ContractError` that lists every offence of `policy`, called `name` in the text."""
    offences = missing_members(policy)
    if offences:
        listed = "\n".join(f"  - {offence}" for offence in offences)
        raise ContractError(
            f"{name!r} does not keep the policy contract:\n{listed}",
            fix="docs/contract.md describes each member; subclass nn.actor_critic.ActorCritic to "
            "inherit them.",
        )


def _offence(name: str, read: Callable[[], str]) -> str:
    """Return an offence, or that asking for the member failed: a metaclass may raise anything."""
    try:
        with foreign_code(f"reading {name}", _Unreadable):
            return read()
    except _Unreadable as error:
        return f"{name} can't be read: {error_text(error.args[0])}"


class _Unreadable(Exception):
    """A member that raises when it is asked for."""


def _method_offence(policy: object, name: str, parameters: tuple[str, ...]) -> str:
    expected = _call_text(name, parameters)
    method = getattr(policy, name, None)
    # nn.Module gives every subclass a `forward` that only raises.
    if not callable(method) or getattr(method, "__name__", name) == "_forward_unimplemented":
        return f"no method {expected}"
    try:
        signature = inspect.signature(method)
    except (ValueError, TypeError):
        return ""  # a compiled method has no signature: only a call can tell
    return _signature_offence(signature, name, parameters, bound=not isinstance(policy, type))


def _signature_offence(
    signature: inspect.Signature, name: str, parameters: tuple[str, ...], *, bound: bool
) -> str:
    """Say how a call ``method(observations, state=state)`` would fail, or return ''."""
    # PufferLib and our trainer pass the observations by position and the state by name.
    kwargs = {p: None for p in parameters if p == "state"}
    args: list[None] = [None] * (len(parameters) - len(kwargs) + (not bound))
    # With the state and without it, as callers do both.
    try:
        signature.bind(*args, **kwargs)
        signature.bind(*args)
    except TypeError as error:
        return f"{name}{signature} can't be called as {_call_text(name, parameters)}: {error}"
    return ""


def _call_text(name: str, parameters: tuple[str, ...]) -> str:
    spelling = ("state=None" if each == "state" else each for each in parameters)
    return f"{name}({', '.join(spelling)})"


def _attribute_offence(policy: object, name: str, kind: type) -> str:
    if not hasattr(policy, name):
        return f"no attribute {name} ({kind.__name__})"
    value = getattr(policy, name)
    # To Python, True is an int as well.
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    return "" if good else f"{name} should be {kind.__name__}, got {value!r}"
