"""The header of a checkpoint: everything in it but the weights, as one line of JSON; no torch.

Format 2 holds the spaces as data, a digest of the tensors, and the defaults of constructors, which
its first files lack. Format 1, which is read forever, has the spaces as texts only.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from puffer_policies.assembly.tensortable import read_table
from puffer_policies.errors import CheckpointError, PolicyError, PolicyNotFound, short
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.registry.explain import source_text
from puffer_policies.registry.imports import module_offence, user_imports
from puffer_policies.registry.names import BUILTIN, LAYER_NAMES
from puffer_policies.registry.records import Layer
from puffer_policies.registry.specs import MAX_LENGTH, PolicySpec, WrapperSpec
from puffer_policies.spaces import Spaces
from puffer_policies.spaces.data import default_text, space_from_data, space_to_data
from puffer_policies.structure import (
    Anything,
    Integer,
    ListOf,
    MapOf,
    Optional,
    Plain,
    Structure,
    StructureError,
    Table,
    Text,
    read_json,
)

METADATA_KEY = "puffer_policies"
"""Under which a file holds its header."""
GOLDEN = "golden/"
"""In front of the names of the golden sample's tensors in a file."""

FORMAT_VERSION = 2
TEXT_VERSION = 1
"""The format that held the spaces as texts only."""

MAX_WRAPPERS = 32
"""Wrappers around a policy; each may build all that is inside it more than once."""

_NAME = Text(200)
_ARGUMENTS = MapOf(Plain(finite=True), key=_NAME)
_SPEC = Table(
    {
        "name": _NAME,
        "kwargs": _ARGUMENTS,
        "wrappers": ListOf(Table({"name": _NAME, "kwargs": _ARGUMENTS}), longest=MAX_WRAPPERS),
    }
)
_ORIGIN = Table(
    {"name": _NAME, "distribution": _NAME, "version": _NAME}, optional={"defaults": _ARGUMENTS}
)
_SPACE_TEXT = Text(1_000_000)
_TEXT_KEYS: dict[str, Structure] = {
    "format_version": Integer(),
    "observation_space": _SPACE_TEXT,
    "action_space": _SPACE_TEXT,
    "config": MapOf(Plain()),
    "training": MapOf(Plain()),
    "spec": Optional(_SPEC),
    "origins": ListOf(_ORIGIN, longest=MAX_WRAPPERS + 1),
    "versions": MapOf(_NAME, key=_NAME),
    "aliases": MapOf(Text()),
}
_OTHERS: dict[str, Structure] = {"imports": ListOf(_NAME, longest=1_000)}
STRUCTURES = {
    TEXT_VERSION: Table(_TEXT_KEYS, optional=_OTHERS),
    FORMAT_VERSION: Table(
        {
            **_TEXT_KEYS,
            # Their own reader checks them.
            "spaces": Table({"observation": Anything(), "action": Anything()}),
            "digest": Text(64),
        },
        optional=_OTHERS,
    ),
}
"""What the headers of each format hold."""

_VERSIONED = Table({"format_version": Integer()}, others=Anything())


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a name in the spec stood for: the package that it came from, and its defaults."""

    name: str
    distribution: str
    version: str
    defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Those of the constructor that are plain data; another version of it may have others. Empty in
    files of earlier versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything in a checkpoint but the weights."""

    spec: PolicySpec | None
    """What rebuilds the policy; None if it was not built by name."""
    observation_space: str
    """The space as text, by NumPy's default print options."""
    action_space: str
    observation: gymnasium.Space[Any] | None = None
    """The space itself; None in files of format 1, and for classes that only others can build."""
    action: gymnasium.Space[Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's config, as `Config.to_args` makes it."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The progress of training, such as global_step and epoch."""
    origins: tuple[Origin, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Keys of shared tensors -> the key under which the tensor is stored."""
    imports: tuple[str, ...] = ()
    """The modules that the user imported for the run, such as that of the env. They are never
    imported by what stands here; an error names them where the env is missing."""
    digest: str = ""
    """`digest_of` the tensors of the file; empty in files of format 1."""

    @property
    def spaces(self) -> Spaces | None:
        """Both spaces, or None if the header does not hold them both."""
        if self.observation is None or self.action is None:
            return None
        return Spaces(self.observation, self.action)

    @property
    def full_spec(self) -> PolicySpec | None:
        """The spec with every default, as it was when the policy was saved."""
        return None if self.spec is None else self.spec.with_defaults(self.defaults)

    @property
    def defaults(self) -> dict[str, Mapping[str, Any]]:
        """The defaults of its names, as they were; files of earlier versions may lack some."""
        return {each.name: each.defaults for each in self.origins}

    @property
    def imports_text(self) -> str:
        """The step that imports what its run had imported and this process has not, or ''."""
        missing = [name for name in dict.fromkeys(self.imports) if name not in user_imports()]
        flags = " ".join(f"--import {name}" for name in missing if not module_offence(name))
        step = "The run had imported modules of its user's. If you have and trust them:"
        return f"{step} {flags}" if flags else ""

    def training_text(self, error: PolicyError) -> str:
        """Say what the policy was trained with, as the remedy of an error at building it."""
        packages = {(each.distribution, each.version) for each in self.origins}
        labels = ", ".join(f"{name} {version}".strip() for name, version in sorted(packages))
        lines = [f"It was trained with {labels}."] if labels else []
        # One that is not installed at all is named below, with how to get it.
        lines += self.version_changes({name for name, _ in packages if installed_version(name)})
        if isinstance(error, PolicyNotFound):
            # Near names would be other policies.
            others = [each for each in sorted(packages) if each[0] != BUILTIN]
            if imports := self.imports_text:
                others = [each for each in others if each[0] != LAYER_NAMES[Layer.PROCESS]]
                lines.append(imports)
            lines += [source_text(name, version) for name, version in others]
        else:
            lines.append(error.fix)
        return "\n".join(filter(None, lines))

    @property
    def packages(self) -> dict[str, str]:
        """The distributions of its names and those that wrote it -> their versions then."""
        origins = {each.distribution: each.version for each in self.origins}
        return dict(sorted({**origins, **self.versions}.items()))

    @property
    def distributions(self) -> set[str]:
        """The packages that brought the names of the spec."""
        return {each.distribution for each in self.origins}

    def version_changes(self, names: Container[str] | None = None) -> list[str]:
        """Return a line for each package that is installed in another version than the file's.

        Args:
            names: the packages that matter; all of the file if None.
        """
        changes = []
        for name, version in self.packages.items():
            installed = installed_version(name)
            if version and installed != version and (names is None or name in names):
                here = f"{installed} is" if installed else "none is"
                changes.append(f"It was saved with {name} {version}; {here} installed.")
        return changes

    def to_json(self) -> str:
        """Return one line of JSON.

        Raises:
            CheckpointError: the header holds what could not be read back.
        """
        data: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "spaces": {"observation": _data(self.observation), "action": _data(self.action)},
            "spec": self.spec.to_dict() if self.spec else None,
            "origins": [asdict(each) for each in self.origins],
            "aliases": dict(self.aliases),
            "digest": self.digest,
        }
        data |= {name: dict(getattr(self, name)) for name in ("config", "training", "versions")}
        if self.imports:
            data["imports"] = list(self.imports)
        try:
            text = json.dumps(data, sort_keys=True)
            # What we write is read by the same rules as what strangers wrote.
            read_json(text, STRUCTURES[FORMAT_VERSION])
        except (StructureError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"A checkpoint can't hold this header: {error}.",
                fix="config and training must be tables of plain data.",
            ) from error
        return text

    @classmethod
    def from_json(cls, text: str, path: Path | str) -> Header:
        """Return the header in one line of JSON; `path` is named in errors.

        Raises:
            CheckpointError: the text is not a header, or of a later format.
        """
        with naming_file(path):
            data = read_json(text, _VERSIONED)
            # The version first: a later format may have other keys, and is refused by its number.
            version = data.pop("format_version")
            if version not in STRUCTURES:
                raise _other_version(version, data.get("versions"), path)
            STRUCTURES[version].check({"format_version": version, **data}, "")
            return cls(**_fields(data))


def read_header(location: Location) -> Header:
    """Return the header of a checkpoint; `location` is as for `checkpoint_of`.

    Its tensors are not read, however many there are.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint.
    """
    path = checkpoint_of(location)
    text, _ = read_table(path, key=METADATA_KEY)
    return Header.from_json(text, path)


@cache  # a package's version is read from a file of many lines
def installed_version(distribution: str) -> str:
    """Return the version of a distribution that is installed, or ''."""
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        return ""


@contextmanager
def naming_file(path: Path | str) -> Iterator[None]:
    """Let the error of a header of another structure than declared name its file.

    Raises:
        CheckpointError: in place of a `StructureError`.
    """
    try:
        yield
    except StructureError as error:
        raise CheckpointError(
            f"The header of {path} can't be read: {error}.",
            fix="The file is damaged, or not written by puffer-policies.",
        ) from error


def _fields(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a header from data whose structure has been checked."""
    spec = data["spec"]
    # Each part is bounded already, and their product is not.
    if len(json.dumps(spec)) > MAX_LENGTH:
        raise StructureError("spec", f"at most {MAX_LENGTH:,} characters", spec)
    spaces = data.pop("spaces", {})
    for name, each in spaces.items():
        data[name] = None if each is None else space_from_data(each, f"spaces.{name}")
    return {
        **data,
        "spec": None if spec is None else PolicySpec.from_dict(spec),
        "origins": tuple(Origin(**each) for each in data["origins"]),
        "imports": tuple(data.get("imports", ())),
    }


def _data(space: gymnasium.Space[Any] | None) -> dict[str, Any] | None:
    return None if space is None else space_to_data(space)


def _other_version(version: int, versions: Any, path: Path | str) -> CheckpointError:
    writer = versions.get("puffer-policies") if isinstance(versions, dict) else None
    return CheckpointError(
        f"{path} has checkpoint format {version}; this version reads "
        f"{' and '.join(map(str, STRUCTURES))}.",
        fix="Install the puffer-policies that wrote it: "
        f"{writer if isinstance(writer, str) else 'unknown'}.",
    )


def require_spaces(header: Header, path: Path | str) -> Spaces:
    """Return the spaces in a header.

    Raises:
        CheckpointError: it holds them as texts only.
    """
    if header.spaces is None:
        raise CheckpointError(
            f"{path} holds its spaces as texts only, {header.observation_space} and "
            f"{header.action_space}, because an earlier version wrote it, or their classes are "
            "another package's.",
            fix="Pass the env, or Spaces(observation, action), as well.",
        )
    return header.spaces


def require_same_stack(header: Header, current: Header, path: Path | str) -> None:
    """Raise a `CheckpointError` that shows both sides unless names and arguments are the same.

    Of weights, names and shapes alone are compared, which arguments such as a bound leave alone.
    Arguments that only one of the headers knows are passed over, as those of earlier versions.
    """
    stored, spec = header.full_spec, current.full_spec
    if stored is None or spec is None:
        return
    before: list[PolicySpec | WrapperSpec] = [stored, *stored.wrappers]
    after: list[PolicySpec | WrapperSpec] = [spec, *spec.wrappers]
    if [each.name for each in before] != [each.name for each in after]:
        raise CheckpointError(
            f"{path} was trained with {header.spec}; this run has {current.spec}.",
            fix="Resume with the run's own policy, or start a new run.",
        )
    lines = [
        f"  {key} of {there.name}: {short(value)} in the file, {short(here.kwargs[key])} now"
        for there, here in zip(before, after, strict=True)
        for key, value in there.kwargs.items()
        if here.kwargs.get(key, value) != value
    ]
    if lines:
        raise CheckpointError(
            f"{path} was trained with other arguments:\n" + "\n".join(lines),
            fix="Resume with the run's own arguments, or start a new run.",
        )


def require_same_spaces(header: Header, spaces: Spaces, path: Path | str) -> None:
    """Raise a `CheckpointError` that shows both sides unless the spaces are the checkpoint's.

    Spaces are compared as gymnasium compares them. Only where the header holds a space as text
    alone, texts are compared.
    """
    lines = []
    for name, text, trained, current in (
        ("observation", header.observation_space, header.observation, spaces.observation),
        ("action", header.action_space, header.action, spaces.action),
    ):
        current_text = default_text(current)
        same = text == current_text if trained is None else bool(trained == current)
        if not same:
            lines += [
                f"  {name} space: trained on {text}",
                f"  {' ' * len(name)}        this env has {current_text}",
            ]
    if lines:
        raise CheckpointError(
            f"{path} was trained on other spaces:\n" + "\n".join(lines),
            fix="Use an env with the same spaces.",
        )
