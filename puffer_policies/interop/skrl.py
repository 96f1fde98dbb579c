"""Our policies in skrl's PPO and A2C, with and without memory, and models of skrl as ours.

``models = {"policy": model, "value": model}`` with ``model = PufferModel(env, "Default")``, for the
agents `PPO` and `A2C`, and with a memory for `PPO_RNN` and `A2C_RNN`. https://skrl.readthedocs.io

skrl hands over observations as rows of float32, (N, M), and wants actions, log-probabilities and
entropies as rows as well. `N` rows, `B` envs or sequences, `T` steps, `S` numbers of a state.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.distributions import Distribution as TorchDistribution

from puffer_policies.assembly.blueprint import PolicyLike
from puffer_policies.errors import BuildError, IncompatibleSpace
from puffer_policies.foreign import optional_imports
from puffer_policies.interop.guest import Guest
from puffer_policies.interop.heads import Trunks, logits_of, one_action
from puffer_policies.nn.actor_critic import ActorCritic
from puffer_policies.spaces import Spaces, action_layout, described, require_kinds, spaces_of
from puffer_policies.spaces.nested import map_nested

with optional_imports(extra="skrl", purpose="skrl"):
    from skrl.envs.wrappers.torch import Wrapper
    from skrl.models.torch import CategoricalMixin, GaussianMixin, Model, MultiCategoricalMixin
    from skrl.utils.model_instantiators import torch as instantiators
    from skrl.utils.spaces.torch import (
        flatten_tensorized_space,
        tensorize_space,
        unflatten_tensorized_space,
    )

ROLLOUTS = 16
"""Steps of a rollout, by default of the library."""


class PufferModel(Model):
    """A policy of this package as one model for both roles, ``policy`` and ``value``.

    It reads observations, and not the states of an env that has both.

    Args:
        env: as `wrap_env` of the library returns it.
        policy: whatever `get_policy` builds: a name, an expression, a `PolicySpec` or a class.
        sequence_length: steps over which the gradient flows back through a memory; a divisor of the
            steps of a rollout.
        device: of the weights.

    Raises:
        PolicyError: as of `get_policy`.
        BuildError: the library does not send what the policy reads.
    """

    policy: nn.Module
    """Our policy, as `get_policy` built it: `save_checkpoint` saves it for our own tools."""

    def __init__(
        self,
        env: Wrapper,
        policy: PolicyLike = "Default",
        *,
        sequence_length: int = ROLLOUTS,
        device: str | torch.device | None = None,
    ) -> None:
        if not isinstance(env, Wrapper):
            raise BuildError(
                f"{type(env).__name__} is not an env of skrl.",
                fix="Wrap it: skrl.envs.wrappers.torch.wrap_env(env).",
            )
        if sequence_length < 2:
            raise BuildError(
                f"sequence_length is {sequence_length}, in which no memory learns what to keep.",
                fix="Let it divide the steps of a rollout, or leave it out.",
            )
        spaces = Spaces(env.observation_space, env.action_space)
        super().__init__(
            observation_space=spaces.observation, action_space=spaces.action, device=device
        )
        self.guest = Guest(policy, spaces, library="skrl")
        self.policy = self.guest.policy
        self.guest.require_no_previous()
        self.guest.require_mask_observed()
        self.guest.require_reset_in_step(env)
        self.num_envs, self.sequence_length = env.num_envs, sequence_length
        self._seen: Any = None
        self._values: tuple[Tensor, Tensor] | None = None
        self._phase = 0
        self._logits: Any = None
        self._entropy = torch.zeros(1)
        self.to(self.device)

    def get_specification(self) -> dict[str, Any]:
        """Return the size of the tensor (1, B, 3 + 2 * S) that the agent carries, if any.

        It holds the phase of a step in its sequence, from 1 on, the state before the step, and the
        state after it. An agent should store the state before a step; those of skrl 2.1 store the
        one after it, as their `_rnn_initial_states` and `_rnn_final_states` are one dict from the
        second step on. The phase tells which of both it was.
        """
        if not self.guest.packed.size:
            return {}
        sizes = [(1, self.num_envs, 1 + 2 * self.guest.carry_size)]
        return {"rnn": {"sequence_length": self.sequence_length, "sizes": sizes}}

    def act(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return actions of N rows and what belongs to them, or values (N, 1) in their role."""
        if role == "value":
            return self._value(inputs), {}
        members = inputs.get("taken_actions")
        if members is not None and self._seen is not None:
            raise _not_both()
        self.guest.switch(learning=members is not None)
        self._logits, values, outputs = self._run(inputs)
        self._values = inputs["observations"], values
        if members is None:
            members, _ = self.guest.choose(self._logits)
            best, _ = self.guest.choose(self._logits, deterministic=True)
            outputs["mean_actions"] = best.reshape(len(values), -1)
            self._seen = self._rows(inputs)
        log_prob, self._entropy = self.guest.judge(self._logits, members)
        return members.reshape(len(values), -1), {**outputs, "log_prob": log_prob.unsqueeze(1)}

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Any, dict[str, Any]]:
        """Return logits of N rows, or values (N, 1) in their role, and the next state."""
        logits, values, outputs = self._run(inputs)
        return values if role == "value" else logits, outputs

    def get_entropy(self, *, role: str = "") -> Tensor:
        """Return the entropies (N, 1) of the last rows in which the policy acted."""
        return self._entropy.unsqueeze(1)

    def distribution(self, *, role: str = "") -> TorchDistribution:
        """Return a distribution of torch, whose deviation the agent logs; of the first choice."""
        if isinstance(self._logits, TorchDistribution):
            return self._logits
        first = self._logits[0] if isinstance(self._logits, tuple) else self._logits
        return Categorical(logits=first)

    def _value(self, inputs: dict[str, Any]) -> Tensor:
        """Return values (N, 1), those of the last act where they are asked for first."""
        if self._logits is None:
            raise _not_both()
        if self._seen is not None:
            # Agents ask for values of what they acted on when they train, and not when they play.
            self.guest.see(self._seen)
            self._seen = None
            self._phase = self._phase % self.sequence_length + 1
        last, self._values = self._values, None
        if last is not None and torch.equal(last[0], inputs["observations"]):
            return last[1]
        return self._run(inputs)[1]

    def _rows(self, inputs: dict[str, Any]) -> Any:
        return self.guest.rows(_nested(self.observation_space, inputs["observations"]))

    def _run(self, inputs: dict[str, Any]) -> tuple[Any, Tensor, dict[str, Any]]:
        """Return logits, values (N, 1) and the next state, as the output ``rnn``."""
        if "alpha" in inputs:
            raise BuildError(
                "RPO adds noise to the mean of a model, which our policies have no place for.",
                fix="Use PPO or PPO_RNN.",
            )
        obs = self._rows(inputs)
        if not self.guest.packed.size:
            return *self.policy(obs, {}), {}
        if not inputs.get("rnn"):
            self.guest.require_no_memory("this agent", fix="Use PPO_RNN or A2C_RNN.")
        carried = inputs["rnn"][0][0]  # (N, 3 + 2 * S)
        if "terminated" in inputs:
            carry, starts = self._sequences(carried, inputs["terminated"] | inputs["truncated"])
            logits, values, _ = self.guest.carry_sequences(obs, carry, starts)
            return logits, values, {}
        carry = carried[:, 1:].chunk(2, 1)[1]
        starts = torch.zeros(len(carry), device=carry.device)
        logits, values, after = self.guest.carry_step(obs, carry, starts)
        phase = torch.full_like(carry[:, :1], self._phase % self.sequence_length + 1)
        return logits, values, {"rnn": [torch.cat([phase, carry, after], 1).unsqueeze(0)]}

    def _sequences(self, carried: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (B, 1 + S) and the starts of episodes (B, T) of N rows of a memory.

        The agent cuts the rows of a rollout into minibatches, and says nothing about where an env
        ends and the next begins. The phases tell whether the cuts are those of the sequences.
        """
        length = self.sequence_length
        if len(carried) % length == 0:
            carried = carried.reshape(-1, length, carried.shape[1])  # (B, T, 3 + 2 * S)
            starts = nn.functional.pad(ends.reshape(-1, length)[:, :-1], (1, 0))
            phases, before, after = carried.tensor_split([1, 1 + self.guest.carry_size], 2)
            phases = phases.squeeze(2)  # (B, T), 0 where the agent has reset a state
            own = torch.arange(1, length + 1, device=phases.device)
            for expected, state in (own, before), (own.roll(1), after):
                if bool(((phases == expected) | (phases == 0)).all()):
                    return state[:, 0], starts
        raise BuildError(
            f"The minibatches of this agent cut through sequences of {length} steps.",
            fix="Let sequence_length divide the steps of a rollout (cfg.rollouts), and "
            "mini_batches divide the number of sequences of all envs.",
        )


def _not_both() -> BuildError:
    return BuildError(
        "A PufferModel has one role alone here, and is one policy with actions and values.",
        fix='Give it in both: models={"policy": model, "value": model}.',
    )


def _nested(space: Any, rows: Tensor) -> Any:
    """(N, M) -> observations as they are nested in a space, with tuples where skrl has lists."""
    return _tuples(unflatten_tensorized_space(space, rows))


def _tuples(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _tuples(branch) for key, branch in tree.items()}
    return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree


# -- from there to here ----------------------------------------------------------------------------


def as_policy(
    policy: Model,
    value: Model,
    *,
    observation_preprocessor: nn.Module | None = None,
    value_preprocessor: nn.Module | None = None,
) -> ActorCritic:
    """Return two models of the library, trained or new, as one policy that keeps our contract.

    It has the very modules of the models, so that training one trains the other. The checker,
    `Agent`, exports and comparisons serve it.

    Args:
        policy: categorical, multi-categorical or Gaussian, of observations.
        value: of observations; the same model where both share one.
        observation_preprocessor: of the agent, whose ``checkpoint_modules`` hold it.
        value_preprocessor: likewise.

    Raises:
        BuildError: a model has a memory, or draws actions in a way for which there is no form here.
    """
    spaces = Spaces(policy.observation_space, policy.action_space)
    _require_form(policy, value)
    encoder = Trunks(
        _Rows(spaces.observation),
        nn.Identity() if observation_preprocessor is None else observation_preprocessor,
        space=spaces.observation,
    )
    critic = _Critic(value, value_preprocessor, is_shared=value is policy)
    return ActorCritic(encoder, spaces, actor=_Actor(policy), critic=critic)


def _require_form(policy: Model, value: Model) -> None:
    problem = ""
    if policy.get_specification() or value.get_specification():
        problem = "a memory of its own form"
    elif not isinstance(policy, CategoricalMixin | MultiCategoricalMixin | GaussianMixin):
        problem = "neither categories nor a Gaussian"
    elif getattr(policy, "_g_clip_actions", False):
        problem = "clip_actions, so that log-probabilities are those of clipped actions"
    elif torch.sum not in _reductions(policy):
        problem = "a reduction other than the sum of the log-probabilities"
    if problem:
        raise BuildError(
            f"{type(policy).__name__} has {problem}, for which there is no form here.",
            fix="Feed-forward models with the defaults of their mixins have one.",
        )


def _reductions(policy: Model) -> list[Any]:
    """Return what sums the log-probabilities of one action."""
    names = "_g_reduction", "_mc_reduction"
    return [getattr(policy, name) for name in names if hasattr(policy, name)] or [torch.sum]


class _Rows:
    """Observations of a space -> rows of float32, as the library hands them over."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def __call__(self, observations: Any) -> Tensor:
        tensors = tensorize_space(self.space, observations)
        rows: Tensor = flatten_tensorized_space(map_nested(Tensor.float, tensors))
        return rows


class _Actor(nn.Module):
    """(N, M) -> logits."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.layout = one_action(model.action_space, "skrl")
        self.is_continuous = self.layout.is_continuous

    def forward(self, rows: Tensor) -> Any:
        model = self.model
        numbers, outputs = model.compute({"observations": rows, "states": None}, role="policy")
        if not self.is_continuous:
            prefix = "_c" if self.layout.kind == "discrete" else "_mc"
            is_probability = not getattr(model, f"{prefix}_unnormalized_log_prob")
            return logits_of(self.layout, numbers.log() if is_probability else numbers)
        if model._g_clip_mean_actions:
            numbers = numbers.clamp(model._g_min_actions, model._g_max_actions)
        log_std = outputs["log_std"]
        if model._g_clip_log_std:
            log_std = log_std.clamp(model._g_min_log_std, model._g_max_log_std)
        return logits_of(self.layout, numbers, log_std)


class _Critic(nn.Module):
    """(N, M) -> (N, 1)."""

    def __init__(self, model: Model, preprocessor: nn.Module | None, *, is_shared: bool) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        # A shared model is a module of the actor, so that no weight has two names.
        self._model = (model,)
        if not is_shared:
            self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        inputs = {"observations": rows, "states": None}
        values: Tensor = self._model[0].compute(inputs, role="value")[0]
        return values if self.preprocessor is None else self.preprocessor(values, inverse=True)


NETWORK = [{"name": "net", "input": "OBSERVATIONS", "layers": [64, 64], "activations": "elu"}]
"""Of the stock models: two hidden layers."""

MIXINS = {
    "discrete": "CategoricalMixin",
    "multidiscrete": "MultiCategoricalMixin",
    "box": "GaussianMixin",
}
"""Kind of an action space -> how the library draws actions."""


def stock_policy(env: Any, *, shared: bool) -> ActorCritic:
    """Return a new policy of the library's model instantiators, as `as_policy` makes it.

    Args:
        env: an env, or `Spaces`.
        shared: whether both models have one network, or one each.
    """
    spaces = spaces_of(env)
    require_kinds(spaces, "skrl's stock model", observations=("vector",), actions=tuple(MIXINS))
    mixin = MIXINS[action_layout(spaces.action).kind]
    if mixin == MIXINS["multidiscrete"] and not hasattr(spaces.action, "nvec"):
        raise IncompatibleSpace(
            f"skrl has no model for integers of a Box: {described(spaces.action)}.",
            fix="Check it on an env with a MultiDiscrete.",
        )
    sides = {"observation_space": spaces.observation, "action_space": spaces.action}
    parts = [{"network": NETWORK, "output": output} for output in ("ACTIONS", "ONE")]
    if shared:
        model = instantiators.shared_model(
            **sides,
            structure=[mixin, "DeterministicMixin"],
            roles=["policy", "value"],
            parameters=parts,
        )
        return as_policy(_initialized(model, "policy"), _initialized(model, "value"))
    name = mixin.removesuffix("Mixin").lower()
    policy = getattr(instantiators, f"{name}_model")(**sides, **parts[0])
    value = instantiators.deterministic_model(**sides, **parts[1])
    return as_policy(_initialized(policy, "policy"), _initialized(value, "value"))


def _initialized(model: Model, role: str) -> Model:
    """Return a model whose lazy layers have weights."""
    model.init_state_dict(role=role)
    return model


SeparateModels = partial(stock_policy, shared=False)
SharedModel = partial(stock_policy, shared=True)
