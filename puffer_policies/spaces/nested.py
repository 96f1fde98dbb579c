"""Functions over nested observations: a leaf, or a dict or tuple of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def map_nested(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `function` to every leaf of `tree` and to the leaves at the same place in `others`."""
    # torch's pytrees do the same, but the modules of spaces and envs import no torch.
    if isinstance(tree, dict):
        return {
            key: map_nested(function, value, *(other[key] for other in others))
            for key, value in tree.items()
        }
    if isinstance(tree, tuple):
        return tuple(map_nested(function, *leaves) for leaves in zip(tree, *others, strict=True))
    return function(tree, *others)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the leaves of `tree` in its own order."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def names_of(tree: Any, prefix: str = "") -> list[str]:
    """Return the keys that lead to each leaf, joined by dots, in the order of `leaves`."""
    if isinstance(tree, tuple):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return [prefix]
    start = f"{prefix}." if prefix else ""
    return [name for key, branch in tree.items() for name in names_of(branch, f"{start}{key}")]
