"""How a run calls its policy: compiled or not, in float32 or under bfloat16 autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BACKEND = "inductor"
"""What `torch.compile` compiles with."""

GRAPH_MODES = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that replay CUDA graphs."""

Call = Callable[[Any, dict[str, Any]], tuple[Any, Tensor]]
"""Observations, state -> logits, values; the state is brought up to date."""


class PolicyCalls(NamedTuple):
    """A policy's two forward paths as a run wants them; the module itself stays as it is."""

    forward_eval: Call
    """One step: (B, *obs) -> logits of B rows, values."""
    forward: Call
    """Training: (B, *obs) or (B, T, *obs) -> logits of all rows, values, with gradient."""


def policy_calls(
    policy: nn.Module,
    *,
    device: torch.device,
    precision: str = "float32",
    compile_mode: str | None = None,
) -> PolicyCalls:
    """Return the calls of `policy`, which is on `device`.

    Args:
        policy: a module with ``forward_eval``; checkpoints and evaluation never meet another.
        device: where it is.
        precision: float32, or bfloat16 for matrix products alone: parameters, gradients, values
            and the carried state are float32 in any case.
        compile_mode: `torch.compile`'s mode; None: not compiled.
    """
    calls: list[Any] = [policy.forward_eval, policy]
    if compile_mode is not None:
        calls = [_compiled(each, compile_mode) for each in calls]
    if compile_mode in GRAPH_MODES and device.type == "cuda":
        calls = [functools.partial(_replayed, each) for each in calls]
    if precision == "bfloat16":
        calls = [functools.partial(_autocast, each, device.type) for each in calls]
    return PolicyCalls(*calls)


def _compiled(call: Call, mode: str) -> Call:
    # Other backends than inductor know no modes.
    made: Call = torch.compile(call, backend=BACKEND, mode=mode if BACKEND == "inductor" else None)
    return made


def _replayed(call: Call, observations: Any, state: dict[str, Any]) -> tuple[Any, Tensor]:
    """Call a policy whose next replay writes over what this one returns: only state outlives it."""
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    logits, values = call(observations, state)
    state.update({key: each.clone() for key, each in state.items()})
    return logits, values


def _autocast(
    call: Call, device_type: str, observations: Any, state: dict[str, Any]
) -> tuple[Any, Tensor]:
    before = {key: each.dtype for key, each in state.items()}
    with torch.autocast(device_type, torch.bfloat16):
        logits, values = call(observations, state)
    state.update({key: state[key].to(dtype) for key, dtype in before.items()})
    return logits, values.float()
