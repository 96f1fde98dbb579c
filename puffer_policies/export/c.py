"""Export of a `PufferNet` to C: its weights, a header with its sizes, and the reader in C99."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from torch import nn

from puffer_policies.errors import ExportError
from puffer_policies.export.flatfile import action_sizes, export_puffer, layout_of, puffernet_of
from puffer_policies.export.source import Source
from puffer_policies.export.targets import READER
from puffer_policies.files import replace_file, user_path
from puffer_policies.registry.names import BUILTIN
from puffer_policies.registry.packages import installed_version
from puffer_policies.spaces import action_layout, described
from puffer_policies.zoo.puffer import PufferNet


def export_c(policy: nn.Module, path: Path | str) -> Path:
    """Write a header with the sizes of a `PufferNet`, its weights, and the reader of both.

    ``cartpole.h`` names `cartpole_sizes`, with which ``puffernet.h`` opens ``cartpole.bin``; all
    three are in the folder of `path`. The weights are complete, so that C answers as PyTorch does.

    Args:
        policy: a `PufferNet`, alone or in an `ActionMaskWrapper`.
        path: the header, whose name is also that of the constants in it; its folder must exist.

    Raises:
        ExportError: another policy, or a path that is not of a header, or is the reader's own.
        IncompatibleSpace: PufferLib would take the actions for others than they are.
    """
    net, header = puffernet_of(policy), user_path(path)
    reader = header.with_name(READER)
    if header.suffix != ".h" or header == reader:
        kind = "the reader's" if header == reader else "not a header's"
        raise ExportError(
            f"{header} is {kind} name, and the header of a policy lies beside its weights and the "
            "reader.",
            fix="Give a name such as cartpole.h.",
        )
    weights = export_puffer(net, header.with_suffix(".bin"), complete=True)
    replace_file(reader, Path(__file__).with_name(READER).read_bytes())
    replace_file(header, _header(net, header.stem, weights.name).encode())
    return header


def write(source: Source, path: Path, *, style: str) -> None:
    """Write the three files of a policy, as a target of `export_policy`.

    Raises:
        ExportError, IncompatibleSpace: as `export_c`.
    """
    export_c(source.policy, path)


def _header(net: PufferNet, stem: str, weights: str) -> str:
    """Return the header of a policy, whose constants have names that begin with `stem`."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    name = name if name[0].isalpha() else f"net_{name}"
    layout, options = layout_of(net), action_sizes(net.spaces.action)
    sizes = (layout.tensors[0].shape[1], net.hidden_size, net.num_layers, layout.alignment)
    actions = action_layout(net.spaces.action)
    if actions.is_continuous:
        arrays = {"low": _floats(actions.low), "high": _floats(actions.high)}
        kind, use = "float", f"clip each number to {name}_low and {name}_high"
    else:
        assert actions.start is not None
        arrays = {"start": ", ".join(map(str, actions.start.reshape(-1)))}
        kind, use = "long", f"add {name}_start"
    lines = [
        f"/* {name}: the sizes of the PufferNet in {_safe(weights)}, by puffer-policies "
        f"{installed_version(BUILTIN)}.",
        f" * Observation: {_safe(described(net.spaces.observation))}, as the {sizes[0]} numbers of",
        " * gymnasium.spaces.flatten.",
        f" * Action: {_safe(described(net.spaces.action))}; for the env, {use}. */",
        f"#ifndef PUFFERNET_{name.upper()}_H",
        f"#define PUFFERNET_{name.upper()}_H",
        f'#include "{READER}"',
        f"static const size_t {name}_options[] = {{{', '.join(map(str, options))}}};",
        f"static const puffernet_sizes {name}_sizes = {{",
        f"    {', '.join(map(str, sizes))}, {len(options)}, {name}_options}};",
        *(f"static const {kind} {name}_{key}[] = {{{each}}};" for key, each in arrays.items()),
        "#endif",
    ]
    return "\n".join([*lines, ""])


def _floats(bounds: np.ndarray | None) -> str:
    """Return bounds as C numbers, infinite ones as the largest."""
    assert bounds is not None
    largest = np.finfo(np.float32).max
    numbers = np.clip(bounds.astype(np.float64).reshape(-1), -largest, largest)
    return ", ".join(f"{each:.8e}f" for each in numbers)


def _safe(text: str) -> str:
    """Return a text without what would end a comment of C, or begin another."""
    return re.sub(r"[^\w\s()\[\]{},.:=+-]", "_", text, flags=re.ASCII)
