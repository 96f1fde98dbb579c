"""Our policies in the scripts of CleanRL, and the agents of such scripts as policies of ours.

A script's own class `Agent` gives way to `Agent` here, or to `RecurrentAgent` in those with an
LSTM; the rest of the script stays as it is. https://docs.cleanrl.dev

`N` rows, `B` envs or sequences, `T` steps; the rows of a sequence are in the order of time first,
row t * B + b. `W` is the width of the two tensors that the scripts carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.errors import BuildError
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import (
    ActorHead,
    CriticHead,
    Trunks,
    device_of,
    one_action,
    samples,
)
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.cores.lstm import LSTMCore
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.features import MAX_PIXEL
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.spaces.nested import leaves, map_nested
from puffer_policies.wrappers.base import RecurrentWrapper

Pair = tuple[Tensor, Tensor]


class _Agent(nn.Module):
    """What both agents share.

    Args:
        envs: of the script, or `Spaces`.
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the script does not send what the policy reads.
    """

    policy: nn.Module
    """Our policy, as `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    def __init__(self, envs: Any, policy: PolicyLike = "Default") -> None:
        super().__init__()
        self.guest = Guest(policy, spaces_of(envs), library="CleanRL")
        self.policy = self.guest.policy
        self.guest.require_no_previous()
        self.guest.require_mask_observed()
        self.guest.require_reset_in_step(envs)

    def _begin(self, x: Any, action: Tensor | None) -> Any:
        """Return rows of observations, noted where they are of a rollout: it has no action yet."""
        obs = self.guest.rows(x)
        self.guest.switch(learning=action is not None)
        if action is None and self.training:
            self.guest.see(obs)
        rows = len(next(leaves(obs)))
        if action is not None and len(action) != rows:
            raise BuildError(
                f"The actions have shape {tuple(action.shape)}, and there are {rows} observations.",
                fix="Rows of actions come first: leave out the .T of ppo_multidiscrete.py.",
            )
        return obs

    def _judge(self, logits: Any, action: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, drawn where there are none, log-probabilities and entropies."""
        if action is None:
            action, _ = self.guest.choose(logits)
        return action, *self.guest.judge(logits, action)


class Agent(_Agent):
    """A policy without memory, in place of the class `Agent` of ppo.py and its kin."""

    def __init__(self, envs: Any, policy: PolicyLike = "Default") -> None:
        super().__init__(envs, policy)
        fix = "Use RecurrentAgent in a script such as ppo_atari_lstm.py."
        self.guest.require_no_memory("this script", fix=fix)

    def get_value(self, x: Any) -> Tensor:
        """(N, *obs) -> values (N, 1)."""
        values: Tensor = self.policy.forward_eval(self.guest.rows(x), {})[1]  # type: ignore[operator]
        return values

    def get_action_and_value(
        self, x: Any, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return actions (N, *shape), log-probabilities (N,), entropies (N,) and values (N, 1)."""
        logits, values = self.policy(self._begin(x, action), {})
        return *self._judge(logits, action), values


class RecurrentAgent(_Agent):
    """A policy with any memory, or none, in place of the class `Agent` of ppo_atari_lstm.py.

    The script begins with zeros, sized by `lstm`, and hands back what it got.
    """

    @property
    def lstm(self) -> SimpleNamespace:
        """What the script reads of an LSTM: the sizes of the two tensors (1, B, W) of a state."""
        return SimpleNamespace(num_layers=1, hidden_size=-(-self.guest.carry_size // 2))

    def get_value(self, x: Any, lstm_state: Pair, done: Tensor) -> Tensor:
        """(T * B, *obs), a state of B rows and starts of episodes (T * B,) -> values (T * B, 1)."""
        carry, time = self._carry(lstm_state, done)
        obs = map_nested(lambda leaf: _swap(leaf, time), self.guest.rows(x))
        return _swap(self._run(obs, carry, done.reshape(time, -1).T)[1], len(carry))

    def get_action_and_value(
        self, x: Any, lstm_state: Pair, done: Tensor, action: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Pair]:
        """Return actions, log-probabilities, entropies and values as `Agent`, and the next state.

        Args:
            x: (T * B, *obs), or (B, *obs) in a rollout.
            lstm_state: two tensors (1, B, W), before the first step.
            done: (T * B,), where an observation is the first of an episode.
            action: those to judge, (T * B, *shape); drawn if there are none.
        """
        carry, time = self._carry(lstm_state, done)
        obs = map_nested(lambda leaf: _swap(leaf, time), self._begin(x, action))
        logits, values, after = self._run(obs, carry, done.reshape(time, -1).T)
        judged = self._judge(logits, None if action is None else _swap(action, time))
        action, log_prob, entropy, values = (_swap(each, len(carry)) for each in (*judged, values))
        padded = nn.functional.pad(after, (0, 2 * lstm_state[0].shape[-1] - after.shape[1]))
        h, c = padded.unsqueeze(0).chunk(2, -1)
        return action, log_prob, entropy, values, (h, c)

    def _carry(self, lstm_state: Pair, done: Tensor) -> tuple[Tensor, int]:
        """Return the state of `Guest.carry_step` of B rows, and the number of steps T."""
        carry = torch.cat([part[0] for part in lstm_state], 1)[:, : self.guest.carry_size]
        time, rest = divmod(done.numel(), len(carry))
        if rest:
            raise BuildError(
                f"{done.numel()} observations are not a whole number of steps of {len(carry)} "
                "states.",
                fix="Take minibatches of whole envs, as ppo_atari_lstm.py does.",
            )
        return carry, time

    def _run(self, obs: Any, carry: Tensor, starts: Tensor) -> tuple[Any, Tensor, Tensor]:
        if starts.shape[1] == 1 and not torch.is_grad_enabled():
            return self.guest.carry_step(obs, carry, starts[:, 0])
        return self.guest.carry_sequences(obs, carry, starts)


def _swap(rows: Tensor, outer: int) -> Tensor:
    """Return rows in the other order of two axes, of which the outer one has this length."""
    return rows.reshape(outer, -1, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


# -- from there to here ----------------------------------------------------------------------------


def as_policy(agent: nn.Module, envs: Any) -> nn.Module:
    """Return the agent of a script, trained or new, as a policy that keeps our contract.

    It has the very modules of `agent`, so that training one trains the other. The checker, our
    own `Agent`, exports and comparisons serve it. What a script does to observations stands in the
    methods of its agent; the policy does that whose results are those of the agent.

    Args:
        agent: with ``actor`` and ``critic``, behind a ``network`` or not, and a ``lstm`` or not; or
            with ``actor_mean``, ``actor_logstd`` and ``critic``.
        envs: of the script, or `Spaces`.

    Raises:
        BuildError: it has other parts, or computes something else with them.
    """
    parts, spaces = dict(agent.named_children()), spaces_of(envs)
    log_std = getattr(agent, "actor_logstd", None)
    if "critic" not in parts or parts.keys().isdisjoint(ACTORS):
        raise BuildError(
            f"{type(agent).__name__} has the parts {list(parts)}.",
            fix=f"An agent of CleanRL's PPO has critic and {' or '.join(ACTORS)}.",
        )
    failures = []
    for name, read in READINGS.items():
        try:
            policy = _assemble(parts, log_std, spaces, read)
            difference = _difference(policy, agent, spaces)
        except (RuntimeError, ValueError, IndexError) as error:
            failures.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        if difference < TOLERANCE:
            return policy
        failures.append(f"{name}: a difference of {difference:.2g}")
    raise BuildError(
        f"The parts of {type(agent).__name__} do not give what its get_action_and_value gives. "
        f"Tried {'; '.join(failures)}.",
        fix="Write the policy as a class of its own: docs/contract.md shows how.",
    )


ACTORS = ("actor", "actor_mean")

TOLERANCE = 1e-3
"""Relative, between two orders of the same sums; a wrong reading of observations is far beyond."""


def _plain(x: Tensor) -> Tensor:
    return x.float()


def _scaled(x: Tensor) -> Tensor:
    return x.float() / MAX_PIXEL


def _channels_first(x: Tensor) -> Tensor:
    return x.float().permute(0, 3, 1, 2) / MAX_PIXEL


READINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "x": _plain,
    "x / 255": _scaled,
    "x.permute(0, 3, 1, 2) / 255": _channels_first,
}
"""What the scripts do to observations, as they write it."""


def _assemble(
    parts: Mapping[str, nn.Module],
    log_std: nn.Parameter | None,
    spaces: Spaces,
    read: Callable[[Tensor], Tensor],
) -> nn.Module:
    layout = one_action(spaces.action, "CleanRL")
    actor, critic, lstm = _actor(parts), parts["critic"], parts.get("lstm")
    if "network" in parts:
        encoder = Trunks(read, parts["network"], space=spaces.observation)
        of_actor = of_critic = slice(None)
    else:
        (trunk, actor), (other, critic) = _split(actor), _split(critic)
        encoder = Trunks(read, trunk, other, space=spaces.observation)
        of_actor, of_critic = slice(encoder.widths[0]), slice(encoder.widths[0], None)
    policy = ActorCritic(
        encoder,
        spaces,
        actor=ActorHead(actor, layout, columns=of_actor, log_std=log_std),
        critic=CriticHead(critic, columns=of_critic),
    )
    return policy if lstm is None else RecurrentWrapper(spaces, policy, _core(lstm))


def _actor(parts: Mapping[str, nn.Module]) -> nn.Module:
    return next(parts[name] for name in ACTORS if name in parts)


def _split(head: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return the layers before the last, and the last."""
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    return nn.Sequential(*layers[:-1]), layers[-1]


def _core(lstm: nn.Module) -> LSTMCore:
    """Return a core with the weights of an LSTM of torch."""
    if not isinstance(lstm, nn.LSTM) or lstm.bidirectional or lstm.proj_size or lstm.dropout:
        raise BuildError(
            f"The agent's memory is {lstm}, for which there is no form here.",
            fix="An nn.LSTM has one, without a second direction, a projection and dropout.",
        )
    core = LSTMCore(lstm.input_size, lstm.hidden_size, num_layers=lstm.num_layers)
    for name, parameter in lstm.named_parameters():
        setattr(core.layers, name, parameter)
    return core


@torch.no_grad()
def _difference(policy: nn.Module, agent: nn.Module, spaces: Spaces) -> float:
    """Return how far an agent's numbers are from the policy's, where episodes start."""
    rows, device = 4, device_of(agent)
    observations = samples(spaces.observation, rows, device)
    logits, values = policy.forward_eval(observations, {})  # type: ignore[operator]
    chances = distribution(logits)
    action = chances.mode() + 0.5 if policy.is_continuous else chances.mode()
    state = []
    if isinstance(lstm := getattr(agent, "lstm", None), nn.LSTM):
        zeros = torch.zeros(lstm.num_layers, rows, lstm.hidden_size, device=device)
        state = [(zeros, zeros), torch.zeros(rows, device=device)]
    # ppo_multidiscrete.py has the choices of all rows side by side.
    taken = action.T if action.ndim > 1 and not policy.is_continuous else action
    theirs = agent.get_action_and_value(observations.float(), *state, taken)[1:4]  # type: ignore[operator]
    ours = chances.log_prob(action), chances.entropy(), values
    pairs = zip(theirs, ours, strict=True)
    return max(
        float(((a - b.reshape(a.shape)).abs() / a.abs().clamp(min=1)).max()) for a, b in pairs
    )
