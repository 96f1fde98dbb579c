"""Checkpoints: weights as safetensors, and in the file's header all that rebuilds the policy.

No pickle is read or written. The header is one line of JSON under the metadata key
``puffer_policies``: format version, recipe, spaces, run config, provenance of every name, versions.
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
from puffer_policies.assembly.tensorfile import read_tensors, write_tensors
from puffer_policies.errors import CheckpointError, PolicyError
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces, spaces_of

FORMAT_VERSION = 1
METADATA_KEY = "puffer_policies"
PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which package a name of the recipe came from."""

    name: str
    distribution: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Everything in a checkpoint but the weights."""

    spec: PolicySpec | None
    """The recipe; None for a policy that was not built by name."""
    observation_space: str
    action_space: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's config, as `Config.to_args` makes it."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How far training had come: global_step, epoch."""
    origins: tuple[Origin, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Keys of shared tensors -> the key under which the tensor is stored."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        data = {name: getattr(self, name) for name in ("observation_space", "action_space")}
        data |= {name: dict(getattr(self, name)) for name in ("config", "training", "versions")}
        data["spec"] = self.spec.to_dict() if self.spec else None
        data["origins"] = [asdict(each) for each in self.origins]
        data["aliases"] = dict(self.aliases)
        return json.dumps({"format_version": FORMAT_VERSION, **data}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, path: Path) -> Header:
        """Rebuild a header; `path` is for errors."""
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
            return cls(spec=PolicySpec.from_dict(spec) if spec else None, origins=origins, **data)
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
    """Write a policy's weights and recipe to `path`, at once or not at all.

    Args:
        path: the file; its folder must exist.
        policy: from `get_policy`, else the recipe is missing and loading needs the policy itself.
        env: whatever `spaces_of` reads; the spaces become the checkpoint's fingerprint.
        config: the run's config, plain data.
        training: counters, plain data.
        weights: `weights_of` the policy at another moment; those that it has now if None.
        registry: where the recipe's names came from; the default registry if None.
    """
    tensors, aliases = _distinct(weights_of(policy) if weights is None else weights)
    header = header_of(policy, env=env, config=config, training=training, registry=registry)
    told = replace(header, aliases=aliases)
    return write_tensors(path, tensors, header=told.to_json(), key=METADATA_KEY)


def header_of(
    policy: nn.Module,
    *,
    env: Any,
    config: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> Header:
    """Return what a checkpoint says of a policy. Arguments are those of `save_checkpoint`."""
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
    )


def read_header(path: Path | str) -> Header:
    """Return the header of a checkpoint.

    Raises:
        CheckpointError: no such file, a damaged one, or one that we did not write.
    """
    return Header.from_json(read_tensors(path, key=METADATA_KEY)[1], Path(path))


def load_policy(path: Path | str, env: Any, *, registry: Registry | None = None) -> nn.Module:
    """Rebuild a checkpoint's policy for `env`, with its weights.

    Raises:
        CheckpointError: the file can't be read, was trained on other spaces, names a policy that is
            not installed, or holds other weights than the policy has.
    """
    header = read_header(path)
    if header.spec is None:
        raise CheckpointError(
            f"{path} holds weights without a recipe: its policy was not built by name.",
            fix="Build the policy yourself and call load_weights(path, policy).",
        )
    require_same_spaces(header, spaces_of(env), path)
    try:
        policy = get_policy(header.spec, env, registry=registry)
    except PolicyError as error:
        raise CheckpointError(
            f"The policy of {path}, {header.spec}, can't be built: {error}",
            fix=f"It was trained with {_told(header.origins)}.",
        ) from error
    load_weights(path, policy)
    return policy


def load_weights(path: Path | str, policy: nn.Module) -> Header:
    """Put a checkpoint's weights into `policy` and return the header.

    Raises:
        CheckpointError: names or shapes differ; all differences in one error.
    """
    tensors, text = read_tensors(path, key=METADATA_KEY)
    header = Header.from_json(text, Path(path))
    tensors |= {alias: tensors[key] for alias, key in header.aliases.items()}
    put_weights(policy, tensors, path=path, owner=header.spec)
    return header


def weights_of(policy: nn.Module) -> dict[str, Tensor]:
    """Return a policy's weights and buffers by the names that stand in checkpoints, not copied."""
    return _stripped(policy.state_dict())


def put_weights(
    policy: nn.Module, tensors: Mapping[str, Tensor], *, path: Path | str, owner: PolicySpec | None
) -> None:
    """Put tensors of `weights_of` into `policy`; `path` and `owner` are for the error.

    Raises:
        CheckpointError: names or shapes differ; all differences in one error.
    """
    own = policy.state_dict()
    # A compiled or distributed policy has the prefix before its own keys.
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
        f"  {name} space: trained on {then}\n  {' ' * len(name)}        this env has {now}"
        for name, then, now in pairs
        if then != now
    ]
    if lines:
        raise CheckpointError(
            f"{path} was trained on other spaces:\n" + "\n".join(lines),
            fix="Use an env with the same spaces.",
        )


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop `PREFIXES` that stand before every key; a submodule called ``my_module`` is safe."""
    for prefix in PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            return _stripped({key.removeprefix(prefix): each for key, each in tensors.items()})
    return dict(tensors)


def _distinct(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split off keys that share the memory of an earlier one, as PufferLib's LSTM cells do."""
    first: dict[tuple[int, Any], str] = {}
    aliases = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), (tuple(tensor.shape), tensor.stride()))
        if tensor.numel() and first.setdefault(place, name) != name:
            aliases[name] = first[place]
    return {name: each for name, each in tensors.items() if name not in aliases}, aliases


def _differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    problems = [f"  {name}: missing in the file" for name in own if name not in given]
    problems += [f"  {name}: unknown to the policy" for name in given if name not in own]
    problems += [
        f"  {name}: {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} in the policy"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    return problems


def _origins(spec: PolicySpec, registry: Registry | None) -> tuple[Origin, ...]:
    registry = default_registry() if registry is None else registry
    return tuple(_origin(name, registry) for name in (spec.name, *(w.name for w in spec.wrappers)))


def _origin(name: str, registry: Registry) -> Origin:
    try:
        where = registry.get(name).provenance
    except PolicyError:
        # A class given directly to get_policy is in no registry.
        return Origin(name=name, distribution="local", version="")
    return Origin(name=name, distribution=where.distribution, version=where.version)


def _told(origins: tuple[Origin, ...]) -> str:
    told = {f"{each.distribution} {each.version}".strip() for each in origins}
    return ", ".join(sorted(told))


def _versions() -> dict[str, str]:
    found = {}
    for name in ("puffer-policies", "torch", "gymnasium", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
