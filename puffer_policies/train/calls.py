"""How a run calls its policy: compiled or not, in float32 or under bfloat16 autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig

BACKEND = "inductor"
"""What `torch.compile` compiles with."""

Call = Callable[[Any, dict[str, Any]], tuple[Any, Tensor]]
"""Observations, state -> logits, values."""


class PolicyCalls:
    """A policy's two forward paths as a config wants them run.

    The module itself stays as it is, so that checkpoints and evaluation never meet a compiled one.
    Parameters, gradients, losses and the carried state are float32 in any case: under autocast
    matrix products alone are rounded, and what comes out is brought back.
    """

    def __init__(self, config: TrainConfig, policy: nn.Module, *, device: torch.device) -> None:
        self._device_type = device.type
        self._reduced = config.precision == "bfloat16"
        policy_eval: Call = policy.forward_eval  # type: ignore[assignment]
        self._step, self._sequence = policy_eval, policy.__call__
        if config.compile:
            self._step = _compiled(policy_eval, config.compile_mode)
            self._sequence = _compiled(policy, config.compile_mode)

    def forward_eval(self, observations: Any, state: dict[str, Any]) -> tuple[Any, Tensor]:
        """(B, *obs) -> logits of B rows, values float32; `state` is brought up to date."""
        return self._run(self._step, observations, state)

    def forward(self, observations: Any, state: dict[str, Any]) -> tuple[Any, Tensor]:
        """(B, *obs) or (B, T, *obs) -> logits of all rows, values float32, with gradient."""
        return self._run(self._sequence, observations, state)

    def _run(self, call: Call, observations: Any, state: dict[str, Any]) -> tuple[Any, Tensor]:
        if not self._reduced:
            return call(observations, state)
        before = {key: value.dtype for key, value in state.items()}
        with torch.autocast(self._device_type, torch.bfloat16):
            logits, values = call(observations, state)
        for key, dtype in before.items():
            state[key] = state[key].to(dtype)
        return logits, values.float()


def _compiled(call: Any, mode: str) -> Call:
    # Other backends than inductor know no modes.
    made: Call = torch.compile(call, backend=BACKEND, mode=mode if BACKEND == "inductor" else None)
    return made
