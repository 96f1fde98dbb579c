"""Deep copies of one module: the suite makes thousands, of a hundred policies.

``copy.deepcopy`` takes every object of a policy apart in Python, at each copy, which was a fifth of
the suite's time. Pickle follows the same protocol in C, and its first half is done once.
"""

from __future__ import annotations

import copy
import copyreg
import io
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from puffer_policies.spaces import Spaces

_SHARED = (
    Spaces,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.CodeType,
    weakref.ref,
    property,
)
"""What copies have in common: the spaces, whose bounds may be as large as an image, and whatever
deepcopy leaves as it is, for which pickle would need a name."""

_ARRAYS = (Tensor, np.ndarray)


class Master:
    """A module that is copied often. Its form is recorded here; tensors are read at each copy.

    Args:
        module: what is copied.
        build: makes another one like it, where copying fails, which is P8's matter.
    """

    def __init__(self, module: nn.Module, build: Callable[[], nn.Module]) -> None:
        self._module, self._build = module, build
        self._kept: list[Any] = []
        form = io.BytesIO()
        try:
            _Pickler(form, self._kept).dump(module)
        except Exception:  # something in it has a deepcopy of its own
            form.truncate(0)
        self._form = form.getvalue()

    def copy(self) -> nn.Module:
        """Return what ``copy.deepcopy`` returns, except that spaces are shared."""
        try:
            twin = self._load() if self._form else copy.deepcopy(self._module)
        except Exception:
            return self._build()
        # Scripted modules are copied into parameters that no optimizer takes.
        return twin if all(each.is_leaf for each in twin.parameters()) else self._build()

    def _load(self) -> nn.Module:
        module = _Unpickler(io.BytesIO(self._form), self._kept).load()
        assert isinstance(module, nn.Module)
        return module


class _Pickler(pickle.Pickler):
    # A bound method is stored as it is, not as the name of its function.
    dispatch_table = {  # noqa: RUF012 - as pickle documents it
        **copyreg.dispatch_table,
        types.MethodType: lambda method: (types.MethodType, (method.__func__, method.__self__)),
    }

    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file, protocol=4)  # that of deepcopy
        self._kept = kept

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, _SHARED + _ARRAYS):
            if hasattr(value, "__deepcopy__"):
                raise pickle.PicklingError(f"{type(value).__name__} has its own deepcopy")
            return None
        self._kept.append(value)
        return len(self._kept) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file)
        self._kept = kept
        self._memo: dict[int, Any] = {}

    def persistent_load(self, number: int) -> Any:
        value = self._kept[number]
        return copy.deepcopy(value, self._memo) if isinstance(value, _ARRAYS) else value
