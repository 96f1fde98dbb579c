"""What PufferLib's files hold beyond our options: each such key with the reason why it is not read.

PufferLib accepts any key and silently ignores those that nothing reads: 16 of the 66 files shipped
with 3.0 have some. Here the files load as they are, and every key without effect is named.
"""

from __future__ import annotations

import types
from typing import Any, get_args

from puffer_policies.config.schema import SECTIONS, field_types
from puffer_policies.config.values import NONE_WORDS

_SEED = "the seed of a run is train.seed"
_VECTOR = "envs are vectorised by vec.num_envs and vec.vectorization"
_OLD = "PufferLib 3.0 does not read it either"
_FOUR = "only PufferLib 4.0 reads it"
_LOGGER = "it names a logger's project"
_PROCESSES = "torchrun says how many processes train, and on which devices"

UNREAD_KEYS: dict[str, str] = {
    "base.max_suggestion_cost": "it belongs to PufferLib's sweeps",
    "base.max_runs": "it belongs to PufferLib's sweeps",
    "base.rank": _PROCESSES,
    "base.world_size": _PROCESSES,
    "base.gpu_id": _PROCESSES,
    "base.nccl_id": _PROCESSES,
    "base.profile": _FOUR,
    "base.cudagraphs": f"{_FOUR}; see train.compile_mode",
    "base.checkpoint_dir": f"{_FOUR}; see train.data_dir",
    "base.log_dir": f"{_FOUR}; see train.data_dir",
    "base.checkpoint_interval": f"{_FOUR}; see train.checkpoint_interval",
    "base.eval_episodes": f"{_FOUR}; see eval.episodes",
    "base.seed": _SEED,
    "base.reset_state": "memory is reset where an episode starts, and only there",
    "vec.backend": _VECTOR,
    "vec.batch_size": _VECTOR,
    "vec.num_workers": _VECTOR,
    "vec.zero_copy": _VECTOR,
    "vec.overwork": _VECTOR,
    "vec.seed": _SEED,
    "vec.total_agents": f"{_FOUR}; see vec.num_envs",
    "vec.num_buffers": _FOUR,
    "vec.num_frozen_banks": _FOUR,
    "vec.frozen_bank_pct": _FOUR,
    "vec.num_threads": f"{_FOUR}; see train.num_threads",
    "train.name": _LOGGER,
    "train.project": _LOGGER,
    "train.cpu_offload": "batches stay on one device",
    "train.compile_fullgraph": "a policy may be compiled in pieces; see train.compile",
    "train.num_envs": f"{_OLD}; see vec.num_envs",
    "train.num_workers": f"{_OLD}; see vec.vectorization",
    "train.env_batch_size": f"{_OLD}; see vec.num_envs",
    "train.horizon": f"{_FOUR}; see train.bptt_horizon",
    "train.beta1": f"{_FOUR}; see train.adam_beta1",
    "train.beta2": f"{_FOUR}; see train.adam_beta2",
    "train.eps": f"{_FOUR}; see train.adam_eps",
    "train.min_lr_ratio": f"{_FOUR}; see train.anneal_lr",
    "train.anneal_ent_coef": _FOUR,
    "train.min_ent_coef_ratio": _FOUR,
    "train.num_minibatches": f"{_OLD}; see train.minibatch_size",
    "train.gpus": _PROCESSES,
    "train.use_rnn": "base.rnn_name says it, in PufferLib 3.0 too",
    "train.replay_ratio": f"{_FOUR}; see train.update_epochs",
    "train.replay_factor": f"{_OLD}; see train.update_epochs",
    "train.zero_copy": _OLD,
    "train.verbose": _OLD,
}
"""``section.key`` -> why it has no effect here. Names of 2.0 and 4.0 are among them."""

UNREAD_SECTIONS: dict[str, str] = {
    "sweep": "it belongs to PufferLib's sweeps",
    "carbs": "it belongs to PufferLib's sweeps",
    "neptune": "it belongs to PufferLib's loggers",
    "wandb": "it belongs to PufferLib's loggers",
    "selfplay": _FOUR,
    "torch": f"{_FOUR}; see base.policy_name and base.rnn_name",
}
"""Section, without what follows a dot -> why it has no effect here."""


OVERWRITTEN = frozenset({"train.use_rnn"})
"""What PufferLib 3.0 sets itself, whatever its files say; some say the contrary of what they do."""


def reason_section_unread(section: str) -> str:
    """Return why this section of a PufferLib file has no effect, or '' where it is ours to read."""
    bare = section.partition(".")[0]
    return "" if section in SECTIONS else UNREAD_SECTIONS.get(bare, "")


def reason_unread(section: str, key: str, text: str) -> str:
    """Return why this entry of a PufferLib file has no effect, or '' where it is ours to read.

    The schema decides: what it has is read, whatever the table says, but for `OVERWRITTEN`.
    """
    name = f"{section}.{key}"
    known = field_types(SECTIONS[section]) if section in SECTIONS else {}
    if key not in known or name in OVERWRITTEN:
        return UNREAD_KEYS.get(name, "")
    is_empty = text.strip().lower() in NONE_WORDS and not _may_be_none(known[key])
    return "it is empty" if is_empty else ""


def _may_be_none(annotation: Any) -> bool:
    return types.NoneType in get_args(annotation)
