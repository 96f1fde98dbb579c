"""Writes ``.onnx``, and asks the file in onnxruntime before it is left there."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from puffer_policies.assembly.header import METADATA_KEY
from puffer_policies.errors import ExportError
from puffer_policies.export.graph import Call, Graph, Tensors
from puffer_policies.export.recording import Recording, record_step
from puffer_policies.export.source import Source
from puffer_policies.files import replace_file
from puffer_policies.foreign import import_optional
from puffer_policies.nn.trace import quiet_torch

PACKAGES = ("onnx", "onnxscript", "onnxruntime")

OPSETS = {"rsl_rl": 18}
"""The opset of a style; torch's own choice for the others."""


def write(source: Source, path: Path, *, style: str) -> None:
    """Write a policy's step to `path`, at once or not at all.

    Raises:
        MissingDependency: the extra ``export`` is not installed.
        ExportError: the step can't be recorded, has no form in ONNX or in onnxruntime, or answers
            otherwise there.
    """
    for package in PACKAGES:
        import_optional(package, extra="export", purpose="ONNX")
    recording = record_step(source, style)
    # Written after the proof, so that no file stands there which answers otherwise.
    data = converted(recording)
    recording.require_same(open_session(data, recording), "onnxruntime")
    replace_file(path, data)


def converted(recording: Recording) -> bytes:
    """Return the bytes of the file of a recording, with its metadata.

    Raises:
        ExportError: the step has no form in ONNX.
    """
    graph = recording.graph
    with quiet_torch():
        program = _or_refuse(
            recording,
            "ONNX",
            lambda: torch.onnx.export(
                recording.program,
                dynamic_shapes=(recording.rows,),
                dynamo=True,
                verbose=False,
                opset_version=OPSETS.get(recording.style),
                external_data=False,
                input_names=[port.name for port in graph.inputs],
                output_names=[port.name for port in graph.outputs],
            ),
        )
    _make_unique(program.model.graph)
    program.model.metadata_props[METADATA_KEY] = recording.metadata()
    buffer = io.BytesIO()
    program.save(buffer)
    return buffer.getvalue()


def _make_unique(graph: Any) -> None:
    """Rename inner values that have the name of an input or an output, such as a norm's mean."""
    ports = [*graph.inputs, *graph.outputs]
    names = {each.name for each in ports}
    for node in graph:
        for value in node.outputs:
            if value.name in names and not any(value is each for each in ports):
                value.name = f"{value.name}_of_{node.name}"


def open_session(data: bytes, recording: Recording) -> Call:
    """Return the call of a file in onnxruntime."""
    onnxruntime = import_optional("onnxruntime", extra="export", purpose="ONNX")
    session = _or_refuse(
        recording,
        "onnxruntime",
        lambda: onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]),
    )
    return session_call(session, recording.graph)


def session_call(session: Any, graph: Graph) -> Call:
    """Return the call of a session with tensors."""
    names = [port.name for port in graph.outputs]

    def call(inputs: Tensors) -> Tensors:
        arrays = {port.name: inputs[port.name].numpy() for port in graph.inputs}
        return dict(zip(names, map(torch.from_numpy, session.run(names, arrays)), strict=True))

    return call


def _or_refuse(recording: Recording, runtime: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:
        lines = [each.strip() for each in str(error).splitlines() if each.strip()]
        # Both runtimes name the operator in one line of many.
        reasons = [each for each in lines if "No ONNX function" in each or "NOT_IMPL" in each]
        reason = (reasons or lines or [type(error).__name__])[0]
        raise ExportError(
            f"{recording.source.name} can't be exported to ONNX: {runtime} has no form for its "
            f"step ({reason}).",
            fix="Compute it by other operators, or export it by --to torch.",
        ) from error
