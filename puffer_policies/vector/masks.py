"""The action masks that envs give, in one of three ways, as one array for the rows of a batch.

============  ==================================================================================
infos         ``info["action_mask"]`` of reset and every step, as in gymnasium's Taxi
methods       ``env.action_masks()``, as in sb3-contrib; also one of a whole vector env
observations  the key ``action_mask`` of a Dict observation, as in PettingZoo
============  ==================================================================================

The first that an env has after a reset is read, and only if somebody asks for masks. `N` rows, `A`
options of all choices together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.spaces import ActionLayout
from puffer_policies.vector.faults import Door

METHOD = "action_masks"
"""The method that envs of sb3-contrib have."""

Infos = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a reset or a step showed."""

    observations: Any
    infos: Infos
    idle: np.ndarray
    """(N,) bool: rows whose next action is ignored; whatever their mask, all is allowed."""
    restarted: Infos
    """Infos of the rows that were reset after the step; empty if none were."""


_Read = Callable[["ActionMasks", Shown, np.ndarray], np.ndarray]
"""Writes into masks (N, A) what was shown, and returns the rows (N,) that had one."""


class ActionMasks:
    """The masks of the observations that a batch showed last.

    Args:
        num_rows: N.
        layout: of the actions; continuous ones are never masked.
        door: to envs that may have the method; None if there is none to ask.
    """

    def __init__(self, num_rows: int, layout: ActionLayout, *, door: Door | None = None) -> None:
        self.num_rows, self.nvec, self.door = num_rows, layout.nvec, door
        self._firsts = np.cumsum((0, *layout.nvec))[:-1]  # (K,): each choice's first option
        self._read: _Read | None = None
        self._is_start = False
        self._shown: Shown | None = None
        self._current: np.ndarray | None = None

    def start(self, observations: Any, infos: Infos, *, idle: np.ndarray | None = None) -> None:
        """Take note of what a reset showed; `idle` as in `Shown`, by default nobody."""
        self.advance(
            observations, infos, idle=np.zeros(self.num_rows, dtype=bool) if idle is None else idle
        )
        self._is_start = True

    def advance(
        self, observations: Any, infos: Infos, *, idle: np.ndarray, restarted: Infos | None = None
    ) -> None:
        """Take note of what a step showed; the arguments are those of `Shown`."""
        self._shown = Shown(observations, infos, idle, restarted or {})
        self._is_start = False

    @property
    def current(self) -> np.ndarray | None:
        """(N, A) bool, true where an option is allowed; None if the envs give no masks.

        Raises:
            EnvError: a row without a mask, one of another shape, or one that allows nothing.
        """
        shown, self._shown = self._shown, None
        if shown is not None:
            if self._is_start:
                self._read = self._found(shown)
            self._current = None if self._read is None else self._masks(shown, self._read)
        return self._current

    def _found(self, shown: Shown) -> _Read | None:
        """Return how masks of these envs are read, if they give any."""
        if not self.nvec:
            return None
        if ACTION_MASK in shown.infos:
            return _of_infos
        if self.door is not None and self.door.has_method(METHOD):
            return _of_methods
        if isinstance(shown.observations, dict) and ACTION_MASK in shown.observations:
            shape = (self.num_rows, sum(self.nvec))
            # Else it is no mask of these actions, but something that the policy sees.
            return _of_observations if shown.observations[ACTION_MASK].shape == shape else None
        return None

    def _masks(self, shown: Shown, read: _Read) -> np.ndarray:
        masks = np.zeros((self.num_rows, sum(self.nvec)), dtype=bool)
        told = read(self, shown, masks)
        masks[shown.idle] = True
        self._require(
            np.asarray(told | shown.idle), "gave no action mask, though it did in reset()"
        )
        left = np.logical_or.reduceat(masks, self._firsts, axis=1)  # (N, K)
        self._require(
            np.logical_and.reduce(left, axis=1), "gave an action mask that allows nothing"
        )
        return masks

    def _require(self, good: np.ndarray, problem: str) -> None:
        if not good.all():
            raise EnvError(
                f"Env {int(np.argmin(good))} of {self.num_rows} {problem}.",
                fix="Every observation needs a mask with an option for each choice.",
            )


def _of_infos(masks: ActionMasks, shown: Shown, target: np.ndarray) -> np.ndarray:
    told = np.zeros(masks.num_rows, dtype=bool)
    for infos in (shown.infos, shown.restarted):
        if ACTION_MASK in infos:
            present = infos.get(f"_{ACTION_MASK}", True)
            rows = np.broadcast_to(np.asarray(present, dtype=bool), masks.num_rows)
            _write(target, infos[ACTION_MASK], rows)
            told |= rows
    return told


def _of_methods(masks: ActionMasks, shown: Shown, target: np.ndarray) -> np.ndarray:
    assert masks.door is not None
    return _write_all(target, masks.door.call(METHOD))


def _of_observations(masks: ActionMasks, shown: Shown, target: np.ndarray) -> np.ndarray:
    return _write_all(target, shown.observations[ACTION_MASK])


def _write_all(target: np.ndarray, given: Any) -> np.ndarray:
    everyone = np.ones(len(target), dtype=bool)
    _write(target, given, everyone)
    return everyone


def _write(target: np.ndarray, given: Any, rows: np.ndarray) -> None:
    """Copy the masks of `rows` (N,) into `target` (N, A): at once, if they come as one array."""
    if isinstance(given, np.ndarray) and given.shape == target.shape:
        np.copyto(target, given.astype(bool, copy=False), where=rows[:, None])
        return
    for row in np.flatnonzero(rows).tolist():
        mask = _flat(given[row])
        if mask.shape != target[row].shape:
            raise EnvError(
                f"Env {row} of {len(target)} gave an action mask of {mask.size} options; its "
                f"actions have {target.shape[1]}.",
                fix="n for Discrete, the sum of nvec for MultiDiscrete, 2 n for MultiBinary.",
            )
        target[row] = mask


def _flat(mask: Any) -> np.ndarray:
    """Return one row's mask as (A,): gymnasium gives several choices as a tuple of masks."""
    parts = mask if isinstance(mask, tuple | list) else (mask,)
    return np.concatenate([np.ravel(part) for part in parts])
