"""Running a policy step by step: its recurrent state, and how its two forward paths are called."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from puffer_policies.contract import EPISODE_START, LSTM_STATE
from puffer_policies.errors import ContractError
from puffer_policies.nn.fixed import fixed_eval
from puffer_policies.nn.observations import merge_time

Tensors = dict[str, Tensor]
"""Named tensors with the batch first."""

NO_EXTRAS: Mapping[str, Tensor] = MappingProxyType({})

BACKEND = "inductor"
"""What `torch.compile` compiles with."""

GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that replay CUDA graphs."""

Call = Callable[[Any, dict[str, Any]], tuple[Any, Tensor]]
"""Observations, state -> logits, values; the state is brought up to date."""


class PolicyCalls(NamedTuple):
    """A policy's two forward paths, compiled or under autocast if a run wants it."""

    forward_eval: Call
    """One step: (B, *obs) -> logits of B rows, values."""
    forward: Call
    """Training: (B, *obs) or (B, T, *obs) -> logits of all rows, values, with gradient."""


def policy_calls(
    policy: nn.Module,
    *,
    device: torch.device,
    precision: str = "float32",
    compile_mode: str | None = None,
) -> PolicyCalls:
    """Return the calls of `policy`, which is on `device`.

    Args:
        policy: a module with ``forward_eval``; checkpoints and evaluations use this module itself.
        device: the device of the policy.
        precision: float32, or bfloat16 for matrix products alone. Parameters, gradients, values
            and the recurrent state are float32 in any case.
        compile_mode: the mode of `torch.compile`; None does not compile.
    """
    # `policy` itself and not its forward(), so that forward hooks run.
    calls: list[Any] = [policy.forward_eval, policy]
    if compile_mode is not None:
        calls = [_compiled(each, compile_mode) for each in calls]
    if compile_mode in GRAPH_MODES and device.type == "cuda":
        calls = [functools.partial(_replayed, each) for each in calls]
    if precision == "bfloat16":
        calls = [functools.partial(_autocast, each, device.type) for each in calls]
    return PolicyCalls(*calls)


def _compiled(call: Call, mode: str) -> Call:
    # Other backends than inductor know no modes.
    compiled: Call = torch.compile(
        call, backend=BACKEND, mode=mode if BACKEND == "inductor" else None
    )
    return compiled


def _replayed(call: Call, observations: Any, state: dict[str, Any]) -> tuple[Any, Tensor]:
    """Call a policy whose outputs the next replay of its CUDA graph overwrites."""
    # Logits are used up before the next call; the state and the values of a rollout outlive it.
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    logits, values = call(observations, state)
    state.update({key: each.clone() for key, each in state.items()})
    return logits, values.clone()


def _autocast(
    call: Call, device_type: str, observations: Any, state: dict[str, Any]
) -> tuple[Any, Tensor]:
    # Matrix products turn the state into bfloat16. Rounding it at every step would add up.
    dtypes = {key: each.dtype for key, each in state.items()}
    with torch.autocast(device_type, torch.bfloat16):
        logits, values = call(observations, state)
    state.update({key: state[key].to(dtype) for key, dtype in dtypes.items()})
    return logits, values.float()


class Carry:
    """Steps a policy and holds the state of `batch_size` rows, which is empty without memory.

    A policy with ``initial_state`` defines its own state, and resets it at each ``episode_start``.
    A policy without it that is declared recurrent has PufferLib's form: ``lstm_h`` and ``lstm_c``
    of `hidden_size`, never reset, and (1, B, H) instead of (B, H) in training. With `use_rnn` None
    the policy decides. `calls` are its two forward paths, by default the plain ones.

    Raises:
        ContractError: `use_rnn` contradicts the policy, or the form of its state is unknown.
    """

    def __init__(
        self,
        policy: nn.Module,
        batch_size: int,
        *,
        device: torch.device,
        use_rnn: bool | None,
        calls: PolicyCalls | None = None,
    ) -> None:
        self._policy = policy
        self._calls = policy_calls(policy, device=device) if calls is None else calls
        self._initial, self._has_layers = _initial(policy, batch_size, device, use_rnn)
        self.tensors = self._initial
        if use_rnn is False and self.tensors:
            raise ContractError(
                f"train.use_rnn is False, but {type(policy).__name__} carries "
                f"{', '.join(self.tensors)} from step to step.",
                fix="Leave use_rnn out: the policy decides.",
            )

    @property
    def recurrent(self) -> bool:
        """Whether the policy has a state."""
        return bool(self.tensors)

    def policy_tensors(self) -> list[Tensor]:
        """Return the policy's parameters and buffers."""
        return [*self._policy.parameters(), *self._policy.buffers()]

    def restart(self) -> None:
        """Go back to the state before the first step."""
        self.tensors = self._initial

    @contextmanager
    def fixed(self, *, may_wait: bool) -> Iterator[None]:
        """Step at less cost, without gradient, while the policy stands still; see `fixed_eval`."""
        calls = self._calls
        if calls.forward_eval == self._policy.forward_eval:  # neither compiled nor cast
            self._calls = calls._replace(forward_eval=fixed_eval(self._policy, may_wait=may_wait))
        try:
            yield
        finally:
            self._calls = calls

    def step(
        self, observations: Any, starts: Tensor, *, extras: Mapping[str, Tensor] = NO_EXTRAS
    ) -> tuple[Any, Tensor]:
        """(B, *obs), (B,) bool -> logits of B rows, values (B,); the state goes on.

        `extras` (B, ...) are other inputs of the policy, by state key, such as ``action_mask``.
        """
        state = {**self.tensors, EPISODE_START: starts, **extras}
        try:
            logits, values = self._calls.forward_eval(observations, state)
        except KeyError as error:
            if error.args[:1] and error.args[0] in LSTM_STATE:
                raise _undeclared_memory(self._policy, error.args[0]) from error
            raise
        if self.tensors:
            # A policy puts its next state into the dict that it gets, as in PufferLib.
            self.tensors = {key: state[key] for key in self.tensors}
        return logits, self._flat(values, starts)

    def peek(
        self, observations: Any, starts: Tensor, *, extras: Mapping[str, Tensor] = NO_EXTRAS
    ) -> Tensor:
        """(B, *obs), (B,) bool, (B, ...) each -> values (B,); the state stays."""
        state = {**self.tensors, EPISODE_START: starts, **extras}
        _, values = self._calls.forward_eval(observations, state)
        return self._flat(values, starts)

    def sequence(
        self,
        observations: Any,
        starts: Tensor,
        initial: Tensors,
        *,
        extras: Mapping[str, Tensor] = NO_EXTRAS,
        num_outputs: int | None = None,
    ) -> tuple[Any, Tensor]:
        """(B, T, *obs), (B, T) bool -> logits of B*T rows, values (B*T,), with gradient.

        `initial` (B, ...) is the state before the first step, `extras` are (B, T, ...). A policy
        without memory gets (B*T, *obs); see `merge_time`. With `num_outputs` K, the policy returns
        the outputs (B*T, K) of its value head in place of values.
        """
        if not self.recurrent:
            observations, starts, extras = merge_time(observations, starts, dict(extras))
        if self._has_layers:
            initial = {key: value.unsqueeze(0) for key, value in initial.items()}  # (1, B, H)
        state = {**initial, EPISODE_START: starts, **extras}
        logits, values = self._calls.forward(observations, state)
        if num_outputs is None:
            return logits, self._flat(values, starts)
        return logits, self._flat(values, starts, num_outputs).reshape(-1, num_outputs)

    def _flat(self, values: Tensor, starts: Tensor, width: int = 1) -> Tensor:
        # Broadcasting would hide a wrong number of values in the loss.
        if values.numel() != starts.numel() * width:
            raise ContractError(
                f"{type(self._policy).__name__} returned values of shape {tuple(values.shape)} for "
                f"{starts.numel()} observations.",
                fix=f"A policy gives one value for each observation: (N, {width}).",
            )
        return values.reshape(-1)


def _initial(
    policy: nn.Module, batch_size: int, device: torch.device, use_rnn: bool | None
) -> tuple[Tensors, bool]:
    """Return the state before the first step, and whether ``forward`` wants (1, B, H) of it."""
    initial_state = getattr(policy, "initial_state", None)
    if callable(initial_state):
        return dict(initial_state(batch_size, device)), False
    if not use_rnn:
        return {}, False
    hidden_size = getattr(policy, "hidden_size", None)
    if not isinstance(hidden_size, int):
        raise ContractError(
            f"train.use_rnn is True, but {type(policy).__name__} has neither 'initial_state' nor "
            "an integer 'hidden_size': the form of its state is unknown.",
            fix="Give it initial_state(batch_size, device), or wrap it with LSTMWrapper.",
        )
    zeros = torch.zeros(batch_size, hidden_size, device=device)
    return dict.fromkeys(LSTM_STATE, zeros), True


def _undeclared_memory(policy: nn.Module, key: str) -> ContractError:
    return ContractError(
        f"{type(policy).__name__} reads state[{key!r}], which is missing: it has no "
        "'initial_state', and train.use_rnn is not set.",
        fix="Set args['train']['use_rnn'] = True for a memory of PufferLib's form.",
    )
