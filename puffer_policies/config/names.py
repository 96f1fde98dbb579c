"""What may name a policy in a config: registered names only, never an import path.

A config or a checkpoint may come from a stranger. Were it to say ``module:Class``, to train by it
would be to run code that it chose. Whether a name is registered is for the registry to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from puffer_policies.config.values import Refused
from puffer_policies.errors import BuildError
from puffer_policies.registry.names import preset_name_offence, reference_offence
from puffer_policies.registry.specs import PolicySpec

_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+|.*\.py(::.*)?")


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """Text that may stand for a registered policy or wrapper: ``Annotated[str, RegisteredName]``.

    A policy may also be a preset, or an expression such as ``LSTMWrapper(Default)``.
    """

    kind: Literal["policy", "wrapper"]

    def __str__(self) -> str:
        return f"that names a {self.kind}"

    def check(self, value: str) -> None:
        """Raise `Refused` for an import path and for what is no name at all."""
        if _IMPORT_PATH.fullmatch(value):
            raise Refused(self._not_a_path(value))
        if self.kind == "wrapper" and (offence := reference_offence(value)):
            raise Refused(f"{offence}.")
        if self.kind == "policy" and preset_name_offence(value.rpartition("/")[2]):
            _require_expression(value)

    def _not_a_path(self, value: str) -> str:
        table = "policies" if self.kind == "policy" else "wrappers"
        return (
            f"{value!r} is an import path; a config names registered policies only. Register it in "
            f"registry.toml, under [{table}.NAME] with target = ..., and write NAME here."
        )


def _require_expression(value: str) -> None:
    try:
        PolicySpec.parse(value)
    except BuildError as error:
        raise Refused(str(error).replace("\n", " ")) from error
