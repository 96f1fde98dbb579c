"""Lays the layers of a config over each other, weakest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from puffer_policies.config.flags import Key
from puffer_policies.config.layers import Layer, Value

_OWNERS: dict[Key, str] = {
    ("base", "env_name"): "env",
    ("base", "policy_name"): "policy",
    ("base", "rnn_name"): "rnn",
}
"""Whose keyword arguments a section holds: new owners don't inherit them from a weaker layer."""

_SIZES: tuple[Key, ...] = (("rnn", "input_size"), ("rnn", "hidden_size"))
"""What a memory's arguments say of the policy inside it, as PufferLib's files do."""


def merge(layers: Iterable[Layer]) -> dict[Key, Value]:
    """Lay the layers over each other, weakest first.

    A layer that names another policy, wrapper or env drops the keyword arguments that weaker layers
    gave to the former one: they were written for its constructor. With a policy go its widths, too,
    which a memory finds out by itself.
    """
    merged: dict[Key, Value] = {}
    for layer in layers:
        changed = {section for owner, section in _OWNERS.items() if _differs(merged, layer, owner)}
        gone = _SIZES if "policy" in changed else ()
        merged = {
            key: value for key, value in merged.items() if key[0] not in changed and key not in gone
        }
        merged.update(layer.values)
    return merged


def _differs(merged: Mapping[Key, Value], layer: Layer, key: Key) -> bool:
    before, now = merged.get(key), layer.values.get(key)
    return before is not None and now is not None and before.value != now.value
