"""A fused sequence with episode starts as one operator, which `torch.compile` does not look into.

How many flush steps a sequence needs is only known from its data, on which no graph can depend. An
operator hides that: the compiler knows the shapes of what comes out and calls it like any other,
so that the graph around it stays whole.

`B` batch, `T` time, `I` input size, `H` hidden size, `L` layers.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Sequence = Callable[[Tensor, list[Tensor], list[Tensor], Tensor, bool], list[Tensor]]
"""(B, T, I), state (L, B, H) each, weights, starts (B, T), train -> (B, T, H), state."""

ARGUMENTS = "Tensor x, Tensor[] parts, Tensor[] weights, Tensor starts, ScalarType? low, bool train"
"""Those of both operators; `low` is the dtype of autocast, which compiled graphs run without."""

MOST_TRACES = 4
"""Traces that are kept: as many sequences as a pass has before its gradients are computed."""

CONTIGUOUS = torch.contiguous_format

# A graph of CUDA kernels can't be replayed where the host reads a number. Torch has the mark for it
# since 2.8.
TAGS: dict[str, Any] = {}
if (
    hasattr(torch.Tag, "cudagraph_unsafe")
    and "tags" in inspect.signature(torch.library.custom_op).parameters
):
    TAGS = {"tags": (torch.Tag.cudagraph_unsafe,)}


class Trace(NamedTuple):
    """A sequence as autograd has recorded it."""

    inputs: list[Tensor]
    """x, the parts of the state and the weights: leaves of their own."""
    outputs: list[Tensor]
    """The output and the parts of the state after it."""


def make_operator(name: str, run: Sequence) -> Callable[..., list[Tensor]]:
    """Return `run` as an operator ``puffer_policies::name``, with a gradient.

    It takes `ARGUMENTS` and `keep`, whether a gradient will be asked for. The first tensor that it
    returns is a ticket for its own use; the output, in the dtype of autocast or of `x`, and the
    state, in the dtype that it had, follow.
    """
    # Torch destroys an operator that is defined again, and whoever holds the first one crashes.
    while hasattr(torch.ops.puffer_policies, name):
        name += "_"
    kernels = _Kernels(run)
    operator = torch.library.custom_op(
        f"puffer_policies::{name}",
        kernels.forward,
        mutates_args=(),
        schema=f"({ARGUMENTS}, bool keep) -> Tensor[]",
        **TAGS,
    )
    gradient = torch.library.custom_op(
        f"puffer_policies::{name}_backward",
        kernels.backward,
        mutates_args=(),
        schema=f"(Tensor ticket, Tensor[] grads, {ARGUMENTS}) -> Tensor[]",
        **TAGS,
    )
    operator.register_fake(_fake)
    gradient.register_fake(_fake_backward)
    operator.register_autograd(
        functools.partial(_differentiate, gradient=gradient), setup_context=_save
    )
    return operator


class _Kernels:
    """What the operator and its gradient compute.

    An operator hands nothing but tensors to its gradient, and torch's kernels hide what theirs
    needs. So the trace of a sequence is kept until its backward pass presents the ticket. Where it
    is gone, as in a second backward pass, the sequence runs once more.
    """

    def __init__(self, run: Sequence) -> None:
        self._run = run
        self._traces: dict[int, Trace] = {}
        self._tickets = itertools.count(1)

    def forward(self, *arguments: Any) -> list[Tensor]:
        """Return a ticket, the output and the state after it."""
        *call, keep = arguments
        ticket = 0
        if keep:
            trace, ticket = self._record(*call), next(self._tickets)
            outputs = [each.detach() for each in trace.outputs]
            self._traces[ticket] = trace
            if len(self._traces) > MOST_TRACES:
                del self._traces[next(iter(self._traces))]  # the oldest
        else:
            outputs = self._compute(*call)
        # Copies, as the state is a view of the output: results of an operator share no memory.
        output, *after = outputs
        copies = [each.clone(memory_format=CONTIGUOUS) for each in after]
        return [torch.tensor(ticket), output.contiguous(), *copies]

    def backward(self, ticket: Tensor, grads: list[Tensor], *arguments: Any) -> list[Tensor]:
        """Return the gradients of x, of the parts of the state and of the weights."""
        trace = self._traces.pop(int(ticket), None) or self._record(*arguments)
        gradients = torch.autograd.grad(trace.outputs, trace.inputs, grads, allow_unused=True)
        return [
            torch.zeros_like(each, memory_format=CONTIGUOUS) if grad is None else grad.contiguous()
            for each, grad in zip(trace.inputs, gradients, strict=True)
        ]

    def _compute(
        self,
        x: Tensor,
        parts: list[Tensor],
        weights: list[Tensor],
        starts: Tensor,
        low: torch.dtype | None,
        train: bool,
    ) -> list[Tensor]:
        with torch.autocast(x.device.type, low, enabled=low is not None):
            output, *after = self._run(x, parts, weights, starts, train)
        after = [new.to(old.dtype) for new, old in zip(after, parts, strict=True)]
        return [output.to(low or x.dtype), *after]

    def _record(
        self, x: Tensor, parts: list[Tensor], weights: list[Tensor], *options: Any
    ) -> Trace:
        # Below an operator torch records nothing, unless the key that it leaves out is let in.
        key = torch._C.DispatchKey.AutogradFunctionality
        with torch.enable_grad(), torch._C._SetExcludeDispatchKeyGuard(key, False):
            inputs = [each.detach().requires_grad_() for each in (x, *parts, *weights)]
            count = 1 + len(parts)
            outputs = self._compute(inputs[0], inputs[1:count], inputs[count:], *options)
        return Trace(inputs, outputs)


def _fake(x: Tensor, parts: list[Tensor], *others: Any) -> list[Tensor]:
    """Return tensors of the forms that the operator's have, without numbers."""
    _, _, low, _, _ = others
    ticket = torch.empty((), dtype=torch.int64)
    output = x.new_empty((*x.shape[:2], parts[0].shape[-1]), dtype=low or x.dtype)
    return [ticket, output, *(torch.empty_like(each, memory_format=CONTIGUOUS) for each in parts)]


def _fake_backward(ticket: Tensor, grads: list[Tensor], *arguments: Any) -> list[Tensor]:
    x, parts, weights, *_ = arguments
    return [torch.empty_like(each, memory_format=CONTIGUOUS) for each in (x, *parts, *weights)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, parts, weights, starts, *ctx.options, _ = inputs
    ticket, *outputs = output
    ctx.num_parts = len(parts)
    ctx.forms = [(each.shape, each.dtype) for each in outputs]
    ctx.save_for_backward(ticket, starts, x, *parts, *weights)


def _differentiate(
    ctx: Any, grads: list[Tensor | None], *, gradient: Callable[..., list[Tensor]]
) -> tuple[Any, ...]:
    ticket, starts, x, *rest = ctx.saved_tensors
    parts, weights = rest[: ctx.num_parts], rest[ctx.num_parts :]
    full = [
        x.new_zeros(shape, dtype=dtype) if grad is None else grad
        for grad, (shape, dtype) in zip(grads[1:], ctx.forms, strict=True)
    ]
    grad_x, *others = gradient(ticket, full, x, parts, weights, starts, *ctx.options)
    return grad_x, others[: ctx.num_parts], others[ctx.num_parts :], None, None, None, None
