"""A critic with an encoder of its own, of the same form as the actor's.

PufferLib and CleanRL's Atari agents share the features of actor and critic. The paper of PPO keeps
them separate for control (https://arxiv.org/abs/1707.06347), which was the better choice in most
tasks of Andrychowicz et al. 2021 (https://arxiv.org/abs/2006.05990).

`N` rows, B or B*T; `H` the policy's hidden size.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.contract import State
from puffer_policies.errors import BuildError
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.observations import batch_layout
from puffer_policies.wrappers.base import PolicyWrapper

PREFIX = "critic_"
"""The prefix of the state keys of the critic's memory, such as ``critic_lstm_h``."""


class SeparateCriticWrapper(PolicyWrapper):
    """A policy whose values come from a second encoder, and a second memory if it has one.

    Both hidden vectors end in the policy's own `decode_actions`: its action head reads the first,
    its value head the second. So the second network has no heads, and every weight is trained.
    Around a policy with a memory there are two memories; no memory goes around it.

    Args:
        env: the env of the policy.
        policy: the actor; it stays as it is.
        critic: a second policy of the same form with weights of its own, as `get_policy` builds it.
            It belongs to the wrapper from now on, and loses its heads.

    Raises:
        BuildError: no ``hidden_size``, a critic of another width or memory, or one that shares
            weights with the policy.
    """

    num_policies = 2
    memory_inside = True

    def __init__(self, env: Any, policy: nn.Module, critic: nn.Module) -> None:
        super().__init__(env, policy)
        self._keys = _state_keys(policy)
        _require_alike(policy, critic)
        hidden_size = int(policy.hidden_size)  # type: ignore[arg-type]
        self.hidden_size = 2 * hidden_size
        _remove(critic, _parameters_of_heads(critic, hidden_size))
        # A memory lies between the critic's encoder and the heads that it lacks.
        _innermost(critic).decode_actions = _innermost(policy).decode_actions
        self.critic = critic
        self._layout = batch_layout(self.spaces.observation)

    @property
    def initial_state(self) -> Any:
        """The method for the state of both memories; the attribute is absent if there is none."""
        return functools.partial(self._initial_states, self.policy.initial_state)

    def _initial_states(
        self, own: Any, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        critics: dict[str, Tensor] = self.critic.initial_state(batch_size, device)  # type: ignore[operator]
        return {
            **own(batch_size, device),
            **{PREFIX + key: each for key, each in critics.items()},
        }

    def update_statistics(self, observations: Any) -> None:
        """Add observations (N, *obs) to the statistics of both networks."""
        super().update_statistics(observations)
        update = getattr(self.critic, "update_statistics", None)
        if update is not None:
            update(observations)

    def encode_observations(self, observations: Any, state: State | None = None) -> Tensor:
        """(N, *obs) -> (N, 2 * H): the features of the actor beside those of the critic."""
        own = super().encode_observations(observations, state)
        carried = self._state_of_critic({} if state is None else state)
        critics: Tensor = self.critic.encode_observations(observations, state=carried)  # type: ignore[operator]
        return torch.cat([own, critics], -1)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, 2 * H) -> logits of the first half, values (N, 1) of the second."""
        own, critics = hidden.chunk(2, -1)
        logits, _ = super().decode_actions(own)
        _, values = super().decode_actions(critics)
        return logits, values

    def forward_eval(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """One step of both networks: (B, *obs) -> logits, values (B, 1)."""
        state = {} if state is None else state
        values = self._values(self.critic.forward_eval, observations, state)
        logits, _ = super().forward_eval(observations, state)
        return logits, values

    def forward(self, observations: Any, state: State | None = None) -> tuple[Any, Tensor]:
        """Training pass of both networks: (B, *obs) or (B, T, *obs) -> logits, values."""
        state = {} if state is None else state
        values = self._values(self.critic, observations, state)
        logits, _ = super().forward(observations, state)
        return logits, values

    def _values(self, run: Any, observations: Any, state: State) -> Tensor:
        """Return the values of a pass of the critic, whose memory goes on in `state`."""
        carried = self._state_of_critic(state)
        if self._keys:
            _, values = run(observations, state=carried)
            state.update({PREFIX + key: carried[key] for key in self._keys})
        else:
            rows, _ = self._layout.flatten(observations)  # (N, *obs)
            hidden = self.critic.encode_observations(rows, state=carried)  # type: ignore[operator]
            _, values = super().decode_actions(hidden)
        result: Tensor = values
        return result

    def _state_of_critic(self, state: State) -> dict[str, Any]:
        """Return a copy of the state with the critic's memory under the keys of the policy's."""
        return {**state, **{key: state.get(PREFIX + key) for key in self._keys}}


def _state_keys(policy: nn.Module) -> tuple[str, ...]:
    initial_state: Any = getattr(policy, "initial_state", None)
    return () if initial_state is None else tuple(initial_state(1))


def _require_alike(policy: nn.Module, critic: nn.Module) -> None:
    sizes = [getattr(each, "hidden_size", None) for each in (policy, critic)]
    shared = {id(each) for each in policy.parameters()} & {id(each) for each in critic.parameters()}
    problems = {
        f"{type(policy).__name__!r} has no hidden_size": sizes[0] is None,
        f"its hidden_size is {sizes[0]}, the critic's {sizes[1]}": sizes[0] != sizes[1],
        "the critic has another memory": _state_keys(policy) != _state_keys(critic),
        "they share weights": bool(shared),
    }
    present = [problem for problem, applies in problems.items() if applies]
    if present:
        raise BuildError(
            f"'SeparateCriticWrapper' takes two policies of the same form; {', '.join(present)}.",
            fix="Build it by its name with get_policy, which builds both.",
        )


def _innermost(policy: nn.Module) -> Any:
    """Return the policy inside all wrappers, also those that are not of this package."""
    return [each for each in policy.modules() if hasattr(each, "decode_actions")][-1]


def _parameters_of_heads(policy: nn.Module, hidden_size: int) -> set[int]:
    """Return the ids of the parameters that `decode_actions` reads, whatever they are called."""
    parameters = [each for each in policy.parameters() if each.requires_grad]
    hidden = torch.zeros(1, hidden_size, device=parameters[0].device)
    with torch.enable_grad():
        logits, values = policy.decode_actions(hidden)  # type: ignore[operator]
        actions = distribution(logits)
        score = actions.log_prob(actions.mode()).sum() + actions.entropy().sum() + values.sum()
        # A head's weights are those that have a gradient at all, whatever its value: unused ones
        # have None. This holds for any structure of heads, where names or types would not.
        slopes = torch.autograd.grad(score, parameters, allow_unused=True)
    pairs = zip(parameters, slopes, strict=True)
    return {id(each) for each, slope in pairs if slope is not None}


def _remove(module: nn.Module, unwanted: set[int]) -> None:
    """Remove parameters from a module, and with them the modules that hold nothing else."""
    for name, _ in list(module.named_parameters(recurse=False)):
        if id(getattr(module, name)) in unwanted:
            delattr(module, name)
    for name, child in list(module.named_children()):
        ids = {id(each) for each in child.parameters()}
        if ids and ids <= unwanted:
            delattr(module, name)
        else:
            _remove(child, unwanted)
