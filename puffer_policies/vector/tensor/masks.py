"""The action masks of envs on a device, in any of the ways in which `vector.masks` reads others.

They are one bool tensor (N, A) with the options of all choices side by side. The first masks after
a reset are looked at; those after a step are not, as that would wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.spaces import ActionLayout
from puffer_policies.vector.masks import METHOD

Infos = Mapping[str, Any]


class TensorMasks:
    """The masks that belong to the last observations of a batch.

    Args:
        num_rows: N.
        layout: of the actions; continuous ones are never masked.
        device: where the masks must be.
        of_env: returns the env's attribute ``action_masks`` or what its method of that name
            returns; None if it has neither.
    """

    def __init__(
        self, num_rows: int, layout: ActionLayout, device: torch.device, of_env: Callable[[], Any]
    ) -> None:
        self._shape, self._nvec, self._device = (num_rows, sum(layout.nvec)), layout.nvec, device
        self._of_env = of_env
        self._source = ""
        """``infos``, ``env``, ``observations`` or empty."""
        self._pending: Callable[[], Tensor] | None = None
        """Makes the masks that `current` has not yet been asked for."""
        self._current: Tensor | None = None

    def start(self, observations: Any, infos: Infos) -> None:
        """Find out after a reset where these envs give masks, and check the first.

        Raises:
            EnvError: they are not tensors (N, A) on the device, or allow nothing.
        """
        self._current, self._pending = None, None
        self._source = self._source_of(observations, infos)
        if self._source:
            self._current = masks = self._masks(observations, infos)
            choices = masks.split_with_sizes(list(self._nvec), -1)
            if not all(bool(each.any(-1).all()) for each in choices):
                raise EnvError(
                    "The env gave an action mask that allows nothing.",
                    fix="Every observation needs a mask with an option for each choice.",
                )

    def advance(
        self,
        observations: Any,
        infos: Infos,
        *,
        idle: Tensor | None = None,
        restarted: tuple[Tensor, Infos] | None = None,
    ) -> None:
        """Remember the answer to a step.

        Args:
            observations: (N, *obs), nested as the space is.
            infos: those of the step.
            idle: (N,) bool, rows whose next action is ignored: all is allowed. None: no row.
            restarted: (N,) bool, rows that were reset after the step, and the infos of that.
        """
        if self._source:
            self._pending = lambda: self._merged(observations, infos, idle, restarted)

    def _merged(
        self,
        observations: Any,
        infos: Infos,
        idle: Tensor | None,
        restarted: tuple[Tensor, Infos] | None,
    ) -> Tensor:
        masks = self._masks(observations, infos)
        if restarted is not None and self._source == "infos":
            rows, first = restarted
            masks = torch.where(rows[:, None], self._masks(observations, first), masks)
        return masks if idle is None else masks | idle[:, None]

    @property
    def current(self) -> Tensor | None:
        """(N, A) bool, true where an option is allowed; None if the envs give no masks.

        Raises:
            EnvError: the env gives none any more, or one of another form.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._current = pending()
        return self._current

    def get_state(self) -> dict[str, Any]:
        """Return where these envs give masks and the current ones, as plain data."""
        current = self.current
        return {
            "source": self._source,
            "current": None if current is None else current.cpu().numpy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self._source, self._pending = state["source"], None
        current = state["current"]
        self._current = None if current is None else torch.tensor(current, device=self._device)

    def _source_of(self, observations: Any, infos: Infos) -> str:
        if not self._nvec:
            return ""
        if ACTION_MASK in infos:
            return "infos"
        if self._of_env() is not None:
            return "env"
        mask = observations.get(ACTION_MASK) if isinstance(observations, Mapping) else None
        # A tensor of another shape does not mask these actions: it is a feature of that name.
        is_mask = isinstance(mask, Tensor) and mask.shape == self._shape
        return "observations" if is_mask else ""

    def _masks(self, observations: Any, infos: Infos) -> Tensor:
        if self._source == "infos":
            masks = infos.get(ACTION_MASK)
        else:
            masks = self._of_env() if self._source == "env" else observations[ACTION_MASK]
        if not isinstance(masks, Tensor):
            raise self._wrong(type(masks).__name__)
        if masks.shape != self._shape or masks.device != self._device:
            raise self._wrong(f"a tensor {tuple(masks.shape)} on {masks.device}")
        return masks.bool()

    def _wrong(self, kind: str) -> EnvError:
        return EnvError(
            f"The env's action mask is {kind}.",
            fix=f"Give a tensor {self._shape} on {self._device}, with the options of all choices "
            f"side by side, in infos[{ACTION_MASK!r}], as an attribute {METHOD!r} or in the "
            "observation.",
        )
