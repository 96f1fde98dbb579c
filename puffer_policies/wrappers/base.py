"""The base classes of wrappers: explicit delegation, and the one recurrent forward pass.

`B` batch, `T` time, `N` = B or B*T, `H` hidden size. A wrapper owns its own parameters only: it
never initializes, casts or freezes what it wraps, and it delegates members by name.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START, PRIVILEGED_KEYS, State, any_module_has
from puffer_policies.errors import BuildError, ContractError
from puffer_policies.nn.cores.base import Core
from puffer_policies.nn.fixed import (
    Decode,
    Encode,
    Eval,
    fixed_eval,
    fixed_parts,
    overrides,
)
from puffer_policies.nn.observations import (
    BatchLayout,
    Shape,
    batch_layout,
    members_of,
    require_readable,
    require_tensor,
)
from puffer_policies.spaces import Spaces, spaces_of


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """What acts by itself in a policy, and what it needs of an observation."""

    policy: nn.Module
    spaces: Spaces
    is_part: bool = False
    """Whether the rest is a critic with observations of its own; then there are no values."""

    def see(self, observations: Any) -> Any:
        """Return what the actor needs of observations: a dict without the keys of the critic."""
        if not (self.is_part and isinstance(observations, Mapping)):
            return observations
        keys = members_of(self.spaces.observation)
        return {key: each for key, each in observations.items() if key in keys}


def actor_of(policy: nn.Module, spaces: Spaces) -> Actor:
    """Return what acts in a policy for `spaces`: all of it, but for a critic that sees more."""
    alone: Callable[[], Actor] | None = getattr(policy, "actor_alone", None)
    return Actor(policy, spaces) if alone is None else alone()


class PolicyWrapper(nn.Module):
    """A policy that delegates to the policy that it holds.

    A subclass changes observations by `transform_observations` and logits by `transform_logits`. It
    needs no forward of its own, and works inside a memory as outside. In one pass both get the same
    state dict, never None. A stack is recurrent if ``hasattr(wrapper, "initial_state")``.
    """

    memory_inside = False
    """Whether a memory may only be inside this wrapper, as one around it would mix its parts."""

    def __init__(self, env: Any, policy: nn.Module) -> None:
        super().__init__()
        _require_structure(policy, type(self).__name__)
        self.spaces = spaces_of(env)
        require_readable(self.spaces.observation)
        _require_separable(policy, type(self))
        self.policy = policy
        self.hidden_size: int | None = getattr(policy, "hidden_size", None)
        # PufferLib's guide has policies for discrete actions without the attribute; those for
        # continuous ones set it, as PufferLib's trainer reads it there. So absent means False.
        self.is_continuous = bool(getattr(policy, "is_continuous", False))

    @property
    def unwrapped(self) -> nn.Module:
        """The policy inside all wrappers."""
        inner: nn.Module = getattr(self.policy, "unwrapped", self.policy)
        return inner

    @property
    def initial_state(self) -> Any:
        """The method of the wrapped policy; absent, as an attribute, if that has no memory."""
        return self.policy.initial_state

    def actor_alone(self) -> Actor:
        """Return what acts: this stack, without a critic inside that sees more than the actor."""
        alone = actor_of(self.policy, self.spaces)
        if not alone.is_part:
            return Actor(self, self.spaces)
        # A copy that shares every weight, around the actor.
        twin = copy.copy(self)
        twin._modules = {**self._modules, "policy": alone.policy}
        twin.spaces = Spaces(alone.spaces.observation, self.spaces.action)
        return replace(alone, policy=twin, spaces=twin.spaces)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """Return the wrapped policy's observations: here the same. (N, *obs) or (B, T, *obs)."""
        return observations

    def transform_logits(self, logits: Any, state: State | None) -> Any:
        """Return the logits for the caller: here the same as those of the wrapped policy.

        Logits have N rows; the tensors in `state` have (B, ...) or (B, T, ...).
        """
        return logits

    def finish_logits(self, logits: Any, state: State | None) -> Any:
        """Transform the logits of `decode_actions` by every wrapper, from the innermost to this."""
        finish = getattr(self.policy, "finish_logits", None)
        return self.transform_logits(logits if finish is None else finish(logits, state), state)

    def update_statistics(self, observations: Any) -> None:
        """Add observations (N, *obs) to the running statistics of the parts that have some.

        Trainers call it between an update and the next rollout, with the observations of the env.
        Each wrapper transforms them and delegates to the policy inside it.
        """
        update = getattr(self.policy, "update_statistics", None)
        if update is not None:
            update(self.transform_observations(observations, {}))

    def encode_observations(self, observations: Any, state: State | None = None) -> Tensor:
        """(N, *obs) -> hidden (N, H) of the wrapped policy."""
        observations = self.transform_observations(observations, state)
        hidden: Tensor = self.policy.encode_observations(observations, state=state)  # type: ignore[operator]
        return hidden

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, H) -> logits, values (N, 1) of the wrapped policy."""
        decoded: tuple[Any, Tensor] = self.policy.decode_actions(hidden)  # type: ignore[operator]
        return decoded

    def forward_eval(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """One step of the wrapped policy: (B, *obs) -> logits, values (B, 1)."""
        inner: Eval = self.policy.forward_eval  # type: ignore[assignment]
        return self._eval(inner, observations, state)

    def fixed_eval(self, *, may_wait: bool = False) -> Eval:
        """Return `forward_eval` without gradient and at less cost, see `nn.fixed`."""
        if overrides(self, PolicyWrapper, "forward_eval"):
            return self.forward_eval
        return partial(self._eval, fixed_eval(self.policy, may_wait=may_wait))

    def _eval(
        self, inner: Eval, observations: Any, state: State | None = None
    ) -> tuple[Any, Tensor]:
        state = {} if state is None else state
        observations = self.transform_observations(observations, state)
        logits, values = inner(observations, state=state)
        return self.transform_logits(logits, state), values

    def fixed_parts(self) -> tuple[Encode, Decode]:
        """Return `encode_observations` and `decode_actions` likewise."""
        encode, decode = fixed_parts(self.policy)
        if overrides(self, PolicyWrapper, "encode_observations", "transform_observations"):
            encode = self.encode_observations
        if overrides(self, PolicyWrapper, "decode_actions"):
            decode = self.decode_actions
        return encode, decode

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """Training pass of the wrapped policy: (B, *obs) or (B, T, *obs) -> logits, values."""
        state = {} if state is None else state
        observations = self.transform_observations(observations, state)
        logits, values = self.policy(observations, state=state)
        return self.transform_logits(logits, state), values


class RecurrentPass(nn.Module):
    """The recurrent forward pass of every core, between an encoder and heads.

    The state dict is PufferLib's: mutated in place, other keys left alone; a core's key that is
    missing or None means the initial state. ``state["episode_start"]``, if there, is true where an
    observation is the first of its episode, and resets the row *before* the step. PufferLib's own
    trainer never sends it and never resets. State is written back detached: gradients do not flow
    from one segment of a rollout into the one before.

    A subclass has `encode_observations`, `decode_actions` and these parts.
    """

    core: Core
    _layout: BatchLayout

    def finish_logits(self, logits: Any, state: State | None) -> Any:
        """Return the logits for the caller: here those of `decode_actions`."""
        return logits

    def initial_state(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        """Return the state before the first step: tensors with `batch_size` rows."""
        return self.core.initial_state(batch_size, device)

    def forward_eval(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """One step: (B, *obs) -> logits of B rows, values (B, 1); `state` is brought up to date."""
        encode: Encode = self.encode_observations  # type: ignore[assignment]
        decode: Decode = self.decode_actions  # type: ignore[assignment]
        return self._step(encode, decode, self.finish_logits, observations, state)

    def fixed_eval(self, *, may_wait: bool = False) -> Eval:
        """Return `forward_eval` without gradient and at less cost, see `nn.fixed`."""
        if overrides(self, RecurrentPass, "forward_eval"):
            return self.forward_eval
        finish = None if self._leaves_logits() else self.finish_logits
        encode, decode = fixed_parts(self)
        return partial(self._step, encode, decode, finish, may_wait=may_wait)

    def _leaves_logits(self) -> bool:
        """Return whether `finish_logits` returns the logits that it gets."""
        return not overrides(self, RecurrentPass, "finish_logits")

    def _step(
        self,
        encode: Encode,
        decode: Decode,
        finish: Callable[[Any, State], Any] | None,
        observations: Any,
        state: State | None = None,
        *,
        may_wait: bool = False,
    ) -> tuple[Any, Tensor]:
        state, core = {} if state is None else state, self.core
        hidden = encode(observations, state)  # (B, I)
        rows = hidden.shape[0]  # not len(hidden), which would fix the rows of an export
        carried = _read_state(core, state, rows, hidden.device)
        starts = episode_starts(state, (rows,), hidden.device)
        # On a CPU looking for a start costs a sixth of a reset.
        if starts is not None and not (may_wait and starts.is_cpu and not starts.any()):
            carried = core.reset(carried, starts)
        hidden, carried = core.step(hidden, carried)  # (B, H)
        _write_state(state, carried)
        logits, values = decode(hidden)
        return logits if finish is None else finish(logits, state), values

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """Training: (B, *obs) or (B, T, *obs) -> logits of B*T rows, values (B, T); row b*T + t."""
        state = {} if state is None else state
        rows, batch = self._layout.flatten(observations)  # (N, *obs)
        batch_size, time = batch if len(batch) == 2 else (*batch, 1)
        hidden = self.encode_observations(rows, state)  # type: ignore[operator]  # (N, I)
        hidden = hidden.reshape(batch_size, time, self.core.input_size)  # (B, T, I)
        carried = _read_state(self.core, state, batch_size, hidden.device)
        starts = episode_starts(state, (batch_size, time), hidden.device)
        hidden, carried = self.core(hidden, carried, starts)  # (B, T, H)
        _write_state(state, carried)
        logits, values = self.decode_actions(hidden.flatten(0, 1))  # type: ignore[operator]  # (N, ...)
        # A value head may give its outputs (N, K) instead, see `nn.value_heads`.
        shape = (
            (batch_size, time) if values.numel() == batch_size * time else (batch_size, time, -1)
        )
        return self.finish_logits(logits, state), values.reshape(shape)


class RecurrentWrapper(RecurrentPass, PolicyWrapper):
    """A memory between a policy's encoder and its heads."""

    finish_logits = PolicyWrapper.finish_logits  # as there may be wrappers inside

    def _leaves_logits(self) -> bool:
        is_own = overrides(self, PolicyWrapper, "finish_logits", "transform_logits")
        return not is_own and not hasattr(self.policy, "finish_logits")

    def __init__(self, env: Any, policy: nn.Module, core: Core) -> None:
        super().__init__(env, policy)
        if hasattr(policy, "initial_state"):
            raise BuildError(
                f"{type(policy).__name__!r} has a memory already; {type(self).__name__!r} adds one "
                "to a policy without.",
                fix="Wrap the policy inside, or give that memory more layers.",
            )
        _require_no_parts(policy, type(self).__name__)
        self.core = core
        self.hidden_size = core.hidden_size
        self._layout = batch_layout(self.spaces.observation)


class MemoryWrapper(RecurrentWrapper):
    """A policy with a memory, declared by the core that it holds: ``core=GRUCore``.

    The options of a memory are written once, as parameters of its core after the two sizes. The
    wrapper's signature lists them as keywords, with the core's defaults.

    Args:
        env: what the policy was built for.
        policy: has encode_observations and decode_actions, and best ``hidden_size``.
        input_size: width of the policy's encoding; inferred from its ``hidden_size``.
        hidden_size: width of the memory, which is what decode_actions reads; inferred likewise.
        options: those of the core.
    """

    core_class: ClassVar[Callable[..., Core]]

    def __init_subclass__(cls, *, core: type[Core] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if core is not None:
            cls.core_class = core
            if "__init__" not in vars(cls):
                setattr(cls, "__init__", _constructor(cls, core))  # noqa: B010

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        input_size: int | None = None,
        hidden_size: int | None = None,
        **options: Any,
    ) -> None:
        sizes = core_sizes(policy, input_size, hidden_size)
        super().__init__(env, policy, self.core_class(*sizes, **options))


def _constructor(cls: type[MemoryWrapper], core: type[Core]) -> Callable[..., None]:
    """Return the inherited constructor of `cls` with the options of `core` in its signature.

    The signature is that of a function of the class. A ``__signature__`` of the class itself would
    hold for calls of its instances, too, and for subclasses that write a constructor.
    """

    @functools.wraps(MemoryWrapper.__init__)
    def __init__(self: MemoryWrapper, *args: Any, **kwargs: Any) -> None:
        super(cls, self).__init__(*args, **kwargs)

    *shared, _ = inspect.signature(MemoryWrapper.__init__).parameters.values()
    options = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in list(inspect.signature(core).parameters.values())[2:]
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    setattr(__init__, "__signature__", inspect.Signature([*shared, *options]))  # noqa: B010
    return __init__


def core_sizes(
    policy: nn.Module, input_size: int | None, hidden_size: int | None
) -> tuple[int, int]:
    """Return the widths of a core's input and output, inferred where they are None.

    Raises:
        BuildError: the policy has no ``hidden_size``, or another than the argument says.
    """
    encoded = _width(policy, input_size, "input_size", "encode_observations gives")
    return encoded, _width(policy, hidden_size, "hidden_size", "decode_actions reads")


def _width(policy: nn.Module, argument: int | None, parameter: str, role: str) -> int:
    """Return the policy's ``hidden_size``, or `argument` where the policy has none."""
    width: int | None = getattr(policy, "hidden_size", None)
    name = type(policy).__name__
    if width is None and argument is None:
        raise BuildError(
            f"{name!r} has no hidden_size, so {parameter} can't be inferred.",
            fix=f"Set self.hidden_size in it, or pass {parameter}: what {role}.",
        )
    if width is not None and argument not in (None, width):
        raise BuildError(
            f"{parameter}={argument} was given, but {name!r} has hidden_size={width}: its {role} "
            f"{width} features.",
            fix=f"Leave {parameter} out, or build {name!r} with hidden_size={argument}.",
        )
    return int(argument if width is None else width)  # type: ignore[arg-type]


def _require_structure(policy: nn.Module, wrapper: str) -> None:
    lacking = [
        name
        for name in ("encode_observations", "decode_actions")
        if not callable(getattr(policy, name, None))
    ]
    if lacking:
        raise ContractError(
            f"{wrapper!r} can't wrap {type(policy).__name__!r}: it lacks {' and '.join(lacking)}.",
            fix="Split its forward: encode_observations(observations, state=None) -> hidden, "
            "decode_actions(hidden) -> logits, values.",
        )


def _require_separable(policy: nn.Module, wrapper: type[PolicyWrapper]) -> None:
    """Refuse a wrapper that mixes what the actor inside sees with what only the critic sees."""
    changes = wrapper.transform_observations is not PolicyWrapper.transform_observations
    knows_actor = wrapper.actor_alone is not PolicyWrapper.actor_alone
    if changes and not knows_actor and any_module_has(policy, PRIVILEGED_KEYS):
        name, inside = wrapper.__name__, type(policy).__name__
        raise BuildError(
            f"{name!r} changes observations, and inside it actor and critic see different ones: "
            "there would be no actor without the observations of the critic.",
            fix=f"Put it inside: {inside}({name}(...), ...).",
        )


def _require_no_parts(policy: nn.Module, wrapper: str) -> None:
    for each in policy.modules():
        if getattr(each, "memory_inside", False):
            name = type(each).__name__
            raise BuildError(
                f"{wrapper!r} can't go around {name!r}: its memory would mix two networks.",
                fix=f"Put it inside: {name}({wrapper}(...)).",
            )


def _read_state(
    core: Core, state: State | None, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the tensors of a core in a state dict, or its initial ones if there are none."""
    shapes = core.state_shapes(batch_size)
    # PufferLib's trainer starts with None under its two keys, others with an empty dict.
    carried = {key: state[key] for key in shapes if state and state.get(key) is not None}
    if not carried:
        return core.initial_state(batch_size, device)
    _require_state(carried, shapes)
    return carried


def _require_state(carried: dict[str, Tensor], shapes: dict[str, Shape]) -> None:
    """Raise an error for half a state, and for tensors of other shapes than the core's."""
    wrong = [
        f"state[{key!r}] is {tuple(carried[key].shape) if key in carried else None}, expected "
        f"{shape}"
        for key, shape in shapes.items()
        if key not in carried or carried[key].shape != shape
    ]
    if wrong:
        raise ContractError(
            f"The recurrent state does not fit the batch: {'; '.join(wrong)}.",
            fix="Start from policy.initial_state(batch_size), or from None for every key, and keep "
            "the batch first.",
        )


def episode_starts(state: State | None, batch: Shape, device: torch.device) -> Tensor | None:
    """Return ``state["episode_start"]`` as bool (B,) or (B, T), or None if the state has none."""
    starts: Tensor | None = state.get(EPISODE_START) if state else None
    if starts is None:
        return None
    require_tensor(starts, f"state[{EPISODE_START!r}]")
    if starts.dtype is not torch.bool or starts.device != device:
        starts = starts.to(device, torch.bool)
    if tuple(starts.shape) == batch:
        return starts
    if tuple(starts.shape) == batch[:1]:  # (B,) for a sequence: only its first step can start
        first = torch.zeros(batch, dtype=torch.bool, device=device)
        first[:, 0] = starts
        return first
    raise ContractError(
        f"state[{EPISODE_START!r}] has shape {tuple(starts.shape)}; expected "
        f"{batch[:1]} or {batch}.",
        fix="It is true where the observation in the same place is the first of an episode.",
    )


def _write_state(state: State | None, carried: dict[str, Tensor]) -> None:
    if state is not None:
        for key, value in carried.items():
            state[key] = value.detach() if value.requires_grad else value
