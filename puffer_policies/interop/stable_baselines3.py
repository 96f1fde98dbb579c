"""Our policies in Stable-Baselines3's PPO and A2C: ``PPO("PufferPolicy", env, policy_kwargs=...)``.

Importing this module makes the name known to both. https://stable-baselines3.readthedocs.io

`N` rows of a batch, `B` envs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gymnasium import Space
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.errors import BuildError
from puffer_policies.foreign import optional_imports
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import ActorHead, CriticHead, one_action
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.spaces import Spaces, spaces_of

with optional_imports(extra="sb3", purpose="Stable-Baselines3"):
    from stable_baselines3 import A2C, PPO
    from stable_baselines3.common import policies
    from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
    from stable_baselines3.common.preprocessing import preprocess_obs

NAME = "PufferPolicy"
"""By which the algorithms find the policy."""

LEARNING_RATE = 3e-4
"""Of PPO, by default."""

EPSILON = 1e-5
"""Of Adam, as in the library's own policies."""

Schedule = Callable[[float], float]


class Adapter(BasePolicy):
    """A policy of this package as a `BasePolicy`: what all algorithms of the library share.

    Args:
        observation_space: the env's, as the library's wrappers leave it.
        action_space: the env's.
        lr_schedule: progress that remains, from 1 to 0 -> learning rate.
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.
        use_sde: exploration by the library's own noise, which our policies do not have.
        optimizer_class: of `torch.optim`.
        optimizer_kwargs: its arguments, without the learning rate.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the algorithm does not send what the policy reads.
    """

    policy: nn.Module
    """Our policy, as `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        lr_schedule: Schedule,
        policy: PolicyLike = "Default",
        *,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise BuildError(
                "use_sde=True asks for the noise of Stable-Baselines3's own policies.",
                fix="Leave it out. Our policies draw from the distribution of their logits.",
            )
        defaults = {"eps": EPSILON} if issubclass(optimizer_class, torch.optim.Adam) else {}
        # The parents build networks of their own, which would be trained beside the policy.
        BasePolicy.__init__(
            self,
            observation_space,
            action_space,
            normalize_images=False,
            optimizer_class=optimizer_class,
            optimizer_kwargs={**defaults, **(optimizer_kwargs or {})},
        )
        self.given = policy
        spaces = Spaces(observation_space, action_space)
        self.guest = Guest(policy, spaces, library="Stable-Baselines3")
        self.policy = self.guest.policy
        self._require_served()
        self.optimizer = self.optimizer_class(
            self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

    def _require_served(self) -> None:
        """Refuse a policy that would silently do something else than it promises."""
        self.guest.require_no_memory(
            "this algorithm",
            fix='Use sb3_contrib.RecurrentPPO("PufferRecurrentPolicy", ...), after '
            "import puffer_policies.interop.sb3_contrib.",
        )
        self.guest.require_no_previous()
        self.guest.require_mask_observed(
            'Or: sb3_contrib.MaskablePPO("PufferMaskablePolicy", ...) sends masks.'
        )

    def set_training_mode(self, mode: bool) -> None:
        """Switch modes, as the library does before each rollout and each update.

        Between an update and the next rollout the policy takes over the statistics of the
        observations that the last rollout has seen.
        """
        super().set_training_mode(mode)
        self.guest.switch(learning=mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what `load` builds the policy with."""
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "policy": self.given,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


class PufferPolicy(Adapter, ActorCriticPolicy):
    """A policy without memory, for PPO and A2C. Arguments and errors are those of `Adapter`."""

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """(B, *obs) -> actions (B, *shape), values (B, 1) and log-probabilities (B,)."""
        rows = self.guest.rows(obs)
        self.guest.see(rows)
        logits, values = self.policy.forward_eval(rows, {})  # type: ignore[operator]
        actions, log_prob = self.guest.choose(logits, deterministic=deterministic)
        return actions, values, log_prob

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, *obs), (N, *shape) -> values (N, 1), log-probabilities (N,) and entropies (N,)."""
        logits, values = self.policy(self.guest.rows(obs), {})
        return values, *self.guest.judge(logits, actions)

    def predict_values(self, obs: Any) -> Tensor:
        """(N, *obs) -> values (N, 1)."""
        values: Tensor = self._decide(obs)[1]
        return values

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.guest.choose(self._decide(observation)[0], deterministic=deterministic)[0]

    def _decide(self, obs: Any) -> tuple[Any, Tensor]:
        return self.policy.forward_eval(self.guest.rows(obs), {})  # type: ignore


# -- from there to here ----------------------------------------------------------------------------


def as_policy(module: ActorCriticPolicy) -> ActorCritic:
    """Return a policy of the library, trained or new, as one that keeps our contract.

    It has the very modules of `module`, so that training one trains the other. The checker,
    `Agent`, exports and comparisons serve it.

    Raises:
        BuildError: it explores by noise that depends on the state, or has a memory.
    """
    if module.use_sde or type(module).evaluate_actions is not ActorCriticPolicy.evaluate_actions:
        what = "use_sde" if module.use_sde else "an evaluate_actions of its own"
        raise BuildError(
            f"{type(module).__name__} has {what}, for which there is no form here.",
            fix="Policies of ActorCriticPolicy without use_sde have one.",
        )
    encoder, spaces = _Encoder(module), Spaces(module.observation_space, module.action_space)
    layout, split = one_action(spaces.action, "Stable-Baselines3"), encoder.split
    log_std = module.log_std if layout.is_continuous else None
    actor = ActorHead(module.action_net, layout, columns=slice(split), log_std=log_std)
    critic = CriticHead(module.value_net, columns=slice(split, None))
    return ActorCritic(encoder, spaces, actor=actor, critic=critic)


class _Encoder(nn.Module):
    """(N, *obs) -> (N, H): what the actor reads, beside what the critic reads."""

    def __init__(self, module: ActorCriticPolicy) -> None:
        super().__init__()
        self.space, self.normalize_images = module.observation_space, module.normalize_images
        self.actor, critic = module.pi_features_extractor, module.vf_features_extractor
        # A shared extractor is a module once, so that no weight has two names.
        self.critic = None if critic is self.actor else critic
        self.layers = module.mlp_extractor
        self.split = int(self.layers.latent_dim_pi)
        self.hidden_size = self.split + int(self.layers.latent_dim_vf)

    def forward(self, observations: Any) -> Tensor:
        inputs = preprocess_obs(observations, self.space, normalize_images=self.normalize_images)
        features = self.actor(inputs)
        others = features if self.critic is None else self.critic(inputs)
        parts = self.layers.forward_actor(features), self.layers.forward_critic(others)
        return torch.cat(parts, -1)


def stock_policy(cls: type[ActorCriticPolicy], env: Any) -> ActorCritic:
    """Return a new policy of a class of the library for an env, as `as_policy` makes it."""
    spaces = spaces_of(env)
    return as_policy(cls(spaces.observation, spaces.action, lambda _: LEARNING_RATE))


MlpPolicy = partial(stock_policy, policies.ActorCriticPolicy)
CnnPolicy = partial(stock_policy, policies.ActorCriticCnnPolicy)
MultiInputPolicy = partial(stock_policy, policies.MultiInputActorCriticPolicy)


for algorithm in (PPO, A2C):
    algorithm.policy_aliases[NAME] = PufferPolicy
