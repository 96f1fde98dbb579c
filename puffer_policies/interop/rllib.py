"""Our policies as modules of RLlib: ``RLModuleSpec(PufferModule, model_config={"policy": ...})``.

https://docs.ray.io/en/latest/rllib

`N` rows of a batch, `B` envs or pieces of episodes, `T` steps, `n` numbers of all logits, `S` of
the state of a row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import singledispatch
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from puffer_policies.errors import BuildError
from puffer_policies.foreign import optional_imports
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import CriticHead, device_of, logits_of, one_action, samples
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.nn.distributions import (
    LOG_OF_NOTHING,
    SquashedNormal,
    distribution,
    sum_rows,
)
from puffer_policies.spaces import ActionLayout, Spaces, action_layout, spaces_of
from puffer_policies.spaces.nested import leaves
from puffer_policies.wrappers.squashed import SquashedGaussianWrapper

with optional_imports(extra="rllib", purpose="RLlib"):
    from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
    from ray.rllib.algorithms.ppo.torch import default_ppo_torch_rl_module as stock
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.distribution.distribution import Distribution
    from ray.rllib.core.distribution.torch.torch_distribution import TorchDeterministic
    from ray.rllib.core.models.base import ACTOR, CRITIC, ENCODER_OUT
    from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    from ray.rllib.core.rl_module.torch import TorchRLModule

STATE = "packed"
"""The one key of the state that RLlib carries."""

DEFAULTS = {"policy": "Default", "max_seq_len": 20, "normalize_actions": True}
"""The options of `model_config`; the last two are the library's own, with its own defaults."""

UNREAD = {"vf_share_layers"}
"""What the library puts into `model_config` by itself."""


class PufferModule(TorchRLModule, ValueFunctionAPI):
    """A policy of this package, with any memory, as an RLModule, such as for PPO.

    Options in `model_config`:
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.
        max_seq_len: the longest piece of an episode that a memory learns through.
        normalize_actions: as in the config of the algorithm, where it is True by default: bounded
            real actions stand between -1 and 1 in the library, and integers count from 0.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: an unknown option, or the library does not send what the policy reads.
    """

    policy: nn.Module
    """As `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    model_config: Any

    def setup(self) -> None:
        """Build the policy: the constructor of the library calls this."""
        options: dict[str, Any] = dict(self.model_config or {})
        unknown = sorted(options.keys() - DEFAULTS.keys() - UNREAD)
        if unknown:
            raise BuildError(
                f"The model_config of a PufferModule has no {', '.join(map(repr, unknown))}.",
                fix=f"It has {', '.join(map(repr, DEFAULTS))}; sizes stand in the policy, such as "
                "'Default(hidden_size=64)'.",
            )
        # The library reads the length of sequences here.
        self.model_config = {**DEFAULTS, **options}
        spaces = Spaces(self.observation_space, self.action_space)
        self.guest = Guest(self.model_config["policy"], spaces, library="RLlib")
        self.policy = self.guest.policy
        self.guest.require_no_previous()
        self.guest.require_mask_observed()
        self.guest.require_no_statistics(
            fix="Use the library's MeanStdFilter as an env_to_module_connector."
        )
        self.form = Form.of(self.guest, normalize_actions=self.model_config["normalize_actions"])
        # The library builds a distribution by its class and the logits alone.
        self.action_dist_cls = type("PufferActions", (Actions,), {"form": self.form})

    def get_initial_state(self) -> dict[str, np.ndarray]:
        """Return the state of a first step, {STATE: (1 + S,)}; empty without a memory."""
        if not self.guest.packed.size:
            return {}
        return {STATE: np.zeros(self.guest.carry_size, np.float32)}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Take one step: of (B, *obs), or of (B, 1, *obs) with a memory."""
        obs = self.guest.rows(batch[Columns.OBS])
        if not self.guest.packed.size:
            logits, _ = self.policy.forward_eval(obs, {})  # type: ignore[operator]
            return {Columns.ACTION_DIST_INPUTS: self.form.numbers(logits)}
        carry = batch[Columns.STATE_IN][STATE]
        no_starts = torch.zeros(len(carry), device=carry.device)
        logits, _, carried = self.guest.carry_step(obs, carry, no_starts)
        return {
            Columns.ACTION_DIST_INPUTS: self.form.numbers(logits).unsqueeze(1),
            Columns.STATE_OUT: {STATE: carried},
        }

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the numbers of the logits, (B, n) or (B, T, n), and values for the loss."""
        logits, values, shape = self._learn(batch)
        numbers = self.form.numbers(logits)
        return {
            Columns.ACTION_DIST_INPUTS: numbers.reshape(*shape, -1),
            Columns.EMBEDDINGS: values,
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Return values (B,) or (B, T): those of `_forward_train`, if it has just run."""
        return self._learn(batch)[1] if embeddings is None else embeddings

    def _learn(self, batch: dict[str, Any]) -> tuple[Any, Tensor, tuple[int, ...]]:
        """Return logits of N rows, values (B,) or (B, T), and (B,) or (B, T).

        Pieces of episodes are padded, and the library leaves the padding out of its loss.
        """
        obs = self.guest.allowing(self.guest.rows(batch[Columns.OBS]))
        if not self.guest.packed.size:
            logits, values = self.policy(obs, {})
            return logits, values.flatten(), (values.numel(),)
        carry = batch[Columns.STATE_IN][STATE]
        # A piece never crosses an episode, so that its state alone tells whether one begins.
        time = len(next(leaves(obs))) // len(carry)
        no_starts = torch.zeros(len(carry), time, device=carry.device)
        logits, values, _ = self.guest.carry_sequences(obs, carry, no_starts)
        return logits, values.reshape(no_starts.shape), tuple(no_starts.shape)


@dataclass(frozen=True, slots=True)
class Form:
    """How logits and actions of a policy look in RLlib.

    Logits are one row of numbers: those of all choices side by side, or means and logarithms of
    deviations. A real action stands between -1 and 1 where the library normalizes actions, and an
    integer counts from 0.
    """

    guest: Guest
    shift: Tensor
    """The middle of real numbers, or the first of integers."""
    scale: Tensor
    """Half of the width of real numbers, or 1."""

    @classmethod
    def of(cls, guest: Guest, *, normalize_actions: bool) -> Self:
        """Return the form for a policy; see `PufferModule` for `normalize_actions`."""
        return cls(guest, *library_move(guest.spaces.action if normalize_actions else None))

    def numbers(self, logits: Any) -> Tensor:
        """Return logits of N rows as (N, n)."""
        if isinstance(logits, Normal):
            if type(logits) is not (SquashedNormal if self._is_squashed else Normal):
                raise BuildError(
                    f"There is no form in RLlib for logits of type {type(logits).__name__!r}.",
                    fix="Use a policy whose logits are a torch.distributions.Normal.",
                )
            return torch.cat([logits.loc.flatten(1), logits.scale.flatten(1).log()], -1)
        return torch.cat(tuple(logits), -1) if isinstance(logits, tuple | list) else logits

    def logits(self, numbers: Tensor) -> Any:
        """Return the logits of (N, n): the inverse of `numbers`."""
        logits, layout = _logits(numbers, self.guest.layout), self.guest.layout
        if not self._is_squashed:
            return logits
        low, high = (torch.from_numpy(np.array(each)) for each in (layout.low, layout.high))
        return SquashedNormal(logits.loc, logits.scale, low.to(numbers), high.to(numbers))

    def to_library(self, actions: Tensor) -> Tensor:
        """Return actions of the policy as the library has them, (N, *shape)."""
        members = self.guest.members(actions)
        moved = members - self.shift.to(members)
        return moved / self.scale.to(moved) if self.guest.layout.is_continuous else moved

    def from_library(self, actions: Tensor) -> Tensor:
        """Return the actions of the policy: the inverse of `to_library`."""
        layout = self.guest.layout
        rows = actions.reshape(-1, *layout.shape)
        if layout.is_continuous:
            return self.guest.actions(self.shift.to(rows) + self.scale.to(rows) * rows)
        own = self.guest.actions(rows + self.shift.to(rows))
        # Padding holds zeros, which need not be a choice.
        last = torch.tensor(layout.nvec, device=own.device).reshape(own.shape[1:]) - 1
        return torch.minimum(own, last).clamp(min=0)

    @property
    def _is_squashed(self) -> bool:
        modules = self.guest.policy.modules()
        return any(isinstance(each, SquashedGaussianWrapper) for each in modules)


Move = tuple[Tensor, Tensor]
"""What the library adds to an action, and what it multiplies it with before."""


@singledispatch
def library_move(space: Any) -> Move:
    """Return what the library makes of actions where it normalizes them: here nothing."""
    return torch.zeros((), dtype=torch.int64), torch.ones(())


@library_move.register
def _(space: gym_spaces.Box) -> Move:
    low, high = (torch.from_numpy(np.array(each)) for each in (space.low, space.high))
    if not low.is_floating_point():
        return low, torch.ones(())
    bounded = bool((low.isfinite() & high.isfinite()).all())
    return ((low + high) / 2, (high - low) / 2) if bounded else library_move(None)


class Actions(Distribution):
    """The distribution of a policy's logits, as the library asks for it.

    Args:
        logits: the numbers of a `Form`, (B, n) or (B, T, n).
    """

    form: ClassVar[Form]

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.batch = logits.shape[:-1]
        self.logits = self.form.logits(logits.flatten(0, -2))
        self.chances = distribution(self.logits)

    @classmethod
    def from_logits(cls, logits: Tensor, **kwargs: Any) -> Self:
        """Return the distribution of these logits."""
        return cls(logits)

    def sample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Draw one action a row, without gradient."""
        return self._batched(self.form.to_library(self.chances.sample()))

    def rsample(self, *, sample_shape: Any = None, **kwargs: Any) -> Tensor:
        """Refuse: no algorithm that needs it takes a policy with values.

        Raises:
            BuildError: always.
        """
        raise BuildError(
            "Actions with a gradient are not drawn here.", fix="Use an algorithm such as PPO."
        )

    def logp(self, value: Tensor, **kwargs: Any) -> Tensor:
        """Return the log-probabilities of actions, (B,) or (B, T)."""
        return self._batched(self.chances.log_prob(self.form.from_library(value)))

    def entropy(self, **kwargs: Any) -> Tensor:
        """Return the entropies, (B,) or (B, T)."""
        return self._batched(self.chances.entropy())

    def kl(self, other: Actions, **kwargs: Any) -> Tensor:
        """Return the divergences from another distribution, (B,) or (B, T)."""
        if isinstance(self.logits, Normal):
            pair = [Normal(each.logits.loc, each.logits.scale) for each in (self, other)]
            return self._batched(sum_rows(kl_divergence(*pair)))
        own, others = (each.chances.log_probs for each in (self, other))  # type: ignore[attr-defined]
        # Clamped, as what is forbidden on both sides is infinity less infinity.
        change = own.clamp(min=LOG_OF_NOTHING) - others.clamp(min=LOG_OF_NOTHING)
        return self._batched(sum_rows(own.exp() * change))

    def to_deterministic(self) -> TorchDeterministic:
        """Return the likeliest actions."""
        return TorchDeterministic(loc=self._batched(self.form.to_library(self.chances.mode())))

    @staticmethod
    def required_input_dim(space: Any, **kwargs: Any) -> int:
        """Return n."""
        layout = action_layout(space)
        return sum(layout.nvec) or 2 * int(np.prod(layout.shape))

    def _batched(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self.batch, *rows.shape[1:])


def _logits(numbers: Tensor, layout: ActionLayout) -> Any:
    """Return the logits of (N, n), whose real numbers are not squashed."""
    if layout.is_continuous:
        return logits_of(layout, *numbers.chunk(2, -1))
    return numbers if layout.kind == "discrete" else torch.split(numbers, list(layout.nvec), -1)


# -- from there to here ----------------------------------------------------------------------------


def as_policy(
    module: stock.DefaultPPOTorchRLModule, *, normalize_actions: bool = True
) -> ActorCritic:
    """Return a module of RLlib's PPO, trained or new, as a policy that keeps our contract.

    It has the very parts of `module`, so that training one trains the other. The checker, `Agent`,
    exports and comparisons serve it.

    Args:
        module: that of a learner, or of a checkpoint; `algorithm.get_module()` has no critic.
        normalize_actions: as in the config of the algorithm. Real actions are those of the env.

    Raises:
        BuildError: it has a memory, no critic, or another class.
    """
    problem = ""
    if type(module) is not stock.DefaultPPOTorchRLModule:
        problem = f"{type(module).__name__} is not a DefaultPPOTorchRLModule"
    elif module.is_stateful():
        problem = "the module has a memory"
    elif not hasattr(module, "vf"):
        problem = "the module only plays, and has no critic; that of the learner has one"
    if problem:
        raise BuildError(
            f"There is no form here: {problem}.",
            fix="A DefaultPPOTorchRLModule without use_lstm, built with inference_only=False, has "
            "one.",
        )
    spaces = Spaces(module.observation_space, module.action_space)
    encoder = _Encoder(module, spaces)
    move = library_move(spaces.action if normalize_actions else None)
    actor = _Actor(module, encoder.split, one_action(spaces.action, "RLlib"), move)
    critic = CriticHead(module.vf, columns=slice(encoder.split, None))
    return ActorCritic(encoder, spaces, actor=actor, critic=critic)


class _Encoder(nn.Module):
    """(N, *obs) -> (N, H): what the actor reads, beside what the critic reads."""

    def __init__(self, module: Any, spaces: Spaces) -> None:
        super().__init__()
        self.net = module.encoder
        observations = samples(spaces.observation, 1, device_of(module))
        with torch.no_grad():
            sizes = [each.shape[-1] for each in self._parts(observations.float())]
        self.split, self.hidden_size = sizes[0], sum(sizes)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.cat(self._parts(observations.float()), -1)

    def _parts(self, observations: Tensor) -> list[Tensor]:
        outputs = self.net({Columns.OBS: observations})[ENCODER_OUT]
        return [outputs[ACTOR], outputs[CRITIC]]


class _Actor(nn.Module):
    """(N, H) -> logits."""

    def __init__(self, module: Any, split: int, layout: ActionLayout, move: Move) -> None:
        super().__init__()
        self.net, self.split, self.layout = module.pi, split, layout
        self.is_continuous = layout.is_continuous
        for name, numbers in zip(("shift", "scale"), move, strict=True):
            self.register_buffer(name, numbers, persistent=False)

    def forward(self, hidden: Tensor) -> Any:
        logits = _logits(self.net(hidden[..., : self.split]), self.layout)
        if not self.is_continuous:
            return logits
        return Normal(self.shift + self.scale * logits.loc, self.scale * logits.scale)


def stock_policy(env: Any) -> ActorCritic:
    """Return a new module of RLlib's PPO for an env, as `as_policy` makes it."""
    spaces = spaces_of(env)
    module = stock.DefaultPPOTorchRLModule(
        observation_space=spaces.observation,
        action_space=spaces.action,
        inference_only=False,
        model_config=asdict(DefaultModelConfig()),
        catalog_class=PPOCatalog,
    )
    return as_policy(module)


DefaultPPOTorchRLModule = stock_policy
