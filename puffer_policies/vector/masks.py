"""The action masks of envs, in whichever of three ways they give them, as one array for a batch.

============  ==================================================================================
infos         ``info["action_mask"]`` of reset and every step, as in gymnasium's Taxi
methods       ``env.action_masks()``, as in sb3-contrib; also one of a whole vector env
observations  the key ``action_mask`` of a Dict observation, as in PettingZoo
============  ==================================================================================

The first way that an env offers after a reset is used until the next one. Masks are looked for only
when a policy reads them, because the methods cost a call of each copy in each step. `N` rows, `A`
options of all choices together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import EnvError
from puffer_policies.spaces import ActionLayout
from puffer_policies.vector.faults import Door

METHOD = "action_masks"
"""The method that envs of sb3-contrib have."""

Infos = Mapping[str, Any]


class _Answer(NamedTuple):
    """What the envs returned last, as far as masks may be in it."""

    infos: list[tuple[Any, np.ndarray | None]]
    """Masks, and the rows (N,) bool that they belong to; None: all rows."""
    observation: Any
    """The key ``action_mask`` of the observations; None if they have none."""
    idle: np.ndarray
    """(N,) bool: the row ignores its next action."""


class ActionMasks:
    """The masks that belong to the last observations of a batch.

    Args:
        num_rows: N.
        layout: of the actions; continuous ones are never masked.
        door: to envs that may have the method; None if there are none.
    """

    def __init__(self, num_rows: int, layout: ActionLayout, *, door: Door | None = None) -> None:
        self.num_rows, self.nvec, self._door = num_rows, layout.nvec, door
        self._layout = layout
        self._offsets = np.cumsum((0, *layout.nvec))[:-1]  # (K,): each choice's first option
        self._source: str | None = None
        """``infos``, ``methods``, ``observations`` or empty; None before the first reading."""
        self._answer: _Answer | None = None
        """The answer of the envs that `current` has not yet read."""
        self._current: np.ndarray | None = None

    def start(self, observations: Any, infos: Infos, *, idle: np.ndarray | None = None) -> None:
        """Remember the answer to a reset; by default no row is idle."""
        nobody = np.zeros(self.num_rows, dtype=bool)
        self.advance(observations, infos, idle=nobody if idle is None else idle)
        self._source = None

    def advance(
        self, observations: Any, infos: Infos, *, idle: np.ndarray, restarted: Infos | None = None
    ) -> None:
        """Remember the answer to a step.

        Args:
            observations: (N, *obs), nested as the space is.
            infos: those of the step.
            idle: (N,) bool, rows whose next action is ignored: whatever their mask, all is allowed.
            restarted: infos of the rows that were reset after the step, if some were.
        """
        masks = [_mask_and_rows(each) for each in (infos, restarted or {}) if ACTION_MASK in each]
        observation = observations.get(ACTION_MASK) if isinstance(observations, dict) else None
        self._answer = _Answer(masks, observation, idle)

    @property
    def current(self) -> np.ndarray | None:
        """(N, A) bool, true where an option is allowed; None if the envs give no masks.

        Raises:
            EnvError: a row without a mask, one of another shape, or one that allows nothing.
        """
        answer, self._answer = self._answer, None
        if answer is not None:
            if self._source is None:
                self._source = self._source_of(answer)
            self._current = self._masks(answer) if self._source else None
        return self._current

    def get_state(self) -> dict[str, Any]:
        """Return where these envs give masks and the current ones, as plain data."""
        # Before the first reading, reading would choose a source that nobody may need.
        current = None if self._source is None else self.current
        return {"source": self._source, "current": None if current is None else current.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` returned."""
        self._source, self._current, self._answer = state["source"], state["current"], None

    def _source_of(self, answer: _Answer) -> str:
        """Return where these envs give masks; empty if nowhere."""
        if not self.nvec:
            return ""
        if answer.infos:
            return "infos"
        if self._door is not None and self._door.has_method(METHOD):
            return "methods"
        # An array of another shape does not mask these actions: it is a feature of that name.
        shape = (self.num_rows, sum(self.nvec))
        return "observations" if np.shape(answer.observation) == shape else ""

    def _masks(self, answer: _Answer) -> np.ndarray:
        masks = np.zeros((self.num_rows, sum(self.nvec)), dtype=bool)
        covered = answer.idle.copy()
        for mask, rows in self._parts(answer):
            _copy_rows(masks, mask, rows, self._layout)
            covered |= rows
        masks[answer.idle] = True
        self._require(covered, "gave no action mask, though it did in reset()")
        playable = np.logical_or.reduceat(masks, self._offsets, axis=1)  # (N, K)
        self._require(playable.all(-1), "gave an action mask that allows nothing")
        return masks

    def _parts(self, answer: _Answer) -> list[tuple[Any, np.ndarray]]:
        """Return masks and the rows (N,) that they belong to; later ones replace earlier ones."""
        everyone = np.ones(self.num_rows, dtype=bool)
        if self._source == "infos":
            return [(mask, everyone if rows is None else rows) for mask, rows in answer.infos]
        if self._source == "observations":
            return [(answer.observation, everyone)]
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
    # Gymnasium's vector envs put beside each array of infos one of the rows that it is valid for.
    return infos[ACTION_MASK], infos.get(f"_{ACTION_MASK}")


def _copy_rows(target: np.ndarray, masks: Any, rows: np.ndarray, layout: ActionLayout) -> None:
    """Copy the masks of `rows` (N,) into `target` (N, A)."""
    # One array is copied at once; of lists and arrays of objects each row has its own.
    if isinstance(masks, np.ndarray) and masks.shape == target.shape:
        np.copyto(target, masks.astype(bool, copy=False), where=rows[:, None])
        return
    for row in np.flatnonzero(rows).tolist():
        mask = np.ravel(layout.flat_mask(_of_row(masks, row)))
        if mask.shape != target[row].shape:
            raise EnvError(
                f"Env {row} of {len(target)} gave an action mask of {mask.size} options; its "
                f"actions have {target.shape[1]}.",
                fix="n for Discrete, the sum of nvec for MultiDiscrete, 2 n for MultiBinary.",
            )
        target[row] = mask


def _of_row(masks: Any, row: int) -> Any:
    """Return one row's mask; a dict or a tuple of masks is one of batches."""
    if isinstance(masks, tuple):
        return tuple(_of_row(each, row) for each in masks)
    if not isinstance(masks, dict):
        return masks[row]
    # Gymnasium marks by a key of its own which rows have a part; the others may do everything.
    # Envs that step all rows at once need no such marks.
    marks = {f"_{key}" for key in masks}
    return {
        key: _of_row(each, row)
        for key, each in masks.items()
        if key not in marks and ((mark := masks.get(f"_{key}")) is None or mark[row])
    }
