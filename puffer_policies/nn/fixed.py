"""Calls of modules that stand still: the forward passes of a rollout, without the cost of modules.

`torch.nn.Module` looks for hooks at every call and searches for a parameter at every reading. For a
small policy both together take as long as its arithmetic. During a rollout neither the weights nor
the parts of a policy change, so a fixed call looks them up once. It is not kept for longer: weights
may be written to in ways that leave no mark on a tensor, such as the replay of a CUDA graph, so
that nothing kept could know by itself that it is stale.

`N` rows, `H` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as torch_module

Call = Callable[[Any], Any]
"""Does what a module does with its one argument."""
Eval = Callable[..., tuple[Any, Tensor]]
"""Observations, state -> logits, values: what ``forward_eval`` of a policy does."""
Encode = Callable[..., Tensor]
"""Observations, state -> hidden (N, H)."""
Decode = Callable[[Tensor], tuple[Any, Tensor]]
"""Hidden (N, H) -> logits, values (N, 1)."""


GLOBAL_HOOKS = tuple(
    getattr(torch_module, f"_global_{kind}_hooks")
    for kind in ("forward", "forward_pre", "backward", "backward_pre")
)
"""Torch's own dicts of hooks that watch every module, as profilers do; torch has a function for it
since 2.6."""


def fixed_eval(policy: nn.Module, *, may_wait: bool = False) -> Eval:
    """Return a function that equals ``policy.forward_eval`` for as long as the policy stands still.

    That is until a weight is written to, or a part or a hook is added, removed or exchanged. It
    gives no gradient. A policy without a method ``fixed_eval`` gives its ``forward_eval``.

    Args:
        policy: any policy.
        may_wait: whether the host may read numbers back where they spare a calculation.
    """
    make: Callable[..., Eval] | None = getattr(policy, "fixed_eval", None)
    own: Eval = policy.forward_eval  # type: ignore[assignment]
    return own if make is None else make(may_wait=may_wait)


def fixed_parts(policy: nn.Module) -> tuple[Encode, Decode]:
    """Return functions that equal its ``encode_observations`` and ``decode_actions`` likewise."""
    make: Callable[[], tuple[Encode, Decode]] | None = getattr(policy, "fixed_parts", None)
    if make is not None:
        return make()
    return policy.encode_observations, policy.decode_actions  # type: ignore[return-value]


def fixed_call(module: nn.Module) -> Call:
    """Return a function that equals ``module(x)`` likewise.

    The class that writes ``forward`` may write a method ``fixed_call`` beside it, which makes the
    function. A module that is not `is_plain` is returned itself.
    """
    if not is_plain(module):
        return module
    # A subclass with a forward of its own does not do what the fixed call of its base does.
    writer = next(each for each in type(module).__mro__ if "forward" in vars(each))
    make = vars(writer).get("fixed_call", _OF_TORCH.get(writer))
    call: Call = module.forward if make is None else make(module)
    return call


def is_plain(module: nn.Module) -> bool:
    """Return whether a call of a module is no more than one of the ``forward`` of its class."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks  # one of them computes a weight that is pruned
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or "forward" in vars(module)
        or type(module).__call__ is not nn.Module.__call__
        or "parametrizations" in module._modules
        or any(GLOBAL_HOOKS)
    )


def overrides(instance: Any, cls: type, *names: str) -> bool:
    """Return whether an instance has other methods of these names than those that `cls` has."""
    own = type(instance)
    return any(
        getattr(own, name) is not getattr(cls, name) or name in vars(instance) for name in names
    )


def chain(*calls: Call) -> Call:
    """Return a function that makes the calls one after another."""

    def call(x: Any) -> Any:
        for each in calls:
            x = each(x)
        return x

    return call


def _linear(layer: nn.Linear) -> Call:
    if not {"weight", "bias"} <= layer._parameters.keys():
        return layer.forward  # of a subclass that computes them, perhaps anew for each call
    weight, bias = layer.weight, layer.bias
    return lambda x: functional.linear(x, weight, bias)


def _sequential(layers: nn.Sequential) -> Call:
    return chain(*(fixed_call(each) for each in layers))


FEW_GELUS = 8192
"""Numbers up to which torch's own kernel beats oneDNN, which computes the GELU of a contiguous
matrix and takes long to set up: 3 instead of 7 us for 8 rows of 128 on CPU, 8 instead of 11 for
64."""


def _gelu(layer: nn.GELU) -> Call:
    plain = partial(functional.gelu, approximate=layer.approximate)
    if layer.approximate != "none":
        return plain

    def call(x: Tensor) -> Tensor:
        if x.ndim != 2 or not x.is_cpu or x.dtype is not torch.float32 or x.numel() > FEW_GELUS:
            return plain(x)
        # A view that is not contiguous goes around oneDNN. A single row is contiguous anyhow.
        return functional.gelu(x.t()).t() if x.shape[0] > 1 else functional.gelu(x.double()).float()

    return call


_OF_TORCH: Mapping[type[nn.Module], Callable[[Any], Call]] = MappingProxyType(
    {nn.Linear: _linear, nn.Sequential: _sequential, nn.GELU: _gelu}
)
