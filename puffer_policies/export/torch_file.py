"""Writes ``.pt2``: the step as `torch.export` saves it, which torch alone loads and runs."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from puffer_policies.assembly.header import METADATA_KEY
from puffer_policies.export.recording import record_step
from puffer_policies.export.source import Source, exported
from puffer_policies.files import replace_file
from puffer_policies.nn.trace import quiet_torch

METADATA_FILE = f"{METADATA_KEY}.json"
"""The extra file inside, which holds the metadata."""


def write(source: Source, path: Path, *, style: str) -> None:
    """Write a policy's step to `path`, at once or not at all.

    Raises:
        ExportError: the step can't be recorded, or answers otherwise than the policy.
    """
    recording = record_step(source, style)
    buffer = io.BytesIO()
    with quiet_torch():
        extra = {METADATA_FILE: recording.metadata()}
        exported(source, lambda: torch.export.save(recording.program, buffer, extra_files=extra))
        buffer.seek(0)
        program = torch.export.load(buffer).module()
        with torch.no_grad():
            recording.require_same(program, "torch.export")
    replace_file(path, buffer.getvalue())
