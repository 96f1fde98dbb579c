"""Model cards: what a checkpoint is and what it reaches, for people and for the Hub's pages.

The form is that of the field on the Hugging Face Hub: front matter with ``library_name``, tags and
``model-index``, whose ``mean_reward`` is the mean return of whole episodes and its deviation.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puffer_policies.assembly.header import GOLDEN, METADATA_KEY, Header
from puffer_policies.assembly.tensortable import read_table
from puffer_policies.config.command import training_command
from puffer_policies.config.config import Config
from puffer_policies.errors import CheckpointError, PolicyError, PolicyNotFound, short
from puffer_policies.files import LATEST
from puffer_policies.hub.location import PRETRAINED
from puffer_policies.hub.repository import SCHEME
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.names import BUILTIN, LAYER_NAMES, matches, split_name
from puffer_policies.registry.packages import pretrained_path
from puffer_policies.runs.metrics import read_metrics
from puffer_policies.structure import (
    BOOLEAN,
    Integer,
    Number,
    Optional,
    Plain,
    StructureError,
    Table,
)

LIBRARY = BUILTIN
"""The ``library_name`` of our cards."""
EVALUATION = "evaluation"
"""The key under which metrics and the training of a header hold `Evaluation.to_dict`."""

SEEDS = "returns_of_seeds"
"""The key of `Header.training` for the mean return of each seed among which this is the best."""
_LABELS = {
    "global_step": "steps",
    "epoch": "updates",
    "reward_factor": "factor of rewards",
    SEEDS: "the best of these seeds, by mean return",
}
"""What numbers of `Header.training` are called on a card."""

_FIGURES = ("mean", "std", "min", "max", "length")
_RESULTS = Table(
    {
        **dict.fromkeys(_FIGURES, Optional(Number(-1e300, 1e300))),
        **dict.fromkeys(("episodes", "seed"), Integer(0)),
        "deterministic": BOOLEAN,
    },
    others=Plain(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """The facts of a card; `text` writes it."""

    header: Header
    weights: int
    """The number of weights."""
    evaluation: Mapping[str, Any] | None
    """`Evaluation.to_dict`; None where none is known."""
    location: str
    """Where others load it from."""
    packages: tuple[str, ...] = ()
    """What is to be installed for that."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The files beside the card -> what they are."""

    @property
    def policy(self) -> str:
        """The stack by bare names, such as ``LSTMWrapper(Default)``."""
        spec = self.header.spec
        if spec is None:
            return "A policy"
        text = split_name(spec.name)[1]
        for wrapper in spec.wrappers:
            text = f"{split_name(wrapper.name)[1]}({text})"
        return text

    @property
    def env(self) -> str:
        """The env's id; '' if the file does not name one."""
        return " ".join(str(self.header.config.get("env_name") or "").split())

    @property
    def returns(self) -> str:
        """The mean return and its deviation; '' if none is known."""
        results = self.evaluation
        return f"{results['mean']:,.2f} ± {results['std']:,.2f}" if results else ""

    @property
    def training(self) -> dict[str, str]:
        """What the file tells of the training, in words, without the evaluation."""
        return {
            " ".join(_LABELS.get(key, key).split()): _number(each)
            for key, each in self.header.training.items()
            if key != EVALUATION
        }

    def text(self) -> str:
        """Return the card, in Markdown."""
        parts = (*self._head(), *self._results(), *self._training(), *self._use(), *self._facts())
        return "\n".join([*_front_matter(self), *parts, ""])

    def _head(self) -> Iterator[str]:
        yield f"\n# {self.policy}{f' on {self.env}' if self.env else ''}\n"
        yield f"A policy of `{LIBRARY}`, whose file rebuilds it by name and runs no code."

    def _results(self) -> Iterator[str]:
        yield "\n## Results\n"
        results = self.evaluation
        if results is None:
            yield "No evaluation is recorded for this checkpoint."
            return
        kind = "the likeliest ones" if results["deterministic"] else "sampled"
        yield "| return | lowest, highest | mean length | episodes | their seed | actions |"
        yield "|---|---|---|---|---|---|"
        yield (
            f"| {self.returns} | {results['min']:,.2f}, {results['max']:,.2f} "
            f"| {results['length']:,.1f} | {results['episodes']:,} | {results['seed']} | {kind} |"
        )
        yield "\nThe mean over whole episodes and their standard deviation, repeated by\n"
        yield from _block("sh", [f"puffer-policies eval {self._argument()}"])

    def _training(self) -> Iterator[str]:
        yield "\n## Training\n"
        facts = self.training
        if self.env:
            config = self._config()
            facts = {"seed": str(config.train.seed), **facts} if config else facts
            whole = "config.json" in self.files
            command = training_command(config, self.header.imports) if config else []
            command = command or ["puffer-policies", "train", "config.json"] * whole
            if command:
                yield from (*_block("sh", [shlex.join(command)]), "")
            if whole:
                yield "`config.json` holds every value of its config.\n"
        yield from (f"- {key}: {each}" for key, each in facts.items())

    def _config(self) -> Config | None:
        """Return the config of its training; None if it is that of another version."""
        try:
            return Config.from_args(self.header.config)
        except PolicyError:
            return None

    def _use(self) -> Iterator[str]:
        yield "\n## Use\n"
        if self.packages:
            names = " ".join(map(shlex.quote, self.packages))
            yield from _block("sh", [f"pip install {names}"])
            yield ""
        yield from _block(
            "python",
            [
                "from puffer_policies import Agent",
                "",
                f"agent = Agent.load({json.dumps(self.location)})",
                "action = agent.act(observation)  # after agent.reset() at an episode's start",
            ],
        )
        yield "\n`load_policy` returns the `torch.nn.Module` instead."
        if self.files:
            yield "\n## Files\n"
            yield from (f"- `{name}`: {text}" for name, text in self.files.items())

    def _facts(self) -> Iterator[str]:
        header = self.header
        yield "\n## Policy\n"
        yield f"- stack: `{header.spec or 'built by hand'}`"
        yield f"- weights: {self.weights:,}"
        yield f"- observations: `{' '.join(header.observation_space.split())}`"
        yield f"- actions: `{' '.join(header.action_space.split())}`"
        names = (f"{name} {version}".strip() for name, version in header.packages.items())
        yield f"- saved with {', '.join(names)}"

    def _argument(self) -> str:
        """Return what follows ``eval`` on the command line."""
        if self.location.startswith(PRETRAINED):
            return f"--pretrained {self.location.removeprefix(PRETRAINED)}"
        return shlex.quote(self.location)


def read_card(
    path: Path,
    *,
    location: str,
    files: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> ModelCard:
    """Return the card of a checkpoint, with the results that are recorded for it.

    Args:
        path: the file, of `checkpoint_of`.
        location: where others load it from.
        files: the files beside the card -> what they are.
        registry: where pretrained policies are looked up; the default registry if None.

    Raises:
        CheckpointError: the file can't be read.
    """
    line, tensors = read_table(path, key=METADATA_KEY)
    header = Header.from_json(line, path)
    return ModelCard(
        header=header,
        weights=sum(each.size for name, each in tensors.items() if not name.startswith(GOLDEN)),
        evaluation=recorded_evaluation(path, header),
        location=location,
        packages=tuple(_packages(header, location, registry)),
        files=files or {},
    )


def pretrained_cards(registry: Registry, pattern: str = "*") -> dict[str, ModelCard | PolicyError]:
    """Return the cards of the pretrained policies whose names match, or why one can't be read.

    Each is listed once: by its bare name where that leads to it, else by the qualified one.
    """
    records = registry.pretrained
    cards: dict[str, ModelCard | PolicyError] = {}
    for name, record in records.items():
        is_second = name != record.name and records.get(record.name) is record
        if is_second or not matches(name, pattern):
            continue
        try:
            path, place = pretrained_path(record), f"{PRETRAINED}{name}"
            cards[name] = read_card(path, location=place, registry=registry)
        except PolicyError as error:
            cards[name] = error
    return cards


def recorded_evaluation(path: Path, header: Header) -> dict[str, Any] | None:
    """Return the evaluation that is recorded for a checkpoint, or None.

    It stands in the file, or is the final one of the run whose last checkpoint the file is.
    """
    results: Any = header.training.get(EVALUATION)
    # The metrics of a run tell of its last checkpoint, not of its best or of earlier ones.
    if results is None and path.name == LATEST:
        try:
            lines = read_metrics(path.parent)
        except CheckpointError:
            return None
        # A run that went on afterwards has other lines behind it.
        results = lines[-1].get(EVALUATION) if lines else None
    try:
        _RESULTS.check(results, EVALUATION)
    except StructureError:
        return None
    # JSON has no NaN, so that results of no episode hold None.
    return None if any(results[each] is None for each in _FIGURES) else dict(results)


def is_model_card(text: str) -> bool:
    """Return whether a text is a card of ours."""
    return (
        text.startswith("---\n") and f"\nlibrary_name: {LIBRARY}\n" in text.partition("\n---\n")[0]
    )


def _packages(header: Header, location: str, registry: Registry | None) -> list[str]:
    """Return what is to be installed to load a checkpoint, what brings the file first."""
    first = f"{BUILTIN}[hub]" if location.startswith(SCHEME) else BUILTIN
    if location.startswith(PRETRAINED):
        registry = default_registry() if registry is None else registry
        with suppress(PolicyNotFound):  # its package is about to be made
            record = registry.pretrained_policy(location.removeprefix(PRETRAINED))
            first = record.provenance.distribution
    others = {each.distribution for each in header.origins}
    return [first, *sorted(others - {BUILTIN, first, *LAYER_NAMES.values()})]


def _front_matter(card: ModelCard) -> Iterator[str]:
    # A text of JSON is one of YAML, too.
    yield from ("---", f"library_name: {LIBRARY}", "pipeline_tag: reinforcement-learning", "tags:")
    tags = [card.env] if card.env else []
    tags += ["deep-reinforcement-learning", "reinforcement-learning", LIBRARY]
    yield from (f"- {json.dumps(each)}" for each in tags)
    if card.env and card.evaluation:
        mean, std = card.evaluation["mean"], card.evaluation["std"]
        yield from (
            "model-index:",
            f"- name: {json.dumps(card.policy)}",
            "  results:",
            "  - task:",
            "      type: reinforcement-learning",
            "      name: reinforcement-learning",
            "    dataset:",
            f"      name: {json.dumps(card.env)}",
            f"      type: {json.dumps(card.env)}",
            "    metrics:",
            "    - type: mean_reward",
            f"      value: {mean:.2f} +/- {std:.2f}",
            "      name: mean_reward",
            "      verified: false",
        )
    yield "---"


def _block(language: str, lines: Iterable[str]) -> Iterator[str]:
    yield from (f"```{language}", *lines, "```")


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_number(each)}" for key, each in value.items())
    if isinstance(value, int | float):
        return f"{value:,}"
    # The file may come from a stranger, and its texts stay in their line.
    return " ".join(short(value).split())
