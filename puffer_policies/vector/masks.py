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

from collections.abc import Mapping
from typing import Any

import numpy as np

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.spaces import ActionLayout
from puffer_policies.vector.faults import Door

METHOD = "action_masks"
"""The method that envs of sb3-contrib have."""

Infos = Mapping[str, Any]


class ActionMasks:
    """The masks of the observations that a batch showed last.

    What it keeps between two steps is plain data, which the state of a run can hold.

    Args:
        num_rows: N.
        layout: of the actions; continuous ones are never masked.
        door: to envs that may have the method; None if there is none to ask.
    """

    def __init__(self, num_rows: int, layout: ActionLayout, *, door: Door | None = None) -> None:
        self.num_rows, self.nvec, self._door = num_rows, layout.nvec, door
        self._firsts = np.cumsum((0, *layout.nvec))[:-1]  # (K,): each choice's first option
        self._source: str | None = None
        """``infos``, ``methods``, ``observations`` or empty; None until somebody asks."""
        self._shown: dict[str, Any] | None = None
        """What is still to be read."""
        self._current: np.ndarray | None = None

    def start(self, observations: Any, infos: Infos, *, idle: np.ndarray | None = None) -> None:
        """Take note of what a reset showed; by default nobody is idle."""
        nobody = np.zeros(self.num_rows, dtype=bool)
        self.advance(observations, infos, idle=nobody if idle is None else idle)
        self._source = None

    def advance(
        self, observations: Any, infos: Infos, *, idle: np.ndarray, restarted: Infos | None = None
    ) -> None:
        """Take note of what a step showed.

        Args:
            observations: (N, *obs), nested as the space is.
            infos: those of the step.
            idle: (N,) bool, rows whose next action is ignored: whatever their mask, all is allowed.
            restarted: infos of the rows that were reset after the step, if some were.
        """
        told = [_mask_and_rows(each) for each in (infos, restarted or {}) if ACTION_MASK in each]
        observed = observations.get(ACTION_MASK) if isinstance(observations, dict) else None
        self._shown = {"told": told, "observed": observed, "idle": idle}

    @property
    def current(self) -> np.ndarray | None:
        """(N, A) bool, true where an option is allowed; None if the envs give no masks.

        Raises:
            EnvError: a row without a mask, one of another shape, or one that allows nothing.
        """
        shown, self._shown = self._shown, None
        if shown is not None:
            if self._source is None:
                self._source = self._found(shown)
            self._current = self._masks(shown) if self._source else None
        return self._current

    def get_state(self) -> dict[str, Any]:
        """Return where these envs give masks and the current ones, as plain data."""
        current = None if self._source is None else self.current
        return {"source": self._source, "current": None if current is None else current.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self._source, self._current, self._shown = state["source"], state["current"], None

    def _found(self, shown: dict[str, Any]) -> str:
        """Return where these envs give masks; empty if nowhere."""
        if not self.nvec:
            return ""
        if shown["told"]:
            return "infos"
        if self._door is not None and self._door.has_method(METHOD):
            return "methods"
        # One of another shape is no mask of these actions, but something that the policy sees.
        shape = (self.num_rows, sum(self.nvec))
        return "observations" if np.shape(shown["observed"]) == shape else ""

    def _masks(self, shown: dict[str, Any]) -> np.ndarray:
        masks = np.zeros((self.num_rows, sum(self.nvec)), dtype=bool)
        known = shown["idle"].copy()
        for given, rows in self._given(shown):
            _write(masks, given, rows)
            known |= rows
        masks[shown["idle"]] = True
        self._require(known, "gave no action mask, though it did in reset()")
        left = np.logical_or.reduceat(masks, self._firsts, axis=1)  # (N, K)
        self._require(left.all(-1), "gave an action mask that allows nothing")
        return masks

    def _given(self, shown: dict[str, Any]) -> list[tuple[Any, np.ndarray]]:
        """Return masks, and the rows (N,) that they are of; later ones go before."""
        everyone = np.ones(self.num_rows, dtype=bool)
        if self._source == "infos":
            return [(mask, everyone if rows is None else rows) for mask, rows in shown["told"]]
        if self._source == "observations":
            return [(shown["observed"], everyone)]
        assert self._door is not None
        return [(self._door.call(METHOD), everyone)]

    def _require(self, good: Any, problem: str) -> None:
        if not good.all():
            raise EnvError(
                f"Env {int(np.argmin(good))} of {self.num_rows} {problem}.",
                fix="Every observation needs a mask with an option for each choice.",
            )


def _mask_and_rows(infos: Infos) -> tuple[Any, np.ndarray | None]:
    """Return the masks in the infos of a batch, and which rows have one; None: all."""
    return infos[ACTION_MASK], infos.get(f"_{ACTION_MASK}")


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
