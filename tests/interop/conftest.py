"""How tests of interop note what a trainer has learned."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def note_return(record_property):
    """Ask for a mean return, and note it for the table of `docs/interop/index.md`."""

    def note(mean: float, *, least: float, trainer: str, policy: str, env: str, steps: int) -> None:
        row = {"trainer": trainer, "policy": policy, "env": env, "steps": steps}
        record_property("return", json.dumps({**row, "return": round(float(mean), 2)}))
        assert mean >= least

    return note
