"""Names of inputs and outputs that other deployers know, around our `Step`.

`L` layers, `H` width of a layer, `M` numbers of the whole state, `K` choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from puffer_policies.contract import ACTION_MASK, EPISODE_START, LSTM_STATE, PREV_ACTION
from puffer_policies.errors import BuildError
from puffer_policies.export.graph import Graph, Port, Tensors
from puffer_policies.export.step import ACTION, NEXT, STATE, Step
from puffer_policies.export.targets import DEFAULT_STYLE
from puffer_policies.nn.distributions import SquashedNormal, distribution
from puffer_policies.nn.packed_state import PackedState
from puffer_policies.wrappers.action_mask import mask_logits

ZEROS = "A state of zeros starts a new episode."


class RslRl(Graph):
    """The names of rsl_rl and Isaac Lab: ``obs, h_in, c_in -> actions, h_out, c_out``, one row.

    The state of an LSTM is h and c, (L, 1, H) each, and that of a GRU is h. Any other state is
    packed into h, (1, 1, M). https://github.com/leggedrobotics/rsl_rl
    """

    reset, max_rows = ZEROS, 1

    def __init__(self, step: Step) -> None:
        super().__init__()
        require_plain_state(step, "rsl_rl")
        _require_one_action(step, "rsl_rl")
        if len(step.observations) > 1 or step.mask:
            raise BuildError(
                "The style 'rsl_rl' has one observation and no action mask, and the policy reads "
                f"{', '.join(port.name for port in (*step.observations, *step.mask))}.",
                fix="Leave the style out.",
            )
        self.step = step
        names = [port.name.removeprefix(STATE) for port in step.state]
        self.packed = names not in ([*LSTM_STATE], [*LSTM_STATE[:1]], [])
        self.numbers = _packed(step)
        shapes = [(1, 1, self.numbers.size)] if self.packed else map(_layers_first, step.state)
        state = [
            Port(f"{name}_in", shape, torch.float32, has_rows=False)
            for name, shape in zip("hc", shapes, strict=False)
        ]
        (observation,) = step.observations
        shape = (1, *observation.shape)
        self.inputs = (Port("obs", shape, observation.dtype, has_rows=False), *state)
        self.carried = {each.name: each.name.replace("_in", "_out") for each in state}
        self.outputs = self.find_outputs(() if step.layout.is_continuous else ("actions",))

    def feed(self, inputs: Tensors) -> Tensors:
        """Return the observation of the last row, and its episode starts."""
        observation = inputs[self.step.observations[0].name]
        return {"obs": observation[:, -1:], EPISODE_START: inputs[EPISODE_START][:, -1:]}

    def forward(self, inputs: Tensors) -> Tensors:
        """Run the step."""
        step = self.step
        state = [inputs[name] for name in self.carried]
        if self.packed:
            carried = self.numbers.unpack(state[0][0])
        else:
            carried = {
                port.name: each.transpose(0, 1).reshape(1, *port.shape)
                for port, each in zip(step.state, state, strict=True)
            }
        outputs = step({step.observations[0].name: inputs["obs"], **no_start(step, 1), **carried})
        following = {port.name: outputs[NEXT + port.name] for port in step.state}
        if self.packed:
            after = [self.numbers.pack(following).unsqueeze(0)]
        else:
            after = [
                each.reshape(1, -1, each.shape[-1]).transpose(0, 1).clone()
                for each in following.values()
            ]
        return {"actions": outputs[ACTION], **dict(zip(self.carried.values(), after, strict=True))}


class MLAgents(Graph):
    """The names of Unity's ML-Agents: ``obs_0, action_masks, recurrent_in`` and so on.

    Every input is float32, as Unity sends them. An action of a choice counts from 0. Both a drawn
    action and the likeliest one come out. https://github.com/Unity-Technologies/ml-agents
    """

    reset = ZEROS
    version: Tensor
    memory: Tensor
    shape: Tensor

    def __init__(self, step: Step) -> None:
        super().__init__()
        require_plain_state(step, "ml-agents")
        _require_one_action(step, "ml-agents")
        self.step = step
        layout = step.layout
        self.kind = "continuous" if layout.is_continuous else "discrete"
        observations = [
            Port(f"obs_{k}", port.shape, torch.float32) for k, port in enumerate(step.observations)
        ]
        masks = [Port("action_masks", (sum(layout.nvec),), torch.float32)] if layout.nvec else []
        self.numbers = _packed(step)
        memory = self.numbers.size
        state = [Port("recurrent_in", (1, memory), torch.float32)] if memory else []
        self.inputs = (*observations, *masks, *state)
        self.carried = {"recurrent_in": "recurrent_out"} if memory else {}
        sizes = [*layout.nvec] or [math.prod(layout.shape)]
        constants = {"version": [VERSION], "memory": [memory], "shape": [sizes]}
        for name, numbers in constants.items():
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32))
        drawn = f"{self.kind}_actions"
        ties = () if layout.is_continuous else (f"deterministic_{drawn}",)
        self.outputs = self.find_outputs((drawn, *ties))

    def feed(self, inputs: Tensors) -> Tensors:
        """Return observations and masks as Unity sends them, and the episode starts."""
        named = zip(self.inputs, self.step.observations, strict=False)
        fed = {own.name: inputs[port.name].float() for own, port in named}
        if self.step.layout.nvec:
            observed = next(iter(fed.values()))
            options = sum(self.step.layout.nvec)
            # Unity always sends a mask, and the sample of a policy without one has none.
            allowed = torch.ones(*observed.shape[:2], options)
            fed["action_masks"] = inputs.get(ACTION_MASK, allowed).float()
        return {**fed, EPISODE_START: inputs[EPISODE_START]}

    def example(self) -> Tensors:
        """Return zeros as inputs, with every option allowed."""
        inputs = super().example()
        if "action_masks" in inputs:
            inputs["action_masks"] = torch.ones_like(inputs["action_masks"])
        return inputs

    def forward(self, inputs: Tensors) -> Tensors:
        """Run the step."""
        step = self.step
        fed = {
            port.name: inputs[f"obs_{k}"].to(port.dtype) for k, port in enumerate(step.observations)
        }
        rows = inputs["obs_0"].shape[0]
        if step.mask:
            fed[ACTION_MASK] = inputs["action_masks"] > 0
        if self.carried:
            fed |= self.numbers.unpack(inputs["recurrent_in"].flatten(1))
        logits, _, state = step.run_policy({**fed, **no_start(step, rows)})
        if step.layout.nvec:
            # Unity masks the actions of policies that read no mask as well.
            logits = mask_logits(logits, inputs["action_masks"] > 0)
        likeliest = distribution(logits).mode()
        outputs = {
            "version_number": self.version.clone(),
            "memory_size": self.memory.clone(),
            f"{self.kind}_actions": self._action(drawn(logits), rows),
            f"{self.kind}_action_output_shape": self.shape.clone(),
            f"deterministic_{self.kind}_actions": self._action(likeliest, rows),
        }
        if self.carried:
            after = {port.name: state[port.name.removeprefix(STATE)] for port in step.state}
            outputs["recurrent_out"] = self.numbers.pack(after).unsqueeze(1)
        return outputs

    def _action(self, action: Tensor, rows: int) -> Tensor:
        """Return actions as (B, K)."""
        if self.step.layout.is_continuous:
            # Unity wants real actions as they act, and choices as they are counted.
            return self.step.members(action)[0].reshape(rows, -1).float()
        return action.reshape(rows, -1)


def _require_one_action(step: Step, style: str) -> None:
    if step.layout.parts:
        raise BuildError(
            f"The style {style!r} has one kind of action, and the policy's are a "
            f"{step.layout.kind.title()} of {', '.join(step.actions)}.",
            fix="Leave the style out: each part is an output of its own.",
        )


VERSION = 3
"""The version of ML-Agents' interface since its release 2.0."""

STYLES: dict[str, Callable[[Step], Graph]] = {
    DEFAULT_STYLE: lambda step: step,
    "rsl_rl": RslRl,
    "ml-agents": MLAgents,
}
"""Each style with what makes its graph of a step."""


@singledispatch
def drawn(logits: Any) -> Tensor:
    """Return an action drawn at random, by operators that other runtimes have.

    Raises:
        BuildError: logits of a type for which none are known.
    """
    raise BuildError(
        f"The style 'ml-agents' draws actions, and not from logits of type "
        f"{type(logits).__name__!r}.",
        fix="Use another style, or register the type with puffer_policies.export.styles.drawn.",
    )


@drawn.register
def _(logits: Tensor) -> Tensor:
    # Gumbel's noise: the largest of the sums is drawn by its probability.
    # Random numbers may be 0, whose logarithm is infinite.
    noise = torch.rand_like(logits).clamp(min=1e-20)
    return (logits - (-noise.log()).log()).argmax(-1)


@drawn.register(tuple)
@drawn.register(list)
def _(logits: Any) -> Tensor:
    return torch.stack([drawn(each) for each in logits], -1)


@drawn.register
def _(logits: Normal) -> Tensor:
    loc: Tensor = logits.loc
    return loc + logits.scale * torch.randn_like(loc)


@drawn.register
def _(logits: SquashedNormal) -> Tensor:
    return logits.squashed(logits.loc + logits.scale * torch.randn_like(logits.loc))


def require_plain_state(step: Step, style: str) -> None:
    """Refuse what has no place in a state that starts with zeros."""
    problem = ""
    if step.previous:
        problem = f"the policy reads {PREV_ACTION}, for which it has no input"
    elif step.state and any(each.any() for each in step.policy.initial_state(1).values()):  # type: ignore[operator]
        problem = "it starts episodes with a state of zeros, which the policy does not"
    if problem:
        raise BuildError(f"The style {style!r} does not fit: {problem}.", fix="Leave it out.")


def no_start(step: Step, rows: int) -> Tensors:
    """Return that no row starts an episode, where the step asks for it."""
    needed = any(port.name == EPISODE_START for port in step.inputs)
    return {EPISODE_START: torch.zeros(rows, dtype=torch.bool)} if needed else {}


def _packed(step: Step) -> PackedState:
    return PackedState(tuple((port.name, port.shape, port.dtype) for port in step.state))


def _layers_first(port: Port) -> tuple[int, ...]:
    """Return (L, 1, H) of a state (B, H) or (B, L, H)."""
    layers = port.shape[0] if len(port.shape) > 1 else 1
    return (layers, 1, port.shape[-1])
