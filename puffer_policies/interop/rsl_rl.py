"""Our policies as actors and critics of rsl_rl, the trainer of Isaac Lab and mjlab, by class name.

``{"class_name": "puffer_policies.interop.rsl_rl:PufferModel", "policy": "Default"}`` is a table of
an actor. https://github.com/leggedrobotics/rsl_rl

`N` rows of a batch, `B` envs, `T` steps, `R` padded pieces of rollouts, `D` numbers of an
observation, `A` of an action, `S` of the state of a row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from puffer_policies.assembly.blueprint import PolicyLike, spec_of
from puffer_policies.contract import State
from puffer_policies.errors import BuildError
from puffer_policies.export.graph import Graph
from puffer_policies.export.step import Step
from puffer_policies.export.styles import RslRl
from puffer_policies.foreign import optional_imports
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import CriticHead, Trunks, device_of
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.distributions import distribution
from puffer_policies.nn.observations import with_keys
from puffer_policies.registry import default_registry
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces, require_kinds, spaces_of
from puffer_policies.wrappers.base import Actor, PolicyWrapper, actor_of
from puffer_policies.wrappers.separate_critic import SeparateCriticWrapper

with optional_imports(extra="rsl-rl", purpose="rsl_rl"):
    from rsl_rl import models
    from rsl_rl.modules import EmpiricalNormalization, GaussianDistribution
    from rsl_rl.utils import unpad_trajectories

PLACE = __name__
CRITIC, STUDENT = "critic", "student"
"""Names of the library for what a model is built for."""

SHARE = "share_cnn_encoders"
"""The option of the algorithm by which the library hands the actor to the critic."""

REPLACEMENTS = {
    "hidden_dims": "sizes stand in the policy, such as 'Default(hidden_size=64)'",
    "activation": "the policy has its own",
    "obs_normalization": "use 'NormalizeObservationWrapper(...)'",
    "distribution_cfg": "the policy has its own distribution",
    "rnn_type": "use a memory, such as 'GRUWrapper(...)'",
    "cnns": f"with {SHARE!r} the critic is {PLACE}:PufferSharedCritic",
}
"""Arguments of the library's own models, and what stands in their place."""


Batch = tuple[int, ...]
"""(N,), or (B, T) of a pass with masks."""


class PufferModel(nn.Module):
    """A policy of this package as the actor, the critic, the student or the teacher of rsl_rl.

    An actor and a critic are two policies, each with a head that is not trained: the actor gives
    no values here, and the critic no actions. `PufferSharedCritic` makes one policy serve both.
    Where the critic's set has other groups than the actor's, a `SeparateCriticWrapper` in the
    actor's policy gets them as its keys, so that one policy serves both there, too.

    The state of any memory is one tensor (1, B, 1 + S), in which zeros start an episode. So the
    memory is reset exactly, in rollouts and in updates.

    Args:
        obs: observations of all envs, each group (B, n).
        obs_groups: the groups of each set; those of a set are put side by side.
        obs_set: what the model is for; the ``critic`` gives values, any other gives actions.
        output_dim: A, or 1 of a critic.
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.
        action_range: the bounds of every action, for policies that squash theirs into them.
        others: none; the arguments of the library's own models are refused, each with what to do.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the library does not send what the policy reads, or does not carry its memory.
    """

    policy: nn.Module
    """As `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    def __init__(
        self,
        obs: Mapping[str, Tensor],
        obs_groups: Mapping[str, Sequence[str]],
        obs_set: str,
        output_dim: int,
        policy: PolicyLike = "Default",
        action_range: tuple[float, float] | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        _require_none(others)
        self.groups, self.gives_values = tuple(obs_groups[obs_set]), obs_set == CRITIC
        self.critic_groups = self.groups
        observation: gym_spaces.Space[Any] = _observation_space(obs, self.groups)
        critics = tuple(obs_groups.get(CRITIC, self.groups))
        self._sizes: dict[str, int] = {}
        if not self.gives_values and set(critics) != set(self.groups):
            divided = _divided(policy, self.groups, critics)
            if divided is not None:
                policy, self.critic_groups = divided, critics
                observation = _groups_space(obs, (*self.groups, *critics))
                self._sizes = {group: obs[group].shape[1] for group in observation}
        self.spaces = Spaces(observation, _box(action_range, output_dim))
        self.guest = Guest(policy, self.spaces, library="rsl_rl")
        self.policy = self.guest.policy
        self.is_recurrent = bool(self.guest.packed.size)
        self.guest.require_no_previous()
        if obs_set == STUDENT:
            # The library learns through the steps of a student, and a state here has no gradient.
            self.guest.require_no_memory(
                "the student of a Distillation",
                fix="Give the student a policy without memory, such as 'Default'; a teacher may "
                "have any.",
            )
        self._envs = len(obs[self.groups[0]])
        self._carried: Tensor | None = None
        self._logits: tuple[Normal, Batch] | None = None
        self._values: tuple[object, Tensor] | None = None

    @property
    def cnns(self) -> PufferModel:
        """What a `PufferSharedCritic` gets: the library has this name for what is shared."""
        return self

    # -- passes ------------------------------------------------------------------------------------

    def forward(
        self,
        obs: Mapping[str, Tensor],
        masks: Tensor | None = None,
        hidden_state: Tensor | None = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        """Return actions (N, A) or values (N, 1); where there are masks, (T, B, ...).

        Args:
            obs: groups of (N, n); where there are masks, padded to (T, R, n).
            masks: true where a row of (T, R) is not padding.
            hidden_state: (1, R, 1 + S), before the first step of each piece.
            stochastic_output: draw actions, instead of the likeliest ones.
        """
        logits, values, batch = self._run(self._join(obs), masks, hidden_state)
        values = _time_first(values, batch)
        if self.gives_values:
            return values
        self._values = obs, values
        if not stochastic_output:
            return _time_first(distribution(logits).mode(), batch)
        self._logits = _require_normal(logits), batch
        return _time_first(distribution(logits).sample(), batch)

    def values(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the values that the last pass found for these observations, else find them.

        The memory stays as it is.
        """
        last, self._values = self._values, None
        if last is not None and last[0] is obs:
            return last[1]
        before = self._carried
        _, values, _ = self._run(self._join(obs), None, None)
        self._carried = before
        return values

    def _run(
        self, rows: Tensor, masks: Tensor | None, hidden_state: Tensor | None
    ) -> tuple[Any, Tensor, Batch]:
        """Return logits and values of N rows, where row b * T + t is step t, and (N,) or (B, T)."""
        if masks is not None:
            return self._run_pieces(rows, masks, hidden_state)
        if not self.is_recurrent:
            policy: Any = self.policy
            run = policy if torch.is_grad_enabled() else policy.forward_eval
            return *run(self._observations(rows), {}), (len(rows),)
        no_starts = torch.zeros(len(rows), device=rows.device)
        logits, values, after = self.guest.carry_step(
            self._observations(rows), self._state(len(rows))[0], no_starts
        )
        self._carried = after.unsqueeze(0)
        return logits, values, (len(rows),)

    def _run_pieces(
        self, padded: Tensor, masks: Tensor, hidden_state: Tensor | None
    ) -> tuple[Any, Tensor, Batch]:
        """Join the pieces into the rollouts of B envs again, with starts in their midst."""
        rollouts = unpad_trajectories(padded, masks).transpose(0, 1)  # (B, T, D)
        batch, rows = tuple(rollouts.shape[:2]), rollouts.flatten(0, 1)
        observations = self._observations(rows)
        if hidden_state is None:
            return *self.policy(observations, {}), batch
        lengths = masks.sum(0)
        first = lengths.cumsum(0) - lengths  # (R,), the row of the first step of each piece
        starts = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        starts[first] = hidden_state[0, :, 0] == 0
        carry = hidden_state[0, first % batch[1] == 0]
        logits, values, _ = self.guest.carry_sequences(observations, carry, starts.reshape(batch))
        return logits, values, batch

    def _join(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the groups that the policy reads, side by side."""
        if not self._sizes:
            return torch.cat([obs[group] for group in self.groups], -1)
        own = obs[self.groups[0]]
        # Whoever plays has the actor's groups alone, and its actions do not depend on the others.
        absent = self._sizes.keys() - {*obs.keys(), *self.groups}  # a TensorDict has no `in`
        parts = [
            own.new_zeros(*own.shape[:-1], size) if group in absent else obs[group]
            for group, size in self._sizes.items()
        ]
        return torch.cat(parts, -1)

    def _observations(self, rows: Tensor) -> Any:
        """Return what `_join` put side by side, (N, D), as the policy reads it."""
        if not self._sizes:
            return rows
        parts = torch.split(rows, list(self._sizes.values()), -1)
        return dict(zip(self._sizes, parts, strict=True))

    # -- memory ------------------------------------------------------------------------------------

    def reset(self, dones: Tensor | None = None, hidden_state: Tensor | None = None) -> None:
        """Start an episode in the envs that are done, or set the state of all of them."""
        if dones is None:
            self._carried = hidden_state
        elif self._carried is not None:
            self._carried = self._carried.masked_fill(dones.reshape(1, -1, 1) == 1, 0)

    def get_hidden_state(self) -> Tensor | None:
        """Return the state (1, B, 1 + S) before the next step; None without a memory."""
        return self._state(self._envs) if self.is_recurrent else None

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """Do nothing: no state here has a gradient."""

    def _state(self, rows: int) -> Tensor:
        if self._carried is None:
            self._carried = torch.zeros((1, rows, self.guest.carry_size), device=device_of(self))
        if self._carried.is_inference() and not torch.is_inference_mode_enabled():
            self._carried = self._carried.clone()
        return self._carried

    def update_normalization(self, obs: Mapping[str, Tensor]) -> None:
        """Let the policy take over the statistics of a rollout, between it and the next one."""
        self.guest.see(self._observations(self._join(obs)))
        self.guest.update_statistics()

    # -- the last distribution ---------------------------------------------------------------------

    @property
    def output_mean(self) -> Tensor:
        """The likeliest actions, (N, A) or (T, B, A)."""
        logits, batch = self._last()
        return _time_first(distribution(logits).mode(), batch)

    @property
    def output_std(self) -> Tensor:
        """(N, A) or (T, B, A)."""
        return self.output_distribution_params[1]

    @property
    def output_entropy(self) -> Tensor:
        """(N,) or (T, B)."""
        logits, batch = self._last()
        return _time_first(distribution(logits).entropy(), batch)

    @property
    def output_distribution_params(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (N, A) or (T, B, A) each; before tanh of squashed ones."""
        logits, batch = self._last()
        return _time_first(logits.loc, batch), _time_first(logits.scale, batch)

    def get_output_log_prob(self, outputs: Tensor) -> Tensor:
        """Return the log-probabilities of actions (N, A) or (T, B, A): (N,) or (T, B)."""
        logits, batch = self._last()
        rows = outputs.transpose(0, 1).flatten(0, 1) if len(batch) > 1 else outputs
        # Its PPO squeezes what it subtracts from this: (T, 1) minus (T,) would be all pairs.
        return _time_first(distribution(logits).log_prob(rows), batch).squeeze()

    def get_kl_divergence(
        self, old_params: tuple[Tensor, Tensor], new_params: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return the divergence of two `output_distribution_params`: (N,) or (T, B)."""
        return kl_divergence(Normal(*old_params), Normal(*new_params)).sum(-1)

    def _last(self) -> tuple[Normal, Batch]:
        if self._logits is None:
            raise BuildError(
                "No actions were drawn yet.", fix="Call the model with stochastic_output=True."
            )
        return self._logits

    # -- exports -----------------------------------------------------------------------------------

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """Return the step that the library writes to ONNX, with the names that it has there."""
        if not self._sizes:
            return _NamedStep(RslRl(Step(self.policy, self.spaces)))
        actor = actor_of(self.policy, self.spaces)
        joined = _SideBySide(actor.policy, self.groups, self.spaces, self._sizes)
        return _NamedStep(RslRl(Step(joined, joined.spaces, has_values=False)))

    def as_jit(self) -> nn.Module:
        """Refuse.

        Raises:
            BuildError: always, as our policies are not written for TorchScript.
        """
        raise BuildError(
            "Policies of this package have no form in TorchScript.",
            fix="Write ONNX by export_policy_to_onnx, or torch.export by "
            "puffer_policies.export_policy(model.policy, ...).",
        )


class PufferSharedCritic(nn.Module):
    """The values of the policy of the actor: one policy serves both, with one memory.

    It has no weights of its own, and takes the values of the pass that the actor has just made.
    Set ``cfg["algorithm"]["share_cnn_encoders"] = True``, by which the library hands over what
    actor and critic share, whether it is of convolutions or not.

    Args:
        obs: those of the actor.
        obs_groups: the groups of each set.
        obs_set: the set of the critic, which has the same groups as that of the actor, unless the
            actor's policy has a `SeparateCriticWrapper`.
        output_dim: 1.
        cnns: the actor.
        others: none.

    Raises:
        BuildError: the actor is not a `PufferModel`, or reads other groups.
    """

    def __init__(
        self,
        obs: Mapping[str, Tensor],
        obs_groups: Mapping[str, Sequence[str]],
        obs_set: str,
        output_dim: int,
        cnns: Any = None,
        **others: Any,
    ) -> None:
        super().__init__()
        if not isinstance(cnns, PufferModel):
            raise BuildError(
                f"PufferSharedCritic shares the policy of a PufferModel, and got "
                f"{type(cnns).__name__!r}.",
                fix=f"Make {PLACE}:PufferModel the actor, and set {SHARE!r} to True in the table "
                "of the algorithm.",
            )
        if others:
            raise BuildError(
                f"PufferSharedCritic takes no {', '.join(map(repr, others))}.",
                fix="Its policy is the actor's; say it there.",
            )
        groups = tuple(obs_groups[obs_set])
        if groups != cnns.critic_groups:
            raise BuildError(
                f"The {obs_set} reads {list(groups)}, and the actor reads {list(cnns.groups)}.",
                fix="Give both sets the same groups, put a SeparateCriticWrapper around the "
                "actor's policy, or make the critic a PufferModel of its own.",
            )
        # In a tuple, so that no weight is trained twice as one of the critic.
        self._actor = (cnns,)
        self.is_recurrent = cnns.is_recurrent

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return none; an iterator that is not a generator, of which torch's clipping warns."""
        return iter(())

    def forward(
        self,
        obs: Mapping[str, Tensor],
        masks: Tensor | None = None,
        hidden_state: Any = None,
        stochastic_output: bool = False,
    ) -> Tensor:
        """Return the values of the actor's last pass, (N, 1) or (T, B, 1), or of another step."""
        return self._actor[0].values(obs)

    def reset(self, dones: Tensor | None = None, hidden_state: Any = None) -> None:
        """Do nothing: the memory is the actor's."""

    def get_hidden_state(self) -> None:
        """Return None: the memory is the actor's."""

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """Do nothing: the memory is the actor's."""

    def update_normalization(self, obs: Mapping[str, Tensor]) -> None:
        """Do nothing: the statistics are the actor's."""


def _time_first(rows: Tensor, batch: Batch) -> Tensor:
    """(N, ...) -> the same, or (T, B, ...) of a pass with masks."""
    return rows if len(batch) == 1 else rows.reshape(*batch, *rows.shape[1:]).transpose(0, 1)


def _require_none(others: Mapping[str, Any]) -> None:
    if others:
        known = [f"{key}: {REPLACEMENTS[key]}" for key in others if key in REPLACEMENTS]
        raise BuildError(
            f"PufferModel takes policy and action_range, and got {', '.join(map(repr, others))}.",
            fix="; ".join(known) + "." if known else "Leave it out.",
        )


def _divided(policy: PolicyLike, own: Sequence[str], critics: Sequence[str]) -> PolicySpec | None:
    """Return a stack whose `SeparateCriticWrapper` gets the groups as keys; None without one."""
    if isinstance(policy, type):
        return None
    registry = default_registry()
    spec = spec_of(policy, registry)
    keys = {"actor_keys": list(own), "critic_keys": list(critics)}
    places = [
        place
        for place, each in enumerate(spec.wrappers)
        if registry.get(each.name).load() is SeparateCriticWrapper
    ]
    if not places:
        return None
    wrapper = spec.wrappers[places[0]]
    if present := [key for key in keys if wrapper.kwargs.get(key) is not None]:
        raise BuildError(
            f"The {' and '.join(present)} of {spec} are the groups of rsl_rl's sets here: "
            f"actor {keys['actor_keys']}, critic {keys['critic_keys']}.",
            fix="Leave them out, and say in obs_groups who reads what.",
        )
    wrappers = list(spec.wrappers)
    wrappers[places[0]] = replace(wrapper, kwargs={**wrapper.kwargs, **keys})
    return replace(spec, wrappers=tuple(wrappers))


def _groups_space(obs: Mapping[str, Tensor], groups: Sequence[str]) -> gym_spaces.Dict:
    return gym_spaces.Dict({group: _observation_space(obs, [group]) for group in groups})


def _observation_space(obs: Mapping[str, Tensor], groups: Sequence[str]) -> gym_spaces.Box:
    for group in groups:
        if obs[group].ndim != 2:
            raise BuildError(
                f"The observations of the group {group!r} have the shape "
                f"{tuple(obs[group].shape[1:])}; here they are put side by side, (B, n) each.",
                fix="Let the env return rows of numbers.",
            )
    return _box(None, sum(obs[group].shape[1] for group in groups))


def _box(bounds: tuple[float, float] | None, size: int) -> gym_spaces.Box:
    low, high = bounds or (-np.inf, np.inf)
    return gym_spaces.Box(low, high, (size,), np.float32)


def _require_normal(logits: Any) -> Normal:
    if isinstance(logits, Normal):
        return logits
    raise BuildError(
        f"The policy gives logits of type {type(logits).__name__!r}; rsl_rl stores a mean and a "
        "standard deviation of each action.",
        fix="Use a policy whose logits are a torch.distributions.Normal.",
    )


class _SideBySide(PolicyWrapper):
    """An actor of groups that takes them side by side, as the library hands them to an actor."""

    def __init__(
        self, actor: nn.Module, groups: Sequence[str], spaces: Spaces, sizes: Mapping[str, int]
    ) -> None:
        self._own = {group: sizes[group] for group in groups}
        box = _box(None, sum(self._own.values()))
        super().__init__(Spaces(box, spaces.action), actor)

    def transform_observations(self, observations: Any, state: State | None) -> Any:
        """(N, D) -> (N, n) of each group."""
        parts = torch.split(observations, list(self._own.values()), -1)
        return dict(zip(self._own, parts, strict=True))


class _NamedStep(nn.Module):
    """A graph as the exporter of the library calls it: by place, with names beside it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.step = graph  # an exporter gives its own modules an attribute graph
        self.input_names = [port.name for port in graph.inputs]
        self.output_names = [port.name for port in graph.outputs]
        self.is_recurrent = bool(graph.carried)

    def get_dummy_inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.step.example().values())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.step(dict(zip(self.input_names, inputs, strict=True)))
        return tuple(outputs[name] for name in self.output_names)


# -- from there to here ----------------------------------------------------------------------------


def as_policy(
    actor: models.MLPModel, critic: models.MLPModel, obs: Mapping[str, Tensor] | None = None
) -> ActorCritic:
    """Return an actor and a critic of the library, trained or new, as one policy of ours.

    It has their very modules, so that training one trains the other. The checker, `Agent`, exports
    and comparisons serve it. An observation is that of the groups, side by side. Where actor and
    critic read unlike groups, it is a Dict of the groups, and `actor_of` the actor alone.

    Args:
        actor: gives actions.
        critic: gives values.
        obs: observations of all envs, each group (B, n), from which the sizes of unlike groups are
            read.

    Raises:
        BuildError: they have a memory or convolutions, read unlike groups of unknown sizes, or have
            another distribution than a Normal.
    """
    for each in (actor, critic):
        if type(each).get_latent is not models.MLPModel.get_latent:
            raise BuildError(
                f"{type(each).__name__} has more than layers of its own, for which there is no "
                "form here.",
                fix="Models of MLPModel have one.",
            )
    own, critics = list(actor.obs_groups), list(critic.obs_groups)
    if own != critics and obs is None:
        raise BuildError(
            f"The actor reads {own}, and the critic {critics}, of sizes that they do not tell.",
            fix="Pass observations, too: as_policy(actor, critic, env.get_observations()).",
        )
    if not isinstance(actor.distribution, GaussianDistribution):
        kind = type(actor.distribution).__name__
        raise BuildError(
            f"The actor has a {kind} of actions, for which there is no form here.",
            fix="GaussianDistribution and HeteroscedasticGaussianDistribution have one.",
        )
    size, actions = actor.obs_dim, _box(None, actor.distribution.output_dim)
    head = _Actor(actor.mlp, actor.distribution, size)
    value = CriticHead(critic.mlp, columns=slice(size, None))
    if own == critics:
        readers = [_Reader(each.obs_normalizer) for each in (actor, critic)]
        return _ActorCritic(readers, Spaces(_box(None, size), actions), actor=head, critic=value)
    assert obs is not None
    readers = [_Reader(each.obs_normalizer, each.obs_groups) for each in (actor, critic)]
    spaces = Spaces(_groups_space(obs, (*own, *critics)), actions)
    policy = _ActorCritic(readers, spaces, actor=head, critic=value)
    policy.privileged_keys = tuple(group for group in critics if group not in own)
    if policy.privileged_keys:
        policy.alone = Spaces(with_keys(spaces.observation, own), actions)
    return policy


class _Reader(nn.Module):
    """Observations of groups, or of all of them side by side -> (N, D), normalized.

    Args:
        normalizer: of the library.
        groups: keys of the observation, in the order of their columns; None: it has none.
    """

    def __init__(self, normalizer: nn.Module, groups: Sequence[str] | None = None) -> None:
        super().__init__()
        self.normalizer, self.groups = normalizer, groups

    def forward(self, observations: Any) -> Tensor:
        numbers: Tensor = self.normalizer(self.join(observations))
        return numbers

    def join(self, observations: Any) -> Tensor:
        """Return the numbers of the groups, (N, D)."""
        if self.groups is not None:
            observations = torch.cat([observations[group] for group in self.groups], -1)
        numbers: Tensor = observations.float()
        return numbers


class _ActorCritic(ActorCritic):
    """With the statistics of the models: the library leaves them alone in evaluation mode."""

    privileged_keys: tuple[str, ...] = ()
    alone: Spaces | None = None
    """What the actor sees, where the critic sees more."""

    def __init__(
        self, readers: Sequence[nn.Module], spaces: Spaces, *, actor: nn.Module, critic: nn.Module
    ) -> None:
        encoder = Trunks(_same, *readers, space=spaces.observation)
        super().__init__(encoder, spaces, actor=actor, critic=critic)

    def actor_alone(self) -> Actor:
        """Return the actor without the critic, where that sees more."""
        if self.alone is None:
            return Actor(self, self.spaces)
        reader: Any = self.encoder.networks[0]  # type: ignore[index]
        policy = _ActorCritic([reader], self.alone, actor=self.actor, critic=_NoValues())
        return Actor(policy, self.alone, is_part=True)

    def update_statistics(self, observations: Any) -> None:
        for each in self.encoder.networks:  # type: ignore[union-attr]
            if isinstance(each.normalizer, EmpiricalNormalization):
                each.normalizer.update(each.join(observations))


def _same(observations: Any) -> Any:
    return observations


class _NoValues(nn.Module):
    """(N, H) -> zeros (N, 1), in the place of a critic that is not there."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_zeros(*hidden.shape[:-1], 1)


class _Actor(nn.Module):
    """(N, 2 * D) -> a Normal of the actions."""

    is_continuous = True

    def __init__(self, mlp: nn.Module, form: GaussianDistribution, size: int) -> None:
        super().__init__()
        self.mlp, self.form, self.size = mlp, form, size

    def forward(self, hidden: Tensor) -> Normal:
        # The library leaves the last distribution on the module, with its graph: on a copy here.
        form = copy.copy(self.form)
        form.update(self.mlp(hidden[..., : self.size]))
        mean, std = form.params
        return Normal(mean, std)


def stock_policy(cls: type[models.MLPModel], env: Any) -> ActorCritic:
    """Return a new actor and critic of a class of the library, as `as_policy` makes them."""
    spaces = spaces_of(env)
    require_kinds(spaces, "rsl_rl's stock model", observations=("vector",), actions=("box",))
    size, actions = (gym_spaces.flatdim(each) for each in (spaces.observation, spaces.action))
    obs, groups = {"policy": torch.zeros(1, size)}, {"actor": ["policy"], CRITIC: ["policy"]}
    form = {"class_name": "GaussianDistribution"}
    actor = cls(obs, groups, "actor", actions, distribution_cfg=form)
    return as_policy(actor, cls(obs, groups, CRITIC, 1))


MLPModel = partial(stock_policy, models.MLPModel)
