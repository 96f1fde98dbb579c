"""How wide a core must be, from what the policy around it says."""

from __future__ import annotations

from torch import nn

from puffer_policies.errors import BuildError


def core_sizes(
    policy: nn.Module, input_size: int | None, hidden_size: int | None
) -> tuple[int, int]:
    """Return the widths of a core's input and output, inferred where they are None.

    Raises:
        BuildError: the policy does not say, or says otherwise than what was given.
    """
    encoded = _size(policy, input_size, "input_size", "encode_observations gives")
    return encoded, _size(policy, hidden_size, "hidden_size", "decode_actions reads")


def _size(policy: nn.Module, given: int | None, argument: str, role: str) -> int:
    """Return the policy's hidden_size, or what was given if it does not say."""
    found: int | None = getattr(policy, "hidden_size", None)
    name = type(policy).__name__
    if found is None and given is None:
        raise BuildError(
            f"{name!r} has no hidden_size, so {argument} can't be inferred.",
            fix=f"Set self.hidden_size in it, or pass {argument}: what {role}.",
        )
    if found is not None and given not in (None, found):
        raise BuildError(
            f"{argument}={given} was given, but {name!r} has hidden_size={found}: its {role} "
            f"{found} features.",
            fix=f"Leave {argument} out, or build {name!r} with hidden_size={given}.",
        )
    return int(found if given is None else given)  # type: ignore[arg-type]
