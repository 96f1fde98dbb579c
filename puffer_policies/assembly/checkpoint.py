"""Checkpoints: weights as safetensors, with a header from which the policy is rebuilt.

No pickle is read or written. The header is one line of JSON under the metadata key
``puffer_policies``. It holds the format version, the spec of the policy, its spaces, the config of
the run, the package of every name, the versions of what wrote it, and a digest of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from puffer_policies.assembly.blueprint import build_policy, plain_defaults, prepare
from puffer_policies.assembly.golden import deviation, take_sample, tolerance
from puffer_policies.assembly.header import (
    GOLDEN,
    METADATA_KEY,
    Header,
    Origin,
    installed_version,
    require_same_spaces,
    require_spaces,
)
from puffer_policies.assembly.limit import limited_by
from puffer_policies.assembly.tensorfile import (
    digest_of,
    read_tensors,
    require_intact,
    write_tensors,
)
from puffer_policies.errors import CheckpointError, IncompatibleSpace, PolicyError, joined
from puffer_policies.foreign import error_text
from puffer_policies.hub.location import Location, checkpoint_of
from puffer_policies.nn.observations import members_of, with_keys
from puffer_policies.registry import Registry, default_registry
from puffer_policies.registry.imports import user_imports
from puffer_policies.registry.specs import PolicySpec
from puffer_policies.spaces import Spaces, spaces_of
from puffer_policies.spaces.data import default_text
from puffer_policies.wrappers.base import actor_of

WRITERS = ("puffer-policies", "torch", "gymnasium", "numpy")
"""The distributions whose versions a header holds, besides those of the policy's names."""

PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and DistributedDataParallel put before every key."""


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
    """Write a policy's weights, header and golden sample to `path`, at once or not at all.

    Args:
        path: the file; its folder must exist.
        policy: one of `get_policy`; any other has no spec, and only `load_weights` loads its file.
        env: whatever `spaces_of` reads; `load_policy` refuses to build for other spaces.
        config: the config of the run, as plain data.
        training: counters, as plain data.
        weights: `weights_of` the policy at another moment; its present ones if None.
        registry: where the names of the spec came from; the default registry if None.
    """
    spaces = spaces_of(env)  # once: an id makes an env
    tensors, aliases = _distinct(weights_of(policy) if weights is None else weights)
    header = header_of(policy, env=spaces, config=config, training=training, registry=registry)
    if weights is not None:
        names = _names_of_weights(policy.state_dict())
        weights = {names.get(name, name): tensor for name, tensor in weights.items()}
    sample = take_sample(policy, spaces, weights)
    tensors |= {f"{GOLDEN}{name}": tensor for name, tensor in sample.items()}
    text = replace(header, aliases=aliases, digest=digest_of(tensors)).to_json()
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
        observation_space=default_text(spaces.observation),
        action_space=default_text(spaces.action),
        observation=spaces.observation,
        action=spaces.action,
        config=config or {},
        training=training or {},
        origins=_origins(spec, registry) if spec else (),
        versions={name: installed_version(name) or "unknown" for name in WRITERS},
        # Their names alone: who loads the file decides anew what is imported.
        imports=user_imports(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint in memory, whose header and tensors are from the same bytes of one file."""

    path: Path
    header: Header
    tensors: Mapping[str, Tensor]
    """The weights by their names in the policy."""
    sample: Mapping[str, Tensor]
    """The golden sample, as `take_sample` returns it."""

    def build_policy(
        self,
        env: Any = None,
        *,
        registry: Registry | None = None,
        verify: bool = True,
        strict: bool = True,
    ) -> nn.Module:
        """Build the policy with its weights. Arguments and errors are those of `load_policy`.

        `strict` compares its class with the contract, as `get_policy` does.
        """
        header = self.header
        registry = default_registry() if registry is None else registry
        if header.spec is None or header.full_spec is None:
            raise CheckpointError(
                f"{self.path} holds weights without a spec, because its policy was not built by "
                "name.",
                fix="Build the policy yourself and call load_weights(path, policy).",
            )
        if env is None:
            env = require_spaces(header, self.path)
        of_env = spaces = spaces_of(env)
        if header.spaces is not None and _lacks_keys(of_env, header.spaces):
            env = spaces = header.spaces
        require_same_spaces(header, spaces, self.path)
        try:
            # The spec may be a stranger's, and ask for layers larger than the memory.
            with limited_by(self.tensors.values()):
                blueprint = prepare(header.spec, env, registry=registry)
                blueprint = blueprint.with_defaults(header.full_spec, header.defaults)
                policy = build_policy(blueprint, registry, strict=strict)
        except PolicyError as error:
            raise CheckpointError(
                f"The policy of {self.path}, {header.spec}, can't be built: {error.problem}",
                fix=header.training_text(error),
            ) from error
        if of_env is not spaces:
            needed = members_of(actor_of(policy, spaces).spaces.observation)
            if not needed.keys() <= members_of(of_env.observation).keys():
                require_same_spaces(header, of_env, self.path)
        try:
            put_weights(policy, self.tensors, path=self.path, owner=header.spec)
        except CheckpointError as error:
            # Tensors that do not fit are most often those of another version of its package.
            changes = header.version_changes(header.distributions)
            raise CheckpointError(error.problem, fix="\n".join([error.fix, *changes])) from error
        if verify and self.sample:
            self._require_answers(policy, spaces)
        return policy

    def _require_answers(self, policy: nn.Module, spaces: Spaces) -> None:
        """Refuse a policy that answers to the golden sample otherwise than when it was saved."""
        limit = tolerance(policy)
        try:
            gap = deviation(policy, spaces, self.sample)
            problem = f"are off by {gap:.2g} of their size, and {limit:g} are rounding"
        except Exception as error:
            gap, problem = math.inf, f"can't be had: {error_text(error)}"
        # Not `gap > limit`, as NaN has to fail too.
        if not gap <= limit:
            raise CheckpointError(
                f"The policy of {self.path} does not answer as it did when it was saved: its "
                f"answers to the inputs in the file {problem}.",
                fix="\n".join(
                    [*self.header.version_changes(), "load_policy(path, verify=False) loads it."]
                ),
            )


def read_checkpoint(location: Location, *, registry: Registry | None = None) -> Checkpoint:
    """Read a checkpoint once, for callers that need its header and its policy.

    A run that is training replaces its checkpoints: a header and weights that are read one after
    the other can be of two policies. Arguments are those of `checkpoint_of`.

    Raises:
        CheckpointError: the file is missing, damaged, or not a checkpoint.
    """
    path = checkpoint_of(location, registry=registry)
    tensors, text = read_tensors(path, key=METADATA_KEY)
    header = Header.from_json(text, path)
    # Before anything is built from them.
    require_intact(header, tensors, path)
    aliases = {alias: tensors[key] for alias, key in header.aliases.items()}
    sample = {key: tensors.pop(key) for key in list(tensors) if key.startswith(GOLDEN)}
    sample = {key.removeprefix(GOLDEN): tensor for key, tensor in sample.items()}
    return Checkpoint(path, header, tensors | aliases, sample)


def load_policy(
    path: Location,
    env: Any = None,
    *,
    registry: Registry | None = None,
    verify: bool = True,
) -> nn.Module:
    """Rebuild a checkpoint's policy with its weights, and compare its answers with those it gave.

    Args:
        path: a checkpoint, the folder of a run, for its last one, ``hf://org/name@revision``, or
            ``pretrained://name``.
        env: whatever `spaces_of` reads. If None, the policy is built for the spaces in the file,
            so that neither the env nor its package is needed. Keys of its observation may be
            missing that only a separate critic sees.
        registry: where the policy's names are looked up; the default registry if None.
        verify: whether the policy must answer to the golden sample in the file as it did when it
            was saved. Files of an earlier version have none.

    Raises:
        CheckpointError: the file can't be read, was trained on other spaces, names a policy that is
            not installed, or holds other weights than the policy has, or such that are not finite;
            or the policy answers otherwise than before; or `env` is None and the file does not hold
            the spaces.
    """
    checkpoint = read_checkpoint(path, registry=registry)
    return checkpoint.build_policy(env, registry=registry, verify=verify)


def load_weights(path: Location, policy: nn.Module) -> Header:
    """Put a checkpoint's weights into `policy` and return the header.

    Raises:
        CheckpointError: names, shapes or dtypes differ, which are all in one error, or a parameter
            is not finite.
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
        CheckpointError: names, shapes or dtypes differ, which are all in one error, or a parameter
            is not finite.
    """
    own = policy.state_dict()
    names = _names_of_weights(own)
    problems = _differences(tensors, {name: own[key] for name, key in names.items()})
    if problems:
        raise CheckpointError(
            f"The weights of {path} do not fit {type(policy).__name__}:\n{joined(problems)}",
            fix=f"They belong to {owner}." if owner else "",
        )
    parameters = {name for name, _ in policy.named_parameters(remove_duplicate=False)}
    _require_finite({n: each for n, each in tensors.items() if names[n] in parameters}, path)
    policy.load_state_dict({names[name]: tensor for name, tensor in tensors.items()})


def _names_of_weights(own: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of a policy's weights in checkpoints -> their names in its state_dict.

    The keys of a compiled or distributed policy have a prefix, those of checkpoints do not.
    """
    return dict(zip(_stripped(own), own, strict=True))


def _require_finite(parameters: Mapping[str, Tensor], path: Path | str) -> None:
    """Refuse parameters that are not finite. Buffers may hold infinities, as masks do."""
    counts = {name: int((~torch.isfinite(each)).sum()) for name, each in parameters.items()}
    problems = [
        f"  {name}: {count:,} of {parameters[name].numel():,} are NaN or infinite"
        for name, count in counts.items()
        if count
    ]
    if problems:
        raise CheckpointError(
            f"{path} holds weights that are not finite numbers:\n{joined(problems)}",
            fix="The training had diverged. Use an earlier checkpoint, such as the run's best one.",
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
    pairs = {name: (tensors[name], own[name]) for name in own if name in tensors}
    problems += [
        f"  {name}: {_form(stored)} in the file, {_form(current)} in the policy"
        for name, (stored, current) in pairs.items()
        if (stored.shape, stored.dtype) != (current.shape, current.dtype)
    ]
    return problems


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _origins(spec: PolicySpec, registry: Registry | None) -> tuple[Origin, ...]:
    registry = default_registry() if registry is None else registry
    names = [spec.name, *(each.name for each in spec.wrappers)]
    names += _arguments(spec, registry)
    return tuple(_origin(name, registry) for name in dict.fromkeys(names))


def _arguments(spec: PolicySpec, registry: Registry) -> Iterator[str]:
    """Yield the names in the arguments of wrappers that are policies, such as that of a critic."""
    for wrapper in spec.wrappers:
        with suppress(PolicyError):  # as in `_origin`
            for key in getattr(registry.get(wrapper.name), "policy_arguments", ()):
                if isinstance(expression := wrapper.kwargs.get(key), str):
                    inside = PolicySpec.parse(expression)
                    yield from (inside.name, *(each.name for each in inside.wrappers))


def _lacks_keys(spaces: Spaces, trained: Spaces) -> bool:
    """Return whether spaces are others, but for keys of the observation that they do not have."""
    try:
        kept = with_keys(trained.observation, list(members_of(spaces.observation)))
    except IncompatibleSpace:
        return False
    return spaces != trained and spaces == Spaces(kept, trained.action)


def _origin(name: str, registry: Registry) -> Origin:
    try:
        record = registry.get(name)
    except PolicyError:
        # A class that was passed to get_policy directly is in no registry.
        return Origin(name=name, distribution="local", version="")
    place, defaults = record.provenance, dict[str, Any]()
    with suppress(PolicyError):  # a spec that was written by hand need not lead to a class
        defaults = plain_defaults(record)
    return Origin(
        name=name, distribution=place.distribution, version=place.version, defaults=defaults
    )
