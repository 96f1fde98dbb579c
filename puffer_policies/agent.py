"""A policy at work: an observation in, an action that the env takes out, memory kept inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium.vector.utils import create_empty_array
from torch import nn

from puffer_policies.assembly.checkpoint import load_policy
from puffer_policies.contract import ACTION_MASK
from puffer_policies.errors import BuildError, ContractError, IncompatibleSpace
from puffer_policies.nested import leaves, map_nested
from puffer_policies.registry import Registry
from puffer_policies.runs.evaluate import choose_actions, evaluation_mode, load_trained_policy
from puffer_policies.runs.folder import checkpoint_of
from puffer_policies.spaces import Spaces, action_layout, described, spaces_of
from puffer_policies.train.carry import Carry
from puffer_policies.train.feed import Previous, on_device, previous_of, to_tensor
from puffer_policies.wrappers.action_mask import mask_logits


class Agent:
    """A trained policy for whoever steps the env: NumPy in, NumPy out, no gradient.

    One env::

        agent = Agent.load("runs/CartPole-v1-20260101-120000")
        observation, _ = env.reset()
        agent.reset()
        action = agent.act(observation)

    Args:
        policy: the policy; its weights are used as they are, its mode is put back after each step.
        env: whatever `spaces_of` reads; needed for a policy that has no ``spaces`` of its own.
        deterministic: take the likeliest action instead of drawing one.
        seed: of the drawn actions, apart from torch's own random numbers.
        use_rnn: True for a memory of PufferLib's form, without ``initial_state``; see `Carry`.

    Raises:
        BuildError: neither `env` nor the policy says what the spaces are.
        IncompatibleSpace: no head serves the action space.
    """

    def __init__(
        self,
        policy: nn.Module,
        env: Any = None,
        *,
        deterministic: bool = True,
        seed: int = 0,
        use_rnn: bool | None = None,
    ) -> None:
        self.policy, self.deterministic = policy, deterministic
        self.spaces = _spaces(policy, env)
        self._layout = action_layout(self.spaces.action)
        self._example = create_empty_array(self.spaces.observation, 1)  # (1, *obs), nested
        parameter = next(policy.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device
        self._generator = torch.Generator(self._device).manual_seed(seed)
        self._use_rnn = use_rnn
        self._carry: Carry | None = None
        self._previous: Previous | None = None
        self._taken: np.ndarray | None = None
        self._starts = np.ones(0, dtype=bool)

    @classmethod
    def load(
        cls,
        path: Path | str,
        env: Any = None,
        *,
        best: bool = False,
        deterministic: bool = True,
        seed: int = 0,
        registry: Registry | None = None,
    ) -> Self:
        """Return the agent of a checkpoint or of the folder of a run.

        Args:
            path: the checkpoint, or the folder.
            env: needed only for a checkpoint that was not written by a run.
            best: the run's best checkpoint instead of its last.
            deterministic: as for the class.
            seed: as for the class.
            registry: where the policy's names are looked up; the default registry if None.

        Raises:
            CheckpointError: it can't be read, or says nothing of an env and `env` is None.
        """
        if env is not None:
            policy = load_policy(checkpoint_of(path, best=best), env, registry=registry)
            return cls(policy.eval(), env, deterministic=deterministic, seed=seed)
        trained = load_trained_policy(path, best=best, registry=registry)
        return cls(
            trained.policy.eval(),
            trained.spaces,
            deterministic=deterministic,
            seed=seed,
            use_rnn=trained.config.train.use_rnn,
        )

    def reset(self) -> None:
        """Forget everything: the next observation is the first of an episode, in every row."""
        self._carry = None

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        *,
        episode_start: Any = None,
        action_mask: Any = None,
        reward: Any = None,
    ) -> Any:
        """Return the action for an observation, or the actions for those of a vector env.

        Args:
            observation: a member of the observation space, or a batch (B, *obs) of them, nested
                as the space is.
            episode_start: bool, or (B,) bool: whose observation is the first of an episode, so
                that their memory starts anew. After `reset` it need not be said.
            action_mask: (A,) or (B, A), true where an option is allowed: the options of all choices
                side by side, or a tuple of a mask for each choice. It binds a policy that reads
                masks and one that does not.
            reward: float or (B,): what the last action earned. Read by a policy that sees the last
                action and reward, such as one in a PrevActionRewardWrapper.

        Returns:
            For one observation a member of the action space: an int for Discrete, else an array of
            the space's shape and dtype, clipped to a Box. For a batch, (B, *shape).

        Raises:
            IncompatibleSpace: shapes that are not the space's, or another number of rows than
                before without a `reset`.
            ContractError: the policy needs a mask or a reward, and there is none.
            TrainingError: the policy's answer is not finite.
        """
        batch, batched = self._batch(observation)
        carry = self._remember(len(next(leaves(batch))))
        starts = self._take_starts(episode_start)
        # Copied: a policy may keep observations in its state, and envs reuse their arrays.
        tensors = map_nested(lambda leaf: to_tensor(leaf).to(self._device, copy=True), batch)
        mask = self._mask(action_mask, rows=len(starts), batched=batched)
        with evaluation_mode(self.policy):
            sent = self._sent(mask, reward, starts)
            logits, _ = carry.step(tensors, starts, extras=sent)
        # Also for a policy that reads no mask: a forbidden action is never taken.
        allowed = logits if mask is None else mask_logits(logits, mask)
        actions = choose_actions(allowed, self._generator, deterministic=self.deterministic)
        self._taken = actions.cpu().numpy()
        members = self._layout.to_env(self._taken)
        if batched:
            return members
        return int(members[0]) if self._layout.kind == "discrete" else members[0]

    def _batch(self, observation: Any) -> tuple[Any, bool]:
        """Return `observation` as a batch in the space's dtypes, and whether it was one already."""
        try:
            arrays = map_nested(
                lambda own, leaf: np.asarray(leaf, dtype=own.dtype), self._example, observation
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _misshapen(f"it can't be read as one ({reason})", self.spaces) from error
        pairs = list(zip(leaves(self._example), leaves(arrays), strict=True))
        if all(given.shape == own.shape[1:] for own, given in pairs):
            return map_nested(lambda leaf: leaf[None], arrays), False
        rows = {len(given) if given.ndim else 0 for _, given in pairs}
        if len(rows) == 1 and all(given.shape[1:] == own.shape[1:] for own, given in pairs):
            return arrays, True
        shapes = ", ".join(str(given.shape) for _, given in pairs)
        expected = ", ".join(str(own.shape[1:]) for own, _ in pairs)
        raise _misshapen(f"its shape is {shapes}, expected {expected}", self.spaces)

    def _remember(self, rows: int) -> Carry:
        """Return the memory of so many rows, a new one after `reset`."""
        if self._carry is None:
            self._carry = Carry(self.policy, rows, device=self._device, use_rnn=self._use_rnn)
            self._starts = np.ones(rows, dtype=bool)
            self._previous = previous_of(self.policy, self._layout, rows)
            self._taken = None
        if len(self._starts) != rows:
            raise IncompatibleSpace(
                f"The agent remembers {len(self._starts)} envs, and was shown {rows} observations.",
                fix="Show all envs in each step, or call reset() before others come.",
            )
        return self._carry

    def _take_starts(self, episode_start: Any) -> torch.Tensor:
        """Return (B,) bool: what the caller says, and all rows after a reset."""
        starts = self._starts
        if episode_start is not None:
            try:
                starts = starts | np.asarray(episode_start, dtype=bool)
            except ValueError as error:
                raise IncompatibleSpace(
                    f"episode_start has shape {np.shape(episode_start)} for {len(starts)} envs.",
                    fix="Give one bool for each env.",
                ) from error
        self._starts = np.zeros_like(starts)
        return torch.from_numpy(starts).to(self._device)

    def _sent(
        self, mask: torch.Tensor | None, reward: Any, starts: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return what the policy reads beside observations, by state key."""
        sent = {} if mask is None else {ACTION_MASK: mask}
        if self._previous is None:
            return sent
        if self._taken is not None:
            if reward is None and not starts.all():
                raise ContractError(
                    "The policy reads the reward of its last action, and there is none.",
                    fix="Give what env.step() returned: act(observation, reward=reward).",
                )
            paid = np.zeros(1) if reward is None else np.atleast_1d(reward)
            self._previous.update(self._taken, paid)
        return {**sent, **on_device(self._previous.extras(), self._device)}

    def _mask(self, given: Any, *, rows: int, batched: bool) -> torch.Tensor | None:
        """Return a mask as bool (B, A) on the device; each choice has an option left."""
        if given is None:
            return None
        parts = given if isinstance(given, tuple) else (given,)
        arrays = [np.atleast_1d(np.asarray(each, dtype=bool)) for each in parts]
        mask = np.concatenate(arrays, axis=-1)
        mask = mask if batched else mask[None]
        nvec = self._layout.nvec
        if mask.shape != (rows, sum(nvec)):
            raise IncompatibleSpace(
                f"action_mask has shape {mask.shape[1 - batched :]} for {rows} of "
                f"{described(self.spaces.action)}.",
                fix=f"It tells of {sum(nvec)} options whether each is allowed.",
            )
        left = [each.any(-1).all() for each in np.split(mask, np.cumsum(nvec)[:-1], axis=-1)]
        if not all(left):
            raise IncompatibleSpace(
                "action_mask allows nothing.", fix="Allow at least one option of each choice."
            )
        return torch.from_numpy(mask).to(self._device)


def _misshapen(reason: str, spaces: Spaces) -> IncompatibleSpace:
    return IncompatibleSpace(
        f"This is no observation of {described(spaces.observation)}: {reason}.",
        fix="Give what env.reset() or env.step() returned, of one env or of a vector env.",
    )


def _spaces(policy: nn.Module, env: Any) -> Spaces:
    spaces = getattr(policy, "spaces", None) if env is None else spaces_of(env)
    if spaces is None:
        raise BuildError(
            f"{type(policy).__name__} does not say for which spaces it was built.",
            fix="Give the env, too: Agent(policy, env).",
        )
    return spaces_of(spaces)
