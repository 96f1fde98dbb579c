"""The table of targets: each kind of file that a policy can be exported to, with its writer."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_STYLE = "default"
FLOAT_BUILD = "float"
"""The style of files for PufferLib's float build."""
READER = "puffernet.h"
"""What the header of a policy in C includes: the file that stands beside it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of file."""

    summary: str
    suffix: str
    """The ending of its files."""
    writer: str
    """``module:function``, called as ``function(source, path, style=style)``, which writes the
    whole file at once or raises an `ExportError`."""
    styles: tuple[str, ...] = (DEFAULT_STYLE,)
    """Sets of names for inputs and outputs, or builds of the reader; the default one first."""


TARGETS = {
    "onnx": Target(
        summary="ONNX, for onnxruntime in any language and in browsers",
        suffix=".onnx",
        writer="puffer_policies.export.onnx_file:write",
        styles=(DEFAULT_STYLE, "rsl_rl", "ml-agents"),
    ),
    "torch": Target(
        summary="torch.export, for a program that has torch alone",
        suffix=".pt2",
        writer="puffer_policies.export.torch_file:write",
    ),
    "puffer": Target(
        summary="PufferLib 5's file of weights, of a PufferNet",
        suffix=".bin",
        writer="puffer_policies.export.flatfile:write",
        styles=(DEFAULT_STYLE, FLOAT_BUILD),
    ),
    "c": Target(
        summary="C99, a PufferNet's weights with a header and a reader beside it",
        suffix=".h",
        writer="puffer_policies.export.c:write",
    ),
}
