"""A limit on what a stranger's recipe may build: not much more than the file has weights for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules import module as hooks

from puffer_policies.errors import CheckpointError

FACTOR = 8
"""How much more than it keeps a policy may build: parts that it replaces, or does not save."""
SPARE_ELEMENTS = 2**25
"""Elements beyond that, for tables and masks that are not saved."""
SPARE_PARTS = 5_000
"""Modules and tensors beyond that."""


@contextmanager
def limited_by(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let modules of this thread register only what these tensors can be the weights of.

    A layer registers its weights before it initializes them, so that memory for those that are too
    large was asked for, but not used. Building on torch's meta device would not bound the number of
    layers, and some constructors compute with their weights.

    Raises:
        CheckpointError: a constructor goes beyond the limit.
    """
    tensors = list(tensors)
    elements = FACTOR * sum(each.numel() for each in tensors) + SPARE_ELEMENTS
    parts = FACTOR * len(tensors) + SPARE_PARTS
    thread = threading.get_ident()

    def count(owner: Any, name: str, part: Any) -> None:
        nonlocal elements, parts
        # The hooks are global: another thread may build a policy of its own.
        if threading.get_ident() != thread or part is None:
            return
        parts -= 1
        elements -= part.numel() if isinstance(part, Tensor) else 0
        if parts < 0 or elements < 0:
            raise CheckpointError(
                f"it builds far more than the {len(tensors):,} tensors of the file can fill",
                fix="The recipe in the file does not belong to its weights.",
            )

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield
