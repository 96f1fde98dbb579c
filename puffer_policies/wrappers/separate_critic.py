"""A critic with an encoder of its own, which may see more than the actor and remember otherwise.

PufferLib and CleanRL's Atari agents share the features of actor and critic. The paper of PPO keeps
them separate for control (https://arxiv.org/abs/1707.06347), which was the better choice in most
tasks of Andrychowicz et al. 2021 (https://arxiv.org/abs/2006.05990). A critic is needed in training
only, where a simulator knows more than the sensors of the actor will: Pinto et al. 2018,
https://arxiv.org/abs/1710.06542.

`N` rows, B or B*T; `H` the actor's hidden size, `G` the critic's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.contract import CRITIC_STATE, NEEDS_MASK, State, any_module_has
from puffer_policies.errors import BuildError
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.init import layer_init
from puffer_policies.nn.observations import batch_layout, members_of, require_keys, with_keys
from puffer_policies.nn.value_heads import value_head_of
from puffer_policies.spaces import Spaces
from puffer_policies.wrappers.base import Actor, PolicyWrapper

Keys = Sequence[str] | None
"""Keys of a Dict observation; None: all of them."""


class SeparateCriticWrapper(PolicyWrapper):
    """A policy whose values come from a second encoder, and a second memory if it has one.

    Both hidden vectors end in the policy's own `decode_actions`: its action head reads the first,
    its value head the second. So the second network has no heads, and every weight is trained. A
    critic of another width has a linear layer to the policy's. No memory goes around it.

    Args:
        env: the env of the policy.
        policy: the actor; it stays as it is.
        critic: a second policy with weights of its own. `get_policy` builds it like the first, or
            from an expression: ``critic="LSTMWrapper(Default)"``. It belongs to the wrapper from
            now on, and loses its heads.
        actor_keys: the keys of a Dict observation that the actor sees; all of them if None.
        critic_keys: those that the critic sees. What the actor lacks of them is privileged: it
            never reaches the logits, and `actor_of` returns the actor that needs none of it.

    Raises:
        BuildError: no ``hidden_size``, a critic that shares weights with the policy or alone reads
            masks, or keys that are no choice: empty, twice, or the same for both.
        IncompatibleSpace: keys of an observation that is not a Dict or does not have them.
    """

    num_policies = 2
    memory_inside = True

    def __init__(
        self,
        env: Any,
        policy: nn.Module,
        critic: nn.Module,
        *,
        actor_keys: Keys = None,
        critic_keys: Keys = None,
    ) -> None:
        super().__init__(env, policy)
        inside = self.wrapped_spaces(self.spaces, actor_keys=actor_keys, critic_keys=critic_keys)
        self._actor_spaces = self.spaces
        self._keys: list[tuple[str, ...]] = []
        self.privileged_keys: tuple[str, ...] = ()
        if isinstance(inside, tuple):
            self._actor_spaces = inside[0]
            self._all_keys = tuple(members_of(self.spaces.observation))
            own, critics = (tuple(members_of(each.observation)) for each in inside)
            self._keys = [own, critics]
            self.privileged_keys = tuple(key for key in critics if key not in own)
        self._state_keys = _state_keys(critic)
        self._remembers = hasattr(policy, "initial_state")
        _require_apart(policy, critic)
        self._sizes = int(policy.hidden_size), int(critic.hidden_size)  # type: ignore[arg-type]
        self.hidden_size = sum(self._sizes)
        _remove(critic, _parameters_of_heads(critic, self._sizes[1]))
        self.projection: nn.Module | None = None
        decode = _innermost(policy).decode_actions
        if self._sizes[0] != self._sizes[1]:
            self.projection = layer_init(nn.Linear(self._sizes[1], self._sizes[0]))
            decode = self._decode_critic
        # A memory lies between the critic's encoder and the heads that it lacks.
        _innermost(critic).decode_actions = decode
        self.critic = critic
        self._layout = batch_layout(self.spaces.observation)

    @staticmethod
    def wrapped_spaces(
        spaces: Spaces, *, actor_keys: Keys = None, critic_keys: Keys = None
    ) -> Spaces | tuple[Spaces, Spaces]:
        """Return the spaces of the actor and those of the critic; without keys, those of both."""
        if actor_keys is None and critic_keys is None:
            return spaces
        own = _spaces_of_keys(spaces, "actor_keys", actor_keys)
        critics = _spaces_of_keys(spaces, "critic_keys", critic_keys)
        if set(keys := members_of(own.observation)) == set(members_of(critics.observation)):
            raise BuildError(
                f"'SeparateCriticWrapper' gives actor and critic the same keys, {list(keys)}.",
                fix="Leave keys out of one of them, or both arguments where both see everything.",
            )
        return own, critics

    @property
    def initial_state(self) -> Any:
        """The method for the state of both memories; the attribute is absent if there is none."""
        if not (self._remembers or self._state_keys):
            raise AttributeError("initial_state")
        return self._initial_states

    def _initial_states(
        self, batch_size: int, device: torch.device | str | None = None
    ) -> dict[str, Tensor]:
        state = dict[str, Tensor]()
        if self._remembers:
            state |= self.policy.initial_state(batch_size, device)  # type: ignore[operator]
        if self._state_keys:
            critics: dict[str, Tensor] = self.critic.initial_state(batch_size, device)  # type: ignore[operator]
            state |= {CRITIC_STATE + key: each for key, each in critics.items()}
        return state

    def actor_alone(self) -> Actor:
        """Return the policy inside, where the critic sees what it does not."""
        if not self.privileged_keys:
            return super().actor_alone()
        return Actor(self.policy, self._actor_spaces, is_part=True)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """Return what the actor sees, (N, *obs) or (B, T, *obs)."""
        return self._seen(observations, 0)

    def update_statistics(self, observations: Any) -> None:
        """Add observations (N, *obs) to the statistics of both networks."""
        super().update_statistics(observations)
        update = getattr(self.critic, "update_statistics", None)
        if update is not None:
            update(self._seen(observations, 1))

    def encode_observations(self, observations: Any, state: State | None = None) -> Tensor:
        """(N, *obs) -> (N, H + G): the features of the actor beside those of the critic."""
        own = super().encode_observations(observations, state)
        carried = self._state_of_critic({} if state is None else state)
        seen = self._seen(observations, 1)
        critics: Tensor = self.critic.encode_observations(seen, state=carried)  # type: ignore[operator]
        return torch.cat([own, critics], -1)

    def decode_actions(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, H + G) -> logits of the first part, values (N, 1) of the second."""
        own, critics = torch.split(hidden, list(self._sizes), -1)
        logits, _ = super().decode_actions(own)
        _, values = self._decode_critic(critics)
        return logits, values

    def _decode_critic(self, hidden: Tensor) -> tuple[Any, Tensor]:
        """(N, G) -> logits that nobody reads, values (N, 1)."""
        return super().decode_actions(
            hidden if self.projection is None else self.projection(hidden)
        )

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
        if self._remembers == bool(self._state_keys):
            logits, _ = super().forward(observations, state)
            return logits, values
        # One of them alone has a memory: it reads a sequence, and the other the rows of it.
        rows, batch = self._layout.flatten(observations)
        logits, _ = super().forward(observations if self._remembers else rows, state)
        return logits, values.reshape(batch[0], -1)

    def _values(self, run: Any, observations: Any, state: State) -> Tensor:
        """Return the values of a pass of the critic, whose memory goes on in `state`."""
        carried = self._state_of_critic(state)
        if self._state_keys:
            _, values = run(self._seen(observations, 1), state=carried)
            state.update({CRITIC_STATE + key: carried[key] for key in self._state_keys})
        else:
            rows, _ = self._layout.flatten(observations)  # (N, *obs)
            hidden = self.critic.encode_observations(self._seen(rows, 1), state=carried)  # type: ignore[operator]
            _, values = self._decode_critic(hidden)
        result: Tensor = values
        return result

    def _seen(self, observations: Any, place: int) -> Any:
        """Return the part of an observation that the actor sees, in place 0, or the critic."""
        if not self._keys:
            return observations
        require_keys(observations, self._all_keys)
        return {key: observations[key] for key in self._keys[place]}

    def _state_of_critic(self, state: State) -> dict[str, Any]:
        """Return a copy of the state with the critic's memory under the keys of the policy's."""
        return {**state, **{key: state.get(CRITIC_STATE + key) for key in self._state_keys}}


def _spaces_of_keys(spaces: Spaces, argument: str, keys: Keys) -> Spaces:
    """Return the spaces of one network."""
    if keys is None:
        return spaces
    if not isinstance(keys, list | tuple) or not keys or len(set(keys)) < len(keys):
        problem = "not a list of keys, each once" if keys else "no key, so there is nothing to see"
        raise BuildError(
            f"{argument}={keys!r} of 'SeparateCriticWrapper' is {problem}.",
            fix=f"Write {argument}=['KEY', ...], or leave it out for all keys.",
        )
    return Spaces(with_keys(spaces.observation, keys), spaces.action)


def _state_keys(policy: nn.Module) -> tuple[str, ...]:
    initial_state: Any = getattr(policy, "initial_state", None)
    return () if initial_state is None else tuple(initial_state(1))


def _require_apart(policy: nn.Module, critic: nn.Module) -> None:
    for role, each in (("policy", policy), ("critic", critic)):
        if getattr(each, "hidden_size", None) is None:
            raise BuildError(
                f"The {role} of 'SeparateCriticWrapper', {type(each).__name__!r}, has no "
                "hidden_size.",
                fix="Set self.hidden_size in it: the width of what decode_actions reads.",
            )
    if {id(each) for each in policy.parameters()} & {id(each) for each in critic.parameters()}:
        raise BuildError(
            "The policy and the critic of 'SeparateCriticWrapper' share weights.",
            fix="Build it by its name with get_policy, which builds both.",
        )
    if any_module_has(critic, NEEDS_MASK) and not any_module_has(policy, NEEDS_MASK):
        raise BuildError(
            "The critic of 'SeparateCriticWrapper' reads an action mask, and the actor does not.",
            fix="Masks are for the actor: put an ActionMaskWrapper around it, or around all.",
        )
    if value_head_of(critic) is not None and value_head_of(policy) is None:
        raise BuildError(
            "The critic of 'SeparateCriticWrapper' has a value head with a loss of its own, which "
            "would be lost: values come from the head of the policy.",
            fix="Put the wrapper of the value head around all, or around the policy inside.",
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
