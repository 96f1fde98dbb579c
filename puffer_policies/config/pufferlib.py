"""What PufferLib's files hold beyond our options: each such key with the reason why it is not read.

PufferLib accepts any key and silently ignores those that nothing reads: 16 of the 66 files shipped
with 3.0 have some. Here the files load as they are, and every key without effect is named.
"""

from __future__ import annotations

from typing import Any

from puffer_policies.config.schema import SECTIONS, field_types
from puffer_policies.config.values import convert

_SEED = "the seed of a run is train.seed"
_VECTOR = "envs are vectorised by vec.num_envs and vec.vectorization"
_OLD = "PufferLib 3.0 does not read it either"
_LOGGER = "it names a logger's project"

UNREAD_KEYS: dict[str, str] = {
    "base.max_suggestion_cost": "it belongs to PufferLib's sweeps",
    "vec.backend": _VECTOR,
    "vec.batch_size": _VECTOR,
    "vec.num_workers": _VECTOR,
    "vec.zero_copy": _VECTOR,
    "vec.overwork": _VECTOR,
    "vec.seed": _SEED,
    "vec.total_agents": f"{_OLD}; 4.0's count of agents is vec.num_envs here",
    "vec.num_buffers": _OLD,
    "vec.num_threads": f"{_OLD}; see train.num_threads",
    "train.name": _LOGGER,
    "train.project": _LOGGER,
    "train.cpu_offload": "batches stay on one device",
    "train.compile_fullgraph": "a policy may be compiled in pieces; see train.compile",
    "train.num_envs": f"{_OLD}; see vec.num_envs",
    "train.num_workers": f"{_OLD}; see vec.vectorization",
    "train.env_batch_size": f"{_OLD}; see vec.num_envs",
    "train.horizon": f"{_OLD}; see train.bptt_horizon",
    "train.beta1": f"{_OLD}; see train.adam_beta1",
    "train.beta2": f"{_OLD}; see train.adam_beta2",
    "train.eps": f"{_OLD}; see train.adam_eps",
    "train.min_lr_ratio": f"{_OLD}; see train.anneal_lr",
    "train.anneal_ent_coef": _OLD,
    "train.replay_ratio": f"{_OLD}; see train.update_epochs",
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
    "selfplay": _OLD,
    "torch": f"{_OLD}; 4.0's parts are named by base.policy_name and base.rnn_name here",
}
"""Section, without what follows a dot -> why it has no effect here."""


def reason_section_unread(section: str) -> str:
    """Return why this section of a PufferLib file has no effect, or '' where it is ours to read."""
    bare = section.partition(".")[0]
    return "" if section in SECTIONS else UNREAD_SECTIONS.get(bare, "")


def reason_unread(section: str, key: str, text: str) -> str:
    """Return why this entry of a PufferLib file has no effect, or '' where it is ours to read.

    The schema decides: an option that it has is read, whatever the tables say.
    """
    types = field_types(SECTIONS[section]) if section in SECTIONS else {}
    if key not in types:
        return UNREAD_KEYS.get(f"{section}.{key}", "")
    if _fits(text, types[key]):
        return ""
    return "" if text.strip() else "it is empty"


def _fits(text: str, annotation: Any) -> bool:
    try:
        convert(text, annotation)
    except ValueError:
        return False
    return True
