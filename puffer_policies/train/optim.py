"""Optimizers: Adam, or Muon for hidden matrices beside Adam; their schedule and their gradients."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from puffer_policies.config.schema import TrainConfig
from puffer_policies.errors import MissingDependency
from puffer_policies.nn.value_heads import value_head_of
from puffer_policies.train.distributed import World

HEADS = frozenset({"actor", "critic"})
"""Names of the modules, anywhere in a policy, whose matrices give its outputs."""


def make_optimizer(config: TrainConfig, policy: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that `config` names, over the parameters of `policy` that are trained.

    Raises:
        MissingDependency: Muon with a torch older than 2.9.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = list(hidden_matrices(policy))
    if config.optimizer == "adam" or not matrices:
        return _adam(config, trained)
    # Compared by identity: == on tensors compares their elements.
    ids = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in trained if id(parameter) not in ids]
    parts = [_muon(config, matrices)]
    return JoinedOptimizer([*parts, _adam(config, others)] if others else parts)


@contextmanager
def learning_rate_on_device(
    optimizer: torch.optim.Optimizer, learning_rate: Tensor
) -> Iterator[None]:
    """Let a step read its rate from a tensor (), so that a recorded step can have another one.

    Adam refuses to be recorded, and warns if it is not, unless it is told. Outside, its options are
    numbers as before, which checkpoints hold.
    """
    is_recorded = learning_rate.is_cuda and torch.cuda.is_current_stream_capturing()
    groups = optimizer.param_groups
    options = [(group["lr"], group["capturable"]) for group in groups]
    try:
        for group in groups:
            group["lr"], group["capturable"] = learning_rate, is_recorded
        yield
    finally:
        for group, (rate, is_capturable) in zip(groups, options, strict=True):
            group["lr"], group["capturable"] = rate, is_capturable


def lr_fraction(config: TrainConfig, remaining: float) -> float:
    """Return the factor of the learning rate while a part `remaining` of the run is left.

    The cosine is that of Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983, without
    restarts.
    """
    if not config.anneal_lr:
        return 1.0
    if config.lr_schedule == "linear":
        return remaining
    return 0.5 * (1.0 - math.cos(math.pi * remaining))


def hidden_matrices(policy: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the matrices that Muon is meant for: no embeddings, heads, biases or kernels.

    Parameters inside modules named ``actor`` or ``critic`` belong to a head, as do those of a
    `ValueHeadWithLoss` under any name. This is the advice of
    https://kellerjordan.github.io/posts/muon/, except that convolution kernels, which
    `torch.optim.Muon` does not accept, are left to Adam too.
    """
    value_head = value_head_of(policy)
    # A matrix that two modules share comes once.
    ids = set() if value_head is None else {id(each) for each in value_head.parameters()}
    for path, module in policy.named_modules():
        if HEADS.intersection(path.split(".")) or isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1
            if is_matrix and parameter.requires_grad and id(parameter) not in ids:
                ids.add(id(parameter))
                yield parameter


class JoinedOptimizer(torch.optim.Optimizer):
    """Several optimizers that step as one, with one list of groups and one state dict.

    Args:
        parts: optimizers without a parameter in common, none of which has stepped yet.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self._parts = parts
        groups = [group for part in parts for group in part.param_groups]
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Let every part work on the groups and the state of the whole."""
        # torch replaces both when it loads a state, so the parts would go on with the old ones.
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every part. `closure` is only there for the signature."""
        for part in self._parts:
            part.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` of an optimizer with the same parts returned."""
        super().load_state_dict(state_dict)
        lay_out_moments(self.state)
        self._share()


class Adam(torch.optim.Adam):
    """torch's fused Adam, number for number, with less around its kernel.

    A step of 6 small parameters takes 31 in place of 45 us. And torch keeps the compiler out of its
    methods by wrappers that import the compiler, for which every run would wait 2 seconds. The
    state and the groups are torch's, so checkpoints are, too.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state and the groups."""
        state: dict[str, Any] = inspect.unwrap(torch.optim.Optimizer.state_dict)(self)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned for the same parameters."""
        inspect.unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)
        lay_out_moments(self.state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. `closure` is only there for the signature."""
        for group in self.param_groups:
            trained = [each for each in group["params"] if each.grad is not None]
            # The kernel wants tensors of one dtype.
            for dtype in {each.dtype for each in trained}:
                self._update([each for each in trained if each.dtype is dtype], group)

    def _update(self, parameters: list[Any], group: dict[str, Any]) -> None:
        states = [self.state[each] or self._start(each) for each in parameters]
        steps = [state["step"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            [each.grad for each in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _start(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), device=parameter.device)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def lay_out_moments(state: dict[Any, Any]) -> None:
    """Lay the moments out in memory as their parameters are.

    Adam's kernel goes through the memory of all of them side by side, whatever their strides, and a
    file holds numbers in the order of their indices.
    """
    for parameter, moments in state.items():
        for name, moment in moments.items():
            if moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)


def _adam(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_eps,
        # One kernel for all parameters: small policies spend their time on launching kernels.
        fused=True,
    )


def _muon(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise MissingDependency(
            f"train.optimizer is 'muon', which torch has since 2.9; this is {torch.__version__}.",
            fix='Install "torch>=2.9", or set train.optimizer to adam.',
        )
    optimizer: torch.optim.Optimizer = muon(
        parameters,
        lr=config.learning_rate,
        momentum=config.adam_beta1,
        weight_decay=0.0,
        # Steps as long as Adam's (Liu et al. 2025, https://arxiv.org/abs/2502.16982), so that one
        # learning rate serves both parts, and changing the optimizer does not mean tuning it again.
        adjust_lr_fn="match_rms_adamw",
    )
    return optimizer


def _laid_out(piece: Tensor, parameter: Tensor) -> Tensor:
    """Return a view of the memory of `piece` with the shape and the strides of a parameter."""
    strides = torch.empty_like(parameter).stride()  # without the gaps that a view may have
    return piece.as_strided(parameter.shape, strides, piece.storage_offset())


class Gradients:
    """The gradients of all trained `parameters`, side by side in one flat tensor for each dtype.

    Each ``grad`` is a view of that tensor, to which autograd adds in place. Clearing and clipping
    them tensor by tensor takes longer than computing the gradients of a small policy. A view has
    the strides of its parameter, which Adam's kernel takes for granted.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [each for each in parameters if each.requires_grad]
        self._flat: list[Tensor] = []
        self._pieces: list[tuple[nn.Parameter, Tensor]] = []
        for dtype in dict.fromkeys(each.dtype for each in trained):
            self._append([each for each in trained if each.dtype is dtype])
        self._views = [_laid_out(piece, parameter) for parameter, piece in self._pieces]

    def _append(self, parameters: list[nn.Parameter]) -> None:
        sizes = [each.numel() for each in parameters]
        flat = parameters[0].new_zeros(sum(sizes))
        pieces = torch.split(flat, sizes)
        self._flat.append(flat)
        self._pieces += zip(parameters, pieces, strict=True)

    @property
    def tensors(self) -> list[Tensor]:
        """The flat tensors."""
        return self._flat

    def follow_layouts(self) -> bool:
        """Lay all out as their parameters are by now; return whether one of these has changed.

        ``policy.to(memory_format=torch.channels_last)`` changes them, and the memory of each
        ``grad`` with them.
        """
        triples = [(*pair, view) for pair, view in zip(self._pieces, self._views, strict=True)]
        if all(
            view.stride() == parameter.stride() and view.data_ptr() == piece.data_ptr()
            for parameter, piece, view in triples
        ):
            return False
        self._views = [_laid_out(piece, parameter) for parameter, piece in self._pieces]
        return True

    def clear(self) -> None:
        """Set all to zero."""
        for flat in self._flat:
            flat.zero_()
        for (parameter, _), view in zip(self._pieces, self._views, strict=True):
            # `zero_grad` of a policy or an optimizer sets it to None. A part frozen since then has
            # none, as Adam would move it on by its momentum.
            parameter.grad = view if parameter.requires_grad else None

    def average(self, world: World) -> None:
        """Average over all processes: one message for each dtype."""
        for flat in self._flat:
            world.mean_(flat)

    def clip(self, max_norm: float, *, on_host: bool | None = None) -> None:
        """Scale all down to the Euclidean norm `max_norm`, if theirs is larger.

        With `on_host` the norm is read back; by default where there is nothing to wait for.
        """
        norms = [torch.linalg.vector_norm(flat).float() for flat in self._flat]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        # As torch.nn.utils.clip_grad_norm_, whose 1e-6 keeps zero gradients from dividing by 0.
        scale: float | Tensor
        if norm.is_cpu if on_host is None else on_host:
            # Numbers are divided faster than tensors, and to the same bits in float32.
            scale = float(np.float32(max_norm) / (np.float32(norm.item()) + np.float32(1e-6)))
            if scale >= 1.0:  # not so if it is NaN, which all gradients shall show then
                return
        else:
            scale = (torch.full_like(norm, max_norm) / (norm + 1e-6)).clamp(max=1.0)
        for flat in self._flat:
            flat.mul_(scale)
