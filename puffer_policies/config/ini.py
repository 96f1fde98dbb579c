"""PufferLib's .ini files: a reader that keeps lines, and the reasons why entries have no effect.

The standard `configparser` forgets line numbers, so this is a small reader of the same grammar:
sections, ``key = value`` or ``key: value``, comments on their own line or after a space, and values
that continue on indented lines. All values stay text.

PufferLib accepts any key and silently ignores those that nothing reads; 16 of the 66 files shipped
with 3.0 have some. Here every line is either applied or listed, with the reason, in one warning.
"""

from __future__ import annotations

import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from puffer_policies.config.schema import SECTIONS, field_types
from puffer_policies.config.values import NONE_WORDS
from puffer_policies.errors import ConfigError, joined, short
from puffer_policies.files import read_text

_SEED = "the seed of a run is train.seed"
_VECTOR = "vec.num_envs and vec.vectorization choose the vectorization"
_OLD = "PufferLib 3.0 does not read it either"
_FOUR = "only PufferLib 4.0 reads it"
_LOGGER = "it is a project of PufferLib's loggers; see log.wandb"
_PROCESSES = "torchrun sets the number of processes and their devices"

IGNORED_KEYS: dict[str, str] = {
    "base.max_suggestion_cost": "it is for PufferLib's sweeps",
    "base.max_runs": "it is for PufferLib's sweeps",
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
    "train.use_rnn": "base.rnn_name decides, in PufferLib 3.0 too",
    "train.replay_ratio": f"{_FOUR}; see train.update_epochs",
    "train.replay_factor": f"{_OLD}; see train.update_epochs",
    "train.zero_copy": _OLD,
    "train.verbose": _OLD,
}
"""``section.key`` -> why it has no effect here, including keys of PufferLib 2.0 and 4.0."""

IGNORED_SECTIONS: dict[str, str] = {
    "sweep": "it is for PufferLib's sweeps",
    "carbs": "it is for PufferLib's sweeps",
    "neptune": "it is for PufferLib's loggers",
    "wandb": "it is for PufferLib's loggers",
    "selfplay": _FOUR,
    "torch": f"{_FOUR}; see base.policy_name and base.rnn_name",
}
"""Section, up to its first dot -> why it has no effect here."""


OVERWRITTEN = frozenset({"train.use_rnn"})
"""Keys that PufferLib 3.0 overwrites; some of its files contradict what then happens."""

_SECTION = re.compile(r"\[(?P<name>[^\]]+)\]$")
_SEPARATOR = re.compile("[=:]")
_COMMENT = re.compile(r"(?:^|\s)[#;].*$")
_QUOTED = re.compile(r"""("[^"]*"|'[^']*')""")


@dataclass(frozen=True, slots=True)
class IniFile:
    """The sections of an .ini file, and the line of each section and key."""

    path: str
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    lines: dict[tuple[str, ...], int] = field(default_factory=dict)

    def at(self, *keys: str) -> str:
        """Return ``path:line`` of a section or of a key in a section."""
        return f"{self.path}:{self.lines[keys]}"


def read_ini(path: str | Path) -> IniFile:
    """Read an .ini file.

    Raises:
        ConfigError: the file can't be read; or there are lines that are not a section, a key or a
            comment, or repeated sections and keys, which are reported together.
    """
    return parse_ini(read_text(Path(path)), path=str(path))


def parse_ini(text: str, *, path: str) -> IniFile:
    """Read the text of an .ini file; `path` stands in errors and origins."""
    reader = _Reader(IniFile(path))
    for number, line in enumerate(text.split("\n"), start=1):
        reader.take(number, line)
    if reader.problems:
        raise ConfigError(joined(reader.problems), fix="Write [section], then key = value lines.")
    return reader.file


def _without_comment(line: str) -> str:
    # A '#' inside quotes is text, as in color = "#fff".
    # With a group in the pattern, split() keeps the quoted parts: they have the odd indices.
    pieces = _QUOTED.split(line)
    for index in range(0, len(pieces), 2):
        before = pieces[index]
        cut = _COMMENT.search(before)
        if cut and (cut.start() > 0 or index == 0 or before[0].isspace()):
            return "".join(pieces[:index]) + before[: cut.start()]
    return line


def _option(line: str) -> tuple[str, str] | None:
    """Return the key and the value of a line, or None if it has no key."""
    # Split at the separator, not matched as a whole: a pattern that also trims takes seconds on a
    # line of many spaces.
    key, *value = _SEPARATOR.split(line, maxsplit=1)
    return (key.strip(), value[0].strip()) if key.strip() and value else None


class _Reader:
    """Reads line after line, and remembers the section and the key of the last one."""

    def __init__(self, file: IniFile) -> None:
        self.file = file
        self.problems: list[str] = []
        self.section = ""
        self.key = ""

    def take(self, number: int, line: str) -> None:
        content = _without_comment(line).rstrip()
        if not content.strip():
            return
        if line[0].isspace() and self.key:
            self.file.data[self.section][self.key] += f" {content.strip()}"
        elif match := _SECTION.match(content.strip()):
            self._open(number, match["name"].strip())
        elif self.section and (option := _option(content)):
            self._set(number, *option)
        else:
            problem = f"{short(content.strip())} is not a section, a key or a comment."
            self._refuse(number, problem)

    def _open(self, number: int, name: str) -> None:
        # The key is cleared: an indented line after a section continues nothing.
        self.section, self.key = name, ""
        if name in self.file.data:
            self._refuse(number, f"[{name}] is already on line {self.file.lines[(name,)]}.")
            return
        self.file.data[name] = {}
        self.file.lines[(name,)] = number

    def _set(self, number: int, key: str, value: str) -> None:
        # As in configparser, and so in PufferLib: keys are case-insensitive.
        self.key = key = key.lower()
        place = (self.section, key)
        if place in self.file.lines:
            self._refuse(number, f"{key!r} is already on line {self.file.lines[place]}.")
            return
        self.file.data[self.section][key] = value
        self.file.lines[place] = number

    def _refuse(self, number: int, problem: str) -> None:
        self.problems.append(f"{self.file.path}:{number}: {problem}")


def reason_section_ignored(section: str) -> str:
    """Return why this section of a PufferLib file has no effect, or '' if it is applied."""
    # PufferLib's sweeps have a section for each option: [sweep.train.gamma].
    bare = section.partition(".")[0]
    return "" if section in SECTIONS else IGNORED_SECTIONS.get(bare, "")


def reason_ignored(section: str, key: str, text: str) -> str:
    """Return why this entry of a PufferLib file has no effect, or '' if it is applied.

    Every key of the schema is applied, even one in the table, except those in `OVERWRITTEN`.
    """
    name = f"{section}.{key}"
    annotations = field_types(SECTIONS[section]) if section in SECTIONS else {}
    if key not in annotations or name in OVERWRITTEN:
        return IGNORED_KEYS.get(name, "")
    is_empty = text.strip().lower() in NONE_WORDS and not _may_be_none(annotations[key])
    return "it is empty" if is_empty else ""


def _may_be_none(annotation: Any) -> bool:
    return types.NoneType in get_args(annotation)
