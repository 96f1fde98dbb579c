"""Checkpoints: weights as safetensors, with a header from which the policy is rebuilt.

No pickle is read or written. The header is one line of JSON under the metadata key
``puffer_policies``. It holds the format version, the spec of the policy, its spaces, the config of
the run, the package of every name, and the versions of what wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from puffer_policies.assembly.factory import get_policy
from puffer_policies.assembly.tensorfile import read_header_text, read_tensors, write_tensors
from puffer_policies.errors import CheckpointError, PolicyError, PolicyNotFound
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.explain import source_text
from puffer_policies.registry.imports import user_imports
from puffer_policies.registry.names import BUILTIN
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces, spaces_of

FORMAT_VERSION = 1
METADATA_KEY = "puffer_policies"
PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The package that a name in the spec came from."""

    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything in a checkpoint but the weights."""

    spec: PolicySpec | None
    """What rebuilds the policy; None if it was not built by name."""
    observation_space: str
    action_space: str
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

    def training_text(self, error: PolicyError) -> str:
        """Say what the policy was trained with, as the remedy of an error at building it."""
        packages = {(each.distribution, each.version) for each in self.origins}
        labels = ", ".join(f"{name} {version}".strip() for name, version in sorted(packages))
        lines = [f"It was trained with {labels}."] if labels else []
        if isinstance(error, PolicyNotFound):
            # Near names would be other policies.
            lines += [
                source_text(name, version) for name, version in sorted(packages) if name != BUILTIN
            ]
        else:
            lines.append(error.fix)
        return "\n".join(filter(None, lines))

    def to_json(self) -> str:
        """Return one line of JSON."""
        data = {name: getattr(self, name) for name in ("observation_space", "action_space")}
        data |= {name: dict(getattr(self, name)) for name in ("config", "training", "versions")}
        data["spec"] = self.spec.to_dict() if self.spec else None
        data["origins"] = [asdict(each) for each in self.origins]
        data["aliases"] = dict(self.aliases)
        if self.imports:
            data["imports"] = list(self.imports)
        return json.dumps({"format_version": FORMAT_VERSION, **data}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Header:
        """Return the header in one line of JSON; `path` is named in errors."""
        try:
            data = json.loads(text)
            version = data.pop("format_version")
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{path} has checkpoint format {version}; this version reads {FORMAT_VERSION}.",
                    fix="Install the puffer-policies that wrote it: "
                    f"{data.get('versions', {}).get('puffer-policies', 'unknown')}.",
                )
            spec = data.pop("spec")
            origins = tuple(Origin(**each) for each in data.pop("origins"))
            imports = tuple(str(each) for each in data.pop("imports", ()))
            return cls(
                spec=PolicySpec.from_dict(spec) if spec else None,
                origins=origins,
                imports=imports,
                **data,
            )
        except CheckpointError:
            raise
        except (PolicyError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"The header of {path} can't be read: {error}.") from error


def save_checkpoint(
    path: Path | str,
    policy: nn.Module,
    *,
    env: Any,
    config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    registry: Registry | None = None,
) -> Path:
    """Write a policy's weights and header to `path`, at once or not at all.

    Args:
        path: the file; its folder must exist.
        policy: one of `get_policy`; any other has no spec, and only `load_weights` loads its file.
        env: whatever `spaces_of` reads; `load_policy` refuses to build for other spaces.
        config: the config of the run, as plain data.
        training: counters, as plain data.
        weights: `weights_of` the policy at another moment; its present ones if None.
        registry: where the names of the spec came from; the default registry if None.
    """
    tensors, aliases = _distinct(weights_of(policy) if weights is None else weights)
    header = header_of(policy, env=env, config=config, training=training, registry=registry)
    text = replace(header, aliases=aliases).to_json()
    return write_tensors(path, tensors, header=text, key=METADATA_KEY)


def header_of(
    policy: nn.Module,
    *,
    env: Any,
    config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> Header:
    """Return the header of a policy's checkpoint. Arguments are those of `save_checkpoint`."""
    spec = getattr(policy, "spec", None)
    spec = spec if isinstance(spec, PolicySpec) else None
    spaces = spaces_of(env)
    return Header(
        spec=spec,
        observation_space=str(spaces.observation),
        action_space=str(spaces.action),
        config=config or {},
        training=training or {},
        origins=_origins(spec, registry) if spec else (),
        versions=_versions(),
        imports=user_imports(),
    )


def read_header(path: Path | str) -> Header:
    """Return the header of a checkpoint. Its tensors are not read, however many there are.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint.
    """
    return Header.from_json(read_header_text(path, key=METADATA_KEY), Path(path))


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint in memory, whose header and tensors are from the same bytes of one file."""

    path: Path
    header: Header
    tensors: Mapping[str, Tensor]
    """The weights by their names in the policy."""

    def build_policy(self, env: Any, *, registry: Registry | None = None) -> nn.Module:
        """Build the policy for `env`, with its weights. Errors are those of `load_policy`."""
        header = self.header
        if header.spec is None:
            raise CheckpointError(
                f"{self.path} holds weights without a spec, because its policy was not built by "
                "name.",
                fix="Build the policy yourself and call load_weights(path, policy).",
            )
        require_same_spaces(header, spaces_of(env), self.path)
        try:
            policy = get_policy(header.spec, env, registry=registry)
        except PolicyError as error:
            raise CheckpointError(
                f"The policy of {self.path}, {header.spec}, can't be built: {error.problem}",
                fix=header.training_text(error),
            ) from error
        put_weights(policy, self.tensors, path=self.path, owner=header.spec)
        return policy


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint once, for callers that need its header and its policy.

    A run that is training replaces its checkpoints: a header and weights that are read one after
    the other can be of two policies.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    header = Header.from_json(text, Path(path))
    aliases = {alias: tensors[key] for alias, key in header.aliases.items()}
    return Checkpoint(Path(path), header, tensors | aliases)


def load_policy(path: Path | str, env: Any, *, registry: Registry | None = None) -> nn.Module:
    """Rebuild a checkpoint's policy for `env`, with its weights.

    Raises:
        CheckpointError: the file can't be read, was trained on other spaces, names a policy that is
            not installed, or holds other weights than the policy has.
    """
    return read_checkpoint(path).build_policy(env, registry=registry)


def load_weights(path: Path | str, policy: nn.Module) -> Header:
    """Put a checkpoint's weights into `policy` and return the header.

    Raises:
        CheckpointError: names or shapes differ; all differences are in one error.
    """
    checkpoint = read_checkpoint(path)
    put_weights(policy, checkpoint.tensors, path=path, owner=checkpoint.header.spec)
    return checkpoint.header


def weights_of(policy: nn.Module) -> dict[str, Tensor]:
    """Return a policy's weights and buffers by their names in checkpoints, not copied."""
    return _stripped(policy.state_dict())


def put_weights(
    policy: nn.Module, tensors: Mapping[str, Tensor], *, path: Path | str, owner: PolicySpec | None
) -> None:
    """Put tensors of `weights_of` into `policy`; `path` and `owner` are named in the error.

    Raises:
        CheckpointError: names or shapes differ; all differences are in one error.
    """
    own = policy.state_dict()
    # The keys of a compiled or distributed policy have a prefix, those of checkpoints do not.
    names = dict(zip(_stripped(own), own, strict=True))
    problems = _differences(tensors, {name: own[key] for name, key in names.items()})
    if problems:
        raise CheckpointError(
            f"The weights of {path} do not fit {type(policy).__name__}:\n" + "\n".join(problems),
            fix=f"They belong to {owner}." if owner else "",
        )
    policy.load_state_dict({names[name]: tensor for name, tensor in tensors.items()})


def require_same_spaces(header: Header, spaces: Spaces, path: Path | str) -> None:
    """Raise a `CheckpointError` that shows both sides unless the spaces are the checkpoint's."""
    pairs = [
        ("observation", header.observation_space, str(spaces.observation)),
        ("action", header.action_space, str(spaces.action)),
    ]
    lines = [
        f"  {name} space: trained on {trained}\n  {' ' * len(name)}        this env has {current}"
        for name, trained, current in pairs
        if trained != current
    ]
    if lines:
        raise CheckpointError(
            f"{path} was trained on other spaces:\n" + "\n".join(lines),
            fix="Use an env with the same spaces.",
        )


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop a prefix that every key has, so that a submodule called ``my_module`` keeps its name."""
    for prefix in PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return _stripped({key.removeprefix(prefix): each for key, each in tensors.items()})
    return dict(tensors)


def _distinct(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split off the keys of tensors that share their memory with an earlier one.

    PufferLib's LSTM has its weights twice: in `nn.LSTM` for sequences, in `nn.LSTMCell` for steps.
    """
    first: dict[tuple[int, Any], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        # Views of one memory in other shapes are stored as tensors of their own.
        place = (tensor.data_ptr(), (tuple(tensor.shape), tensor.stride()))
        if tensor.numel() and first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return {name: each for name, each in tensors.items() if name not in aliases}, aliases


def _differences(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    problems = [f"  {name}: missing in the file" for name in own if name not in tensors]
    problems += [f"  {name}: unknown to the policy" for name in tensors if name not in own]
    shapes = {name: (tensors[name].shape, own[name].shape) for name in own if name in tensors}
    problems += [
        f"  {name}: {tuple(stored)} in the file, {tuple(current)} in the policy"
        for name, (stored, current) in shapes.items()
        if stored != current
    ]
    return problems


def _origins(spec: PolicySpec, registry: Registry | None) -> tuple[Origin, ...]:
    registry = default_registry() if registry is None else registry
    return tuple(_origin(name, registry) for name in (spec.name, *(w.name for w in spec.wrappers)))


def _origin(name: str, registry: Registry) -> Origin:
    try:
        provenance = registry.get(name).provenance
    except PolicyError:
        # A class that was passed to get_policy directly is in no registry.
        return Origin(name=name, distribution="local", version="")
    return Origin(name=name, distribution=provenance.distribution, version=provenance.version)


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("puffer-policies", "torch", "gymnasium", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions
