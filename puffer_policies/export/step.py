"""One step of a policy as a function of named tensors, which every exported file computes.

Nothing is remembered inside: the state comes in and goes out, and every output ``next_NAME`` is the
input ``NAME`` of the step that follows. `B` rows, any number of them; `A` options of all choices.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from puffer_policies.assembly.golden import OBSERVATION, sample_inputs
from puffer_policies.contract import (
    ACTION_MASK,
    EPISODE_START,
    NEEDS_PREVIOUS,
    PREV_ACTION,
    PREV_REWARD,
    any_module_has,
)
from puffer_policies.errors import ContractError, IncompatibleSpace
from puffer_policies.export.graph import Graph, Port, Tensors
from puffer_policies.nn.distributions import distribution, full_precision
from puffer_policies.nn.observations import leaf_spaces, to_tensor
from puffer_policies.spaces import ActionLayout, Spaces, action_layout
from puffer_policies.spaces.nested import leaves, map_nested, names_of
from puffer_policies.wrappers.action_mask import mask_keys

OBS, STATE, NEXT = "obs", "state.", "next_"
VALUE, ACTION = "value", "action"


class Step(Graph):
    """A policy's step: a dict of inputs (B, ...) -> a dict of outputs (B, ...).

    Inputs are ``obs``, or ``obs.KEY`` for each leaf of a Dict or Tuple; ``action_mask``, true where
    an option is allowed, and ``prev_action`` and ``prev_reward``, of policies that read them; and
    for policies with a memory ``episode_start``, true where the observation is the first of an
    episode, and ``state.KEY`` for each tensor of the state. Outputs are `named_logits`; ``value``;
    ``action``, the likeliest one, as a member of the env's action space, or ``action.KEY`` for each
    leaf of a Dict or Tuple; and what the next step takes. ``next_prev_action`` is that action as
    the policy counts it.

    Args:
        policy: it is copied, to the CPU and into evaluation mode, with weights of half precision as
            float32, which other runtimes have.
        spaces: those that it was built for.
        has_values: False leaves ``value`` out, of an actor whose critic is not in it.
    """

    reset = (
        "Set episode_start to true in the rows whose observation is the first of an episode. What "
        "their state holds does not matter then: zeros will do."
    )

    def __init__(self, policy: nn.Module, spaces: Spaces, *, has_values: bool = True) -> None:
        super().__init__()
        self.has_values = has_values
        # A caller goes on with the policy itself, in its mode and on its device.
        self.policy = copy.deepcopy(policy).cpu().eval()
        for each in (*self.policy.parameters(), *self.policy.buffers()):
            if each.is_floating_point():
                each.data = full_precision(each.data)
        self.layout = action_layout(spaces.action)
        self.spaces = spaces
        tree = leaf_spaces(spaces.observation)
        self.observations = tuple(
            Port(name, tuple(leaf.shape), to_tensor(np.zeros(0, leaf.dtype)).dtype)
            for name, leaf in zip(names_of(tree, OBS), leaves(tree), strict=True)
        )
        _require_different("observation", [port.name for port in self.observations])
        keys = mask_keys(self.policy)
        self.mask = _mask_port(self.layout) if None in keys else ()
        self._observed_masks = {f"{OBS}.{key}" for key in keys}
        self.previous = _previous_ports(self.policy, self.layout)
        self.state = _state_ports(self.policy)
        starts = (Port(EPISODE_START, (), torch.bool),) if self.state or self.previous else ()
        self.inputs = (*self.observations, *starts, *self.mask, *self.previous, *self.state)
        self.carried = {port.name: NEXT + port.name for port in (*self.previous[:1], *self.state)}
        names = iter([port.name for port in self.observations])
        self._tree = map_nested(lambda _: next(names), tree)
        self._members = list(self.layout.leaves())
        self.actions = [f"{ACTION}.{path}" if path else ACTION for path, _, _ in self._members]
        """The names of the parts of an action; one for a space without parts."""
        _require_different("action", self.actions)
        for index, (_, leaf, _) in enumerate(self._members):
            # None would be no buffer, but torch.export counts it as one.
            for bound in ("low", "high") if leaf.is_continuous else ("start",):
                number = torch.from_numpy(np.array(getattr(leaf, bound)))
                self.register_buffer(f"{bound}{index}", number, persistent=False)
        # Options may be equally likely, and then rounding decides.
        pairs = zip(self.actions, self._members, strict=True)
        ties = [name for name, (_, leaf, _) in pairs if not leaf.is_continuous]
        self.outputs = self.find_outputs(not_fixed=(*ties, *[NEXT + PREV_ACTION] * bool(ties)))

    def example(self) -> Tensors:
        """Return zeros as inputs, with every option allowed."""
        return self._allowing(super().example())

    def feed(self, inputs: Tensors) -> Tensors:
        """Return the inputs by their names here, as they are."""
        return inputs

    def sample(self) -> Tensors:
        """Return the inputs of a few steps, (T, R, ...), without those of the state."""
        drawn = {name: each.transpose(0, 1) for name, each in sample_inputs(self.spaces).items()}
        drawn = {
            OBS + name.removeprefix(OBSERVATION) if name.startswith(OBSERVATION) else name: each
            for name, each in drawn.items()
        }
        dtypes = {port.name: port.dtype for port in self.inputs if port not in self.state}
        kept = {name: each.to(dtypes[name]) for name, each in drawn.items() if name in dtypes}
        return {EPISODE_START: drawn[EPISODE_START], **self._allowing(kept)}

    def _allowing(self, inputs: Tensors) -> Tensors:
        """Return inputs whose masks allow every option, also those in the observation."""
        masks = self._observed_masks | {port.name for port in self.mask}
        return {
            name: torch.ones_like(each) if name in masks else each for name, each in inputs.items()
        }

    def run_policy(self, inputs: Tensors) -> tuple[Any, Tensor, Mapping[str, Tensor]]:
        """Return the policy's own logits and values, and what its state holds after the step."""
        observations = map_nested(lambda name: inputs[name], self._tree)
        state = {port.name.removeprefix(STATE): inputs[port.name] for port in self.state}
        # These come in the state dict, as from any trainer, but are no state that is carried.
        for port in (*self.mask, *self.previous):
            state[port.name] = inputs[port.name]
        if EPISODE_START in inputs:
            state[EPISODE_START] = inputs[EPISODE_START]
        logits, values = self.policy.forward_eval(observations, state)  # type: ignore[operator]
        return logits, values, state

    def forward(self, inputs: Tensors) -> Tensors:
        """Run the step."""
        logits, values, state = self.run_policy(inputs)
        action = distribution(logits).mode()
        outputs = named_logits(logits)
        if self.has_values:
            outputs[VALUE] = values.reshape(-1)
        outputs |= zip(self.actions, self.members(action), strict=True)
        if self.previous:
            outputs[NEXT + PREV_ACTION] = action
        for port in self.state:
            outputs[NEXT + port.name] = state[port.name.removeprefix(STATE)]
        return outputs

    def members(self, action: Tensor) -> list[Tensor]:
        """Return actions as members of each leaf, by the rule of `ActionLayout.to_env`."""
        members = []
        for index, (_, leaf, columns) in enumerate(self._members):
            own = action[:, columns] if self.layout.parts else action
            # Policies flatten the shape of an action space, and envs take members of it.
            own = own.reshape(-1, *leaf.shape)
            if leaf.is_continuous:
                low, high = self.get_buffer(f"low{index}"), self.get_buffer(f"high{index}")
                members.append(torch.minimum(torch.maximum(own, low), high))
            else:
                members.append(own.long() + self.get_buffer(f"start{index}"))
        return members


@singledispatch
def named_logits(logits: Any) -> Tensors:
    """Return the numbers of logits by name: ``logits``, or ``mean`` and ``std``.

    Those of several choices are side by side, (B, A), as in an action mask. Those of a squashed
    Normal are before tanh. Those of a Dict or Tuple have the keys of their part behind the name,
    such as ``logits.KEY``. A package with logits of its own registers their names:
    ``named_logits.register``.

    Raises:
        ContractError: logits of another type.
    """
    raise ContractError(
        f"Its logits are of type {type(logits).__name__!r}, whose numbers have no names.",
        fix="Register the type with puffer_policies.export.step.named_logits.register.",
    )


@named_logits.register
def _(logits: Tensor) -> Tensors:
    return {"logits": logits}


@named_logits.register(tuple)
@named_logits.register(list)
def _(logits: Any) -> Tensors:
    if all(isinstance(each, Tensor) for each in logits):
        return {"logits": torch.cat(tuple(logits), -1)}
    return named_logits(dict(enumerate(logits)))


@named_logits.register
def _(logits: dict) -> Tensors:  # type: ignore[type-arg]
    named = {}
    for key, part in logits.items():
        for name, numbers in named_logits(part).items():
            kind, *path = name.split(".", 1)
            named[".".join([kind, str(key), *path])] = numbers
    return named


@named_logits.register
def _(logits: Normal) -> Tensors:
    return {"mean": logits.loc, "std": logits.scale}


def _require_different(what: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise IncompatibleSpace(
            f"Two parts of the {what} are both called {twice[0]!r}, as a key has a dot in it.",
            fix="Rename the key in the env.",
        )


def _mask_port(layout: ActionLayout) -> tuple[Port, ...]:
    return (Port(ACTION_MASK, (sum(layout.nvec),), torch.bool),)


def _previous_ports(policy: nn.Module, layout: ActionLayout) -> tuple[Port, ...]:
    if not any_module_has(policy, NEEDS_PREVIOUS):
        return ()
    dtype = torch.from_numpy(np.zeros(0, layout.policy_dtype)).dtype
    action = Port(PREV_ACTION, layout.policy_shape, dtype)
    return action, Port(PREV_REWARD, (), torch.float32)


def _state_ports(policy: nn.Module) -> tuple[Port, ...]:
    initial_state = getattr(policy, "initial_state", None)
    state: Mapping[str, Tensor] = initial_state(1) if callable(initial_state) else {}
    return tuple(
        Port(STATE + key, tuple(each.shape[1:]), each.dtype) for key, each in state.items()
    )
