"""The conformance suite: prove that a policy keeps the contract.

The public names are imported when they are first used, so that pytest, which loads this package's
plug-in at every start, waits for no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puffer_policies.checks.api import check_policy, require_conformance, require_shapes
    from puffer_policies.checks.model import (
        Check,
        CheckFailed,
        CheckSkipped,
        Level,
        Report,
        Result,
        Scope,
        Tier,
        check,
    )
    from puffer_policies.checks.probes.subject import Subject
    from puffer_policies.checks.pytest_plugin import conformance_tests

_HOMES = {
    "Check": "model",
    "CheckFailed": "model",
    "CheckSkipped": "model",
    "Level": "model",
    "Report": "model",
    "Result": "model",
    "Scope": "model",
    "Subject": "probes.subject",
    "Tier": "model",
    "check": "model",
    "check_policy": "api",
    "conformance_tests": "pytest_plugin",
    "require_conformance": "api",
    "require_shapes": "api",
}

__all__ = [
    "Check",
    "CheckFailed",
    "CheckSkipped",
    "Level",
    "Report",
    "Result",
    "Scope",
    "Subject",
    "Tier",
    "check",
    "check_policy",
    "conformance_tests",
    "require_conformance",
    "require_shapes",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
