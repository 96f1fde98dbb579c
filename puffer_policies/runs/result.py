"""What a run left behind, and how its end is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from puffer_policies.runs.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    checkpoint: Path
    steps: int
    """Env steps, those before a resume among them."""
    new_steps: int
    """Env steps since the run was started or resumed."""
    seconds: float
    interrupted: bool
    evaluation: Evaluation | None
    """The final evaluation; None if the run was interrupted, and where `is_main` is False."""
    is_main: bool = True
    """Whether this process wrote the run; False in the others that ``torchrun`` started."""


def summary(result: RunResult, policy: nn.Module) -> dict[str, str]:
    """Return the rows of a table: policy, parameters, steps, return, checkpoint."""
    rows = {
        "policy": str(getattr(policy, "spec", type(policy).__name__)),
        "parameters": f"{sum(p.numel() for p in policy.parameters()):,}",
        "steps": f"{result.new_steps:,} in {result.seconds:.1f} s "
        f"({result.new_steps / result.seconds:,.0f} steps/s)",
    }
    if result.new_steps != result.steps:
        rows["all steps"] = f"{result.steps:,}, those before among them"
    if result.evaluation is not None:
        rows |= result.evaluation.fields()
    rows["checkpoint"] = str(result.checkpoint)
    return rows
