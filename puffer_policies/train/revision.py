"""A batch's advantages estimated anew while the policy moves away from the one that drew it.

`T` steps of a rollout, `N` envs, `B` segments of `L` steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from puffer_policies.config.schema import TrainConfig
from puffer_policies.train.batch import Batch, cut_in_segments, join_segments
from puffer_policies.train.ppo import Prediction, Transitions
from puffer_policies.train.rollout import Rollout
from puffer_policies.train.vtrace import Clips, later_values, vtrace


class Revision:
    """Keeps what the policy last said about each step, and runs V-trace over it between epochs.

    Nothing is computed for it: probabilities and values are those that gradient steps happened to
    see, as in PufferLib, some of them older than others. PufferLib runs it before each minibatch.
    """

    def __init__(
        self,
        config: TrainConfig,
        rollout: Rollout,
        batch: Batch,
        *,
        rewards: np.ndarray,
        clips: Clips,
    ) -> None:
        self._config, self._rollout, self._batch = config, rollout, batch
        self._rewards, self._clips = rewards, clips
        drawn = Transitions(*batch.numbers)  # (B, L) each
        self._drawn = drawn
        self._log_probs, self._values = drawn.log_probs.clone(), drawn.values.clone()

    @torch.no_grad()
    def see(self, rows: Tensor, new: Prediction) -> None:
        """Take in what the policy now says about the segments `rows` (M,); (M*L,) each."""
        length = self._values.shape[1]
        self._log_probs[rows] = new.log_probs.reshape(-1, length)
        self._values[rows] = new.values.reshape(-1, length)

    def revised(self) -> Batch:
        """Return the batch with the advantages and returns of today's policy."""
        rollout, values = self._rollout, self._joined(self._values)
        advantages = vtrace(
            self._rewards,
            values,
            later_values(values, rollout.next_values, rollout.done),
            ratios=self._joined((self._log_probs - self._drawn.log_probs).exp()),
            terminated=rollout.terminated,
            done=rollout.done,
            gamma=self._config.gamma,
            gae_lambda=self._config.gae_lambda,
            clips=self._clips,
        )
        return self._batch.estimated(self._cut(advantages), self._cut(advantages + values))

    def _joined(self, segments: Tensor) -> np.ndarray:
        """(B, L) on the device -> (T, N) on the host."""
        joined: np.ndarray = (
            join_segments(segments, num_envs=self._rollout.done.shape[1]).cpu().numpy()
        )
        return joined

    def _cut(self, array: np.ndarray) -> Tensor:
        """(T, N) on the host -> (B, L) on the device."""
        sent = torch.from_numpy(array).to(self._values.device)
        return cut_in_segments(sent, segment=self._values.shape[1])
