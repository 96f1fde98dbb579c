"""Our policies in TorchRL: an actor and a critic of tensordicts, around one policy.

``actor, critic = make_actor_critic("GRUWrapper(Default)", env)`` serve its collectors, its GAE and
its on-policy losses. https://docs.pytorch.org/rl

`N` rows of a batch, `B` envs or rows of a batch of sequences, `T` steps, `S` numbers of the state
of a row, `K` choices, `A` options of all choices, `H` numbers that heads read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Distribution, Independent, Normal

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.foreign import optional_imports
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import device_of
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.distributions import SquashedNormal, distribution
from puffer_policies.nn.packed_state import PackedState
from puffer_policies.spaces import Spaces, action_layout

with optional_imports(extra="torchrl", purpose="TorchRL"):
    from tensordict import TensorDict
    from tensordict.nn import (
        InteractionType,
        TensorDictModuleBase,
        composite_lp_aggregate,
    )
    from tensordict.nn.probabilistic import interaction_type
    from torchrl.data import (
        Binary,
        Bounded,
        Categorical,
        MultiCategorical,
        MultiOneHot,
        OneHot,
        Unbounded,
    )
    from torchrl.envs import Compose, TensorDictPrimer, Transform
    from torchrl.modules import (
        ActorCriticWrapper,
        ActorValueOperator,
        TanhNormal,
        recurrent_mode,
    )

MEMORY = "memory"
"""Key of the state of any memory, (1 + S): how many steps its episode is old, and its numbers."""

OBSERVATION, ACTION, VALUE = "observation", "action", "state_value"
"""Keys of the library."""

Key = str | tuple[str, ...]


# -- specs as spaces -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A spec as a space, and the way between members of the space and entries of a tensordict."""

    space: Space[Any]
    shape: tuple[int, ...]
    """Of an entry, without the batch."""
    dtype: torch.dtype
    one_hot: tuple[int, ...] = ()
    """Options of each choice, where an entry has a number for each of them."""

    def entries(self, members: Tensor) -> Tensor:
        """(N, *space) -> (N, *shape)."""
        if self.one_hot:
            choices = members.reshape(len(members), len(self.one_hot)).unbind(-1)
            vectors = map(nn.functional.one_hot, choices, self.one_hot)
            members = torch.cat(list(vectors), -1)
        return members.reshape(-1, *self.shape).to(self.dtype)

    def members(self, entries: Tensor) -> Tensor:
        """(..., *shape) -> (N, *space): the inverse of `entries`."""
        if not self.one_hot:
            return entries.reshape(-1, *(self.space.shape or ()))
        options = torch.split(entries.reshape(-1, sum(self.one_hot)), list(self.one_hot), -1)
        choices = torch.stack([each.to(torch.uint8).argmax(-1) for each in options], -1)
        return choices.reshape(-1, *(self.space.shape or ()))


@singledispatch
def form_of(spec: Any) -> Form:
    """Return the form of a spec of one env, without its batch.

    Raises:
        IncompatibleSpace: a spec that no space stands for.
    """
    raise IncompatibleSpace(
        f"No space stands for a spec of type {type(spec).__name__!r}.",
        fix="Specs of numbers, of choices and of bits have one; name others apart.",
    )


@form_of.register
def _(spec: Unbounded) -> Form:
    kind = _numpy(spec.dtype)
    limits = np.iinfo(kind) if kind.kind in "iu" else None
    low, high = (limits.min, limits.max) if limits else (-np.inf, np.inf)
    return _form(spec, gym_spaces.Box(low, high, tuple(spec.shape), kind.type))


@form_of.register
def _(spec: Bounded) -> Form:
    low, high = (each.cpu().numpy() for each in (spec.space.low, spec.space.high))
    return _form(spec, gym_spaces.Box(low, high, tuple(spec.shape), _numpy(spec.dtype).type))


@form_of.register
def _(spec: Categorical) -> Form:
    return _form(spec, _choices(tuple(spec.shape), int(spec.n)))


@form_of.register
def _(spec: MultiCategorical) -> Form:
    return _form(spec, gym_spaces.MultiDiscrete(spec.nvec.cpu().numpy()))


@form_of.register
def _(spec: Binary) -> Form:
    return _form(spec, gym_spaces.MultiBinary(tuple(spec.shape)))


@form_of.register
def _(spec: OneHot) -> Form:
    *shape, options = spec.shape
    one_hot = (options,) * math.prod(shape)
    return _form(spec, _choices(tuple(shape), options), one_hot)


@form_of.register
def _(spec: MultiOneHot) -> Form:
    one_hot = tuple(int(each.n) for each in spec.space)
    return _form(spec, gym_spaces.MultiDiscrete(list(one_hot)), one_hot)


def _form(spec: Any, space: Space[Any], one_hot: tuple[int, ...] = ()) -> Form:
    return Form(space, tuple(spec.shape), spec.dtype, one_hot)


def _choices(shape: tuple[int, ...], options: int) -> Space[Any]:
    """Return the space of equal choices: the library stacks the specs of several."""
    return (
        gym_spaces.MultiDiscrete(np.full(shape, options)) if shape else gym_spaces.Discrete(options)
    )


def _numpy(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


@dataclass(frozen=True)
class Forms:
    """How an env's observations and actions stand in a tensordict."""

    observation: Mapping[Key, Form]
    action: Form
    action_key: Key
    is_dict: bool
    """Whether the policy sees a dict of the observations' entries, or one of them alone."""
    mask_key: Key | None

    @property
    def spaces(self) -> Spaces:
        """The spaces of a policy."""
        if not self.is_dict:
            (form,) = self.observation.values()
            return Spaces(form.space, self.action.space)
        parts = {str(key): form.space for key, form in self.observation.items()}
        return Spaces(gym_spaces.Dict(parts), self.action.space)

    def observe(self, tensordict: Any) -> Any:
        """Return the observations of a tensordict as (N, *obs)."""
        parts = {
            str(key): form.members(_entry(tensordict, key))
            for key, form in self.observation.items()
        }
        return parts if self.is_dict else next(iter(parts.values()))


def _entry(tensordict: Any, key: Key, fix: str = "") -> Tensor:
    entry: Tensor | None = tensordict.get(key, None)
    if entry is None:
        raise ContractError(
            f"The tensordict has no {key!r}; it has {sorted(map(str, tensordict.keys()))}.",
            fix=fix or "Name the entries of the env: make_actor_critic(..., observation=...).",
        )
    return entry


def forms_of(
    env: Any, *, observation: Key | Sequence[str] = OBSERVATION, mask: Key = ACTION_MASK
) -> Forms:
    """Return how an env's observations and actions stand in a tensordict.

    Args:
        env: an env of the library, of any batch size.
        observation: the key of what the policy sees; a list of keys for a Dict.
        mask: the key of a mask of actions, where the env has one.

    Raises:
        BuildError: the env has no such entry, or several actions.
        IncompatibleSpace: a spec that no space stands for.
    """
    specs = env.observation_spec_unbatched
    names = list(specs.keys(True, True))
    is_dict = isinstance(observation, list)
    keys: list[Any] = list(observation) if isinstance(observation, list) else [observation]
    for key in [*keys, *([mask] if mask != ACTION_MASK else [])]:
        if key not in names:
            raise BuildError(
                f"The env has no entry {key!r}; it has {', '.join(map(repr, names))}.",
                fix="Name one: observation='pixels', or a list of them for a dict: "
                "observation=['pixels', 'speed'].",
            )
    if len(env.action_keys) != 1:
        raise BuildError(
            f"The env has the actions {', '.join(map(repr, env.action_keys))}; a policy has one.",
            fix="Join them in the env, by a transform.",
        )
    action = form_of(env.full_action_spec_unbatched[env.action_key])
    observed = {key: form_of(specs[key]) for key in keys}
    mask_key = mask if mask in names and mask not in keys else None
    if mask_key is not None:
        options = sum(action_layout(action.space).nvec)
        if math.prod(specs[mask_key].shape) != options:
            raise BuildError(
                f"The mask {mask_key!r} has the shape {tuple(specs[mask_key].shape)}, and the "
                f"actions have {options} options.",
                fix="A mask has one entry for each option, those of several choices side by side.",
            )
    return Forms(observed, action, env.action_key, is_dict, mask_key)


# -- the actor and the critic ----------------------------------------------------------------------


def make_actor_critic(
    policy: PolicyLike,
    env: Any,
    *,
    observation: Key | Sequence[str] = OBSERVATION,
    mask: Key = ACTION_MASK,
) -> tuple[PufferActor, PufferCritic]:
    """Return an actor and a critic around one policy, for the env of a collector.

    Args:
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.
        env: an env of the library, of any batch size.
        observation: the key of what the policy sees; a list of keys for a policy that sees a Dict.
        mask: the key of a mask of actions. Where the env has it, a policy that reads masks gets it
            in its state, and of any other it is applied to the logits.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the env has no such entries, or does not send what the policy reads.
    """
    forms = forms_of(env, observation=observation, mask=mask)
    guest = Guest(policy, forms.spaces, library="TorchRL")
    guest.require_no_previous()
    if forms.mask_key is None:
        guest.require_mask_observed(
            f"Or let the env have an entry {ACTION_MASK!r}, as the transform ActionMask reads it."
        )
    return PufferActor(guest, forms), PufferCritic(guest, forms)


class Adapter(TensorDictModuleBase):
    """What the actor and the critic share: the policy, and a pass of it.

    The state of any memory is one entry of a tensordict, `MEMORY`. Its first number counts the
    steps of the episode, so that a memory begins anew where that is 0: a primer of zeros resets it.
    ``is_init`` is not read, as value estimators of the library set it where no episode starts.
    """

    policy: nn.Module
    """As `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    def __init__(self, guest: Guest, forms: Forms) -> None:
        super().__init__()
        self.guest, self.policy, self.forms = guest, guest.policy, forms
        self.in_keys = list(forms.observation)
        if guest.packed.size:
            self.in_keys.append(MEMORY)

    def _steps(self, tensordict: Any, mask: Tensor | None) -> tuple[Any, Tensor, Tensor]:
        """Take one step of each row -> logits, values (N, 1) and memories (N, 1 + S)."""
        carry = self._carry(tensordict)
        never = torch.zeros_like(carry[:, 0])  # the memory itself tells where it begins anew
        return self.guest.carry_step(self.forms.observe(tensordict), carry, never, mask)

    def _pass(self, tensordict: Any, mask: Tensor | None) -> tuple[Any, Tensor]:
        """Return logits and values (N, 1), by steps or by sequences of the last batch dimension."""
        carry = self._carry(tensordict)
        has_gradient, has_memory = torch.is_grad_enabled(), bool(self.guest.packed.size)
        if has_memory and not recurrent_mode():
            if has_gradient:
                raise ContractError(
                    f"{self.policy.spec} has a memory, which learns nothing from single steps.",
                    fix="Call a loss, or the module in 'with set_recurrent_mode(True):' of "
                    "torchrl.modules; or without gradients.",
                )
            return self._steps(tensordict, mask)[:2]
        time = tensordict.shape[-1] if tensordict.shape else 1
        age = carry[:, 0].reshape(-1, time)  # (B, T)
        is_torn = (age[:, 1:] > 0) & (age[:, 1:] != age[:, :-1] + 1)
        if not is_torn.any():
            packed = carry.reshape(*age.shape, -1)[:, 0, 1:]
            return self.guest.sequences(self.forms.observe(tensordict), packed, age == 0, mask)
        if has_gradient:
            raise ContractError(
                f"{self.policy.spec} has a memory, and the steps of a row do not follow each "
                "other in time.",
                fix="Draw minibatches of whole rows, data[rows] of (B, T), and no single steps.",
            )
        # The observations after each step, of which those after the last one of an episode lead
        # nowhere: each has the memory that the rollout left for it.
        return self._steps(tensordict, mask)[:2]

    def _carry(self, tensordict: Any) -> Tensor:
        """Return the memories (N, 1 + S); zeros of a policy without."""
        if not self.guest.packed.size:
            return torch.zeros(tensordict.numel(), 1)
        fix = (
            "Let the collector append what the actor needs, auto_register_policy_transforms=True, "
            "or append the transform actor.make_tensordict_primer() to the env."
        )
        return _entry(tensordict, MEMORY, fix).reshape(-1, self.guest.carry_size)


class PufferActor(Adapter):
    """The actions of a policy: reads observations and the memory, writes actions and the next one.

    Outside of ``set_exploration_type``, which collectors set, it takes the likeliest actions, as
    the actors of the library do.
    """

    def __init__(self, guest: Guest, forms: Forms) -> None:
        super().__init__(guest, forms)
        if forms.mask_key is not None:
            self.in_keys.append(forms.mask_key)
        name = "sample_log_prob" if composite_lp_aggregate(nowarn=True) else "action_log_prob"
        action = (forms.action_key,) if isinstance(forms.action_key, str) else forms.action_key
        self.log_prob_key: Key = (*action[:-1], name) if len(action) > 1 else name
        self.dist_sample_keys, self.log_prob_keys = [forms.action_key], [self.log_prob_key]
        self.out_keys = [forms.action_key, self.log_prob_key]
        if guest.packed.size:
            self.out_keys.append(("next", MEMORY))

    def forward(self, tensordict: Any) -> Any:
        """Take a step of each row, whatever the batch."""
        logits, _, after = self._steps(tensordict, self._mask(tensordict))
        is_random = interaction_type() is InteractionType.RANDOM
        members, log_prob = self.guest.choose(logits, deterministic=not is_random)
        batch = tensordict.shape
        entries = self.forms.action.entries(members)
        tensordict.set(self.forms.action_key, entries.reshape((*batch, *entries.shape[1:])))
        tensordict.set(self.log_prob_key, log_prob.reshape(batch))
        if self.guest.packed.size:
            tensordict.set(("next", MEMORY), after.reshape(*batch, -1))
        return tensordict

    def get_dist(self, tensordict: Any) -> ActionDistribution:
        """Return the distribution of the actions, as losses ask for it.

        In ``set_recurrent_mode(True)`` the last batch dimension is time.

        Raises:
            ContractError: a memory would learn from single steps, or from steps in no order.
        """
        logits, _ = self._pass(tensordict, self._mask(tensordict))
        return ActionDistribution(self.guest, self.forms.action, logits, tensordict.shape)

    def make_tensordict_primer(self) -> Transform:
        """Return the transform by which an env carries the memory and resets it.

        Collectors find it by this name. That of a policy without memory does nothing.
        """
        if not self.guest.packed.size:
            return Compose()
        return TensorDictPrimer({MEMORY: Unbounded((self.guest.carry_size,))}, expand_specs=True)

    def update_statistics(self, tensordict: Any) -> None:
        """Let the policy take over the statistics of a rollout, after it has learned from it.

        Only a policy that keeps statistics changes, such as a `NormalizeObservationWrapper`.
        """
        self.guest.see(self.forms.observe(tensordict))
        self.guest.update_statistics()

    def _mask(self, tensordict: Any) -> Tensor | None:
        if self.forms.mask_key is None:
            return None
        mask = _entry(tensordict, self.forms.mask_key)
        return mask.reshape(tensordict.numel(), -1) > 0


class PufferCritic(Adapter):
    """The values of the actor's policy, for the value estimators and the losses of the library."""

    def __init__(self, guest: Guest, forms: Forms) -> None:
        super().__init__(guest, forms)
        self.out_keys = [VALUE]

    def forward(self, tensordict: Any) -> Any:
        """Write the values (..., 1); in ``set_recurrent_mode(True)`` the last dimension is time."""
        mask = None
        if self.guest.reads_mask:  # on which values do not depend
            every = sum(self.guest.layout.nvec)
            device = device_of(self.policy)
            mask = torch.ones(tensordict.numel(), every, dtype=torch.bool, device=device)
        _, values = self._pass(tensordict, mask)
        return tensordict.set(VALUE, values.reshape(*tensordict.shape, 1))


class ActionDistribution(Distribution):
    """The distribution of a policy's logits, over actions as the env has them."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, guest: Guest, form: Form, logits: Any, batch: Sequence[int]) -> None:
        super().__init__(torch.Size(batch), torch.Size(form.shape), validate_args=False)
        self.guest, self.form, self.chances = guest, form, distribution(logits)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw one action of each row."""
        if math.prod(sample_shape) != 1:
            raise NotImplementedError("An action is drawn once for each row of the logits.")
        return self._shaped(self.chances.sample())

    @property
    def mode(self) -> Tensor:
        """The likeliest actions."""
        return self._shaped(self.chances.mode())

    @property
    def deterministic_sample(self) -> Tensor:
        """The likeliest actions, under the name that the library has for them."""
        return self.mode

    def log_prob(self, value: Tensor) -> Tensor:
        """(*batch, *action) -> (*batch)."""
        actions = self.guest.actions(self.form.members(value))
        return self.chances.log_prob(actions).reshape(self.batch_shape)

    def entropy(self) -> Tensor:
        """Return (*batch)."""
        return self.chances.entropy().reshape(self.batch_shape)

    def _shaped(self, actions: Tensor) -> Tensor:
        entries = self.form.entries(self.guest.members(actions))
        return entries.reshape(self.batch_shape + self.event_shape)


# -- from there to here ----------------------------------------------------------------------------


def as_policy(
    actor: Any,
    critic: Any = None,
    *,
    env: Any,
    observation: Key | Sequence[str] = OBSERVATION,
) -> ActorCritic:
    """Return an actor and a critic of the library, trained or new, as one policy of ours.

    It has their very modules, so that training one trains the other. The checker, `Agent`, exports
    and comparisons serve it.

    Args:
        actor: a `ProbabilisticActor`, or both in an `ActorValueOperator` or `ActorCriticWrapper`.
        critic: a `ValueOperator`, or any module that writes `VALUE`.
        env: an env of the library, for its specs.
        observation: the key that they read; a list of keys for a Dict.

    Raises:
        BuildError: they have a memory, read what the env does not send, or have a distribution for
            which there is no form here.
    """
    common: Any = None
    if isinstance(actor, ActorValueOperator):
        common, actor, critic = actor[0], actor.get_policy_head(), actor.get_value_head()
    elif isinstance(actor, ActorCriticWrapper):
        actor, critic = actor.get_policy_operator(), actor.get_value_operator()
    if critic is None or not hasattr(actor, "get_dist"):
        raise BuildError(
            f"as_policy got {type(actor).__name__} and {type(critic).__name__}.",
            fix="Give it a ProbabilisticActor and a ValueOperator, or an ActorValueOperator.",
        )
    forms = forms_of(env, observation=observation)
    encoder = _Encoder(common, [*actor.in_keys, *critic.in_keys], forms)
    heads = _Actor(actor, encoder.entries, forms.spaces), _Critic(critic, encoder.entries)
    with torch.no_grad():  # an actor without a form here is refused now
        heads[0](torch.zeros(1, encoder.hidden_size))
    return ActorCritic(encoder, forms.spaces, actor=heads[0], critic=heads[1])


class _Encoder(nn.Module):
    """(N, *obs) -> (N, H): the entries that the heads read, side by side."""

    def __init__(self, common: Any, keys: Sequence[Any], forms: Forms) -> None:
        super().__init__()
        self.common, self.forms = common, forms
        needed = keys if common is None else list(common.in_keys)
        absent = [key for key in needed if key not in forms.observation]
        if absent:
            raise BuildError(
                f"The modules read {', '.join(map(repr, absent))}, and the policy would see "
                f"{', '.join(map(repr, forms.observation))}.",
                fix="Name what they read: as_policy(..., observation=['pixels', 'speed']). A "
                "memory and a mask have no form here.",
            )
        with torch.no_grad():
            read = _example(forms) if common is None else common(_example(forms))
        self.entries = PackedState.of({key: read[key] for key in dict.fromkeys(keys)})
        self.hidden_size = self.entries.size

    def forward(self, observations: Any) -> Tensor:
        parts = observations if self.forms.is_dict else {None: observations}
        entries = {
            key: form.entries(parts[str(key) if self.forms.is_dict else None])
            for key, form in self.forms.observation.items()
        }
        rows = len(next(iter(entries.values())))
        read = TensorDict(entries, [rows])
        read = read if self.common is None else self.common(read)
        return self.entries.pack(read)


class _Actor(nn.Module):
    """(N, H) -> logits."""

    def __init__(self, actor: Any, entries: PackedState, spaces: Spaces) -> None:
        super().__init__()
        self.actor, self.entries = actor, entries
        self.is_continuous = action_layout(spaces.action).is_continuous

    def forward(self, hidden: Tensor) -> Any:
        read = TensorDict(self.entries.unpack(hidden), [len(hidden)])
        return _logits_of(self.actor.get_dist(read))


class _Critic(nn.Module):
    """(N, H) -> (N, 1)."""

    def __init__(self, critic: Any, entries: PackedState) -> None:
        super().__init__()
        self.critic, self.entries = critic, entries

    def forward(self, hidden: Tensor) -> Tensor:
        read = TensorDict(self.entries.unpack(hidden), [len(hidden)])
        values: Tensor = self.critic(read)[VALUE]
        return values.reshape(-1, 1)


def _example(forms: Forms) -> TensorDict:
    """Return one row of zeros, as an env sends observations."""
    entries = {
        key: torch.zeros(1, *form.shape, dtype=form.dtype)
        for key, form in forms.observation.items()
    }
    return TensorDict(entries, [1])


@singledispatch
def _logits_of(chances: Any) -> Any:
    """Return the logits of ours that mean the same as a distribution of theirs."""
    raise BuildError(
        f"The actor has a {type(chances).__name__} of actions, for which there is no form here.",
        fix="Categorical, OneHotCategorical, Normal, IndependentNormal and TanhNormal have one.",
    )


@_logits_of.register
def _(chances: TorchCategorical) -> Any:
    return chances.logits if chances.logits.ndim == 2 else tuple(chances.logits.unbind(1))


@_logits_of.register
def _(chances: Normal) -> Normal:
    return chances


@_logits_of.register
def _(chances: Independent) -> Normal:  # type: ignore[type-arg]
    return _logits_of(chances.base_dist)  # type: ignore[no-any-return]


@_logits_of.register
def _(chances: TanhNormal) -> SquashedNormal:
    loc = chances.loc  # after the library's own bound on it
    low, high = (each.to(loc.dtype).expand(loc.shape[1:]) for each in (chances.low, chances.high))
    return SquashedNormal(loc, chances.scale.expand_as(loc), low, high)
