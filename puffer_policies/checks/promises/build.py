"""B: a policy can be built from spaces alone, has the contract's members, and hides nothing."""

from __future__ import annotations

import copy
import inspect
import warnings
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from puffer_policies.assembly.fit import misfits
from puffer_policies.checks.model import CheckFailed, CheckSkipped, Level, Scope, Tier, check
from puffer_policies.checks.probes.construction import (
    needs_constructor,
    needs_spaces_only,
    policy_or_skip,
    rebuild,
    side_effects,
    unregistered,
)
from puffer_policies.checks.probes.cures import cure_of
from puffer_policies.checks.probes.outputs import numbers, sum_of_outputs
from puffer_policies.checks.probes.snippets import error_line, example
from puffer_policies.checks.probes.subject import BATCH, Subject
from puffer_policies.checks.probes.tolerances import difference, is_equal, is_same
from puffer_policies.checks.probes.weights import perturbed_copy, trained_parameters
from puffer_policies.contract import missing_members
from puffer_policies.errors import IncompatibleSpace
from puffer_policies.nn.observations import leaf_spaces
from puffer_policies.spaces.nested import leaves

LARGE = 30.0
"""By which weights are multiplied to show a pass that bounds them in place."""

TYPO = "hiden_size"
"""A misspelled argument, which no constructor has."""


@check(
    "B1",
    "builds-from-spaces",
    promise="Builds from the spaces alone, with default arguments, or refuses them in words.",
    why="A registry, a config and a checkpoint build a policy by name: they know nothing else.",
    fix="Give every argument but the env a default; read sizes from the spaces; raise "
    "IncompatibleSpace for spaces that the policy does not serve, and declare those it does.",
    tier=Tier.STATIC,
    level=Level.ERROR,
)
def builds_from_spaces(subject: Subject) -> None:
    """Build, and tell a refusal of the spaces from an accident."""
    try:
        _ = subject.policy
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        if not _names_space(error, subject):
            raise CheckFailed(
                "a policy, or an error that names the space", text, fix=cure_of(error, otherwise="")
            ) from error
        declared = None if subject.may_refuse else subject.capabilities
        if declared is not None and not misfits(declared, subject.spaces):
            raise CheckFailed("a policy, as its record declares these spaces", text) from error
        raise CheckSkipped(f"it does not serve these spaces, and says so: {text}") from error


@check(
    "B2",
    "has-the-members",
    promise="Has encode_observations, decode_actions, forward_eval, forward, hidden_size and "
    "is_continuous, callable under the contract's parameter names.",
    why="Trainers and wrappers call them; of PufferLib 3.0's own policies 32 of 36 lack one, and "
    "fail after the environments have started.",
    fix="Subclass puffer_policies.nn.actor_critic.ActorCritic, or add what is listed.",
    tier=Tier.STATIC,
    level=Level.ERROR,
)
def has_the_members(subject: Subject) -> None:
    """Inspect signatures and attributes; nothing is called."""
    policy = policy_or_skip(subject)
    if offenses := missing_members(policy):
        raise CheckFailed(
            "every member of the contract", "; ".join(offenses), fix=_cure_of_lack(policy, offenses)
        )
    if policy.is_continuous != subject.layout.is_continuous:
        raise CheckFailed(
            f"is_continuous = {subject.layout.is_continuous} for this action space",
            f"is_continuous = {policy.is_continuous}",
            example="print(policy.is_continuous)",
        )


@check(
    "B3",
    "widths-agree",
    promise="The encoder's output is (N, hidden_size) float32, and decode_actions reads it; "
    "without memory, one after the other is forward_eval.",
    why="A wrapper puts a core of width hidden_size between the two; a lie about it surfaces as a "
    "matrix multiplication deep inside, and its core computes in float32. A layer that only "
    "forward runs is lost inside a memory.",
    fix="Set self.hidden_size to the width of the encoder's output, and return that as float32; "
    "let forward_eval return decode_actions(encode_observations(observations, state)).",
    needs=("R6",),
    scope=Scope.OBSERVATIONS,
)
def widths_agree(subject: Subject) -> None:
    """Probe both halves. In a recurrent policy the core's input may have another width."""
    policy, rows = subject.policy, 3
    if lacking := _cannot_probe(policy):
        raise CheckSkipped(f"it can't be probed (B2): {lacking}")
    width = int(policy.hidden_size)  # type: ignore[arg-type]
    with torch.no_grad():
        hidden = policy.encode_observations(subject.observations(rows))  # type: ignore[operator]
    shape = tuple(hidden.shape)
    if len(shape) != 2 or shape[0] != rows or not (shape[1] == width or subject.recurrent):
        raise CheckFailed(
            f"hidden of shape {(rows, width)}",
            f"shape {shape}",
            example=example("print(policy.encode_observations(observations).shape)", batch=rows),
        )
    if hidden.dtype is not torch.float32:
        raise CheckFailed(
            "hidden in float32",
            f"{hidden.dtype}",
            example=example("print(policy.encode_observations(observations).dtype)", batch=rows),
        )
    _decode(policy, torch.zeros(rows, width))
    _require_whole(subject)


def _require_whole(subject: Subject) -> None:
    """Compare both halves, one after the other, with a step of a policy without memory.

    A wrapper of ours changes logits afterwards, and a memory around it lets it.
    """
    if subject.recurrent:
        return
    policy, observations = perturbed_copy(subject), subject.observations()
    logits, values, _ = subject.step(observations, policy=policy)
    state = subject.add_required({}, observations)
    with torch.no_grad():
        parts = policy.decode_actions(policy.encode_observations(observations, state))  # type: ignore[operator]
    if not isinstance(parts, tuple) or len(parts) != 2:
        return  # B9's matter
    finish = getattr(policy, "finish_logits", None)
    if finish is not None:
        parts = finish(parts[0], state), parts[1]
    expected, actual = (
        numbers(subject, each, value, BATCH) for each, value in ((logits, values), parts)
    )
    # A mask may be applied after both, and NaN is N1's matter.
    if not is_same(actual.nan_to_num(), expected.nan_to_num()):
        raise CheckFailed(
            "decode_actions(encode_observations(observations)) to give what forward_eval gives",
            f"outputs {difference(actual, expected):.2g} apart",
            example=example(
                "print(policy.decode_actions(policy.encode_observations(observations)))",
                "print(policy.forward_eval(observations, state))",
            ),
        )


@check(
    "B4",
    "modules-registered",
    promise="Is an nn.Module, and so is, registered, every part with parameters.",
    why="A layer in a plain list, dict or closure is not trained, not saved and not moved.",
    fix="Use nn.ModuleList, nn.ModuleDict, nn.ParameterList; call super().__init__() first.",
    tier=Tier.STATIC,
)
def modules_registered(subject: Subject) -> None:
    """Walk what the modules refer to, and look for parameters that PyTorch does not know."""
    policy = policy_or_skip(subject)
    if not isinstance(policy, nn.Module) or "_modules" not in vars(policy):
        raise CheckFailed("a torch.nn.Module", f"{type(policy).__mro__[:-1]}")
    if hidden := unregistered(policy):
        raise CheckFailed(
            "every parameter in policy.parameters()",
            "; ".join(hidden),
            example="print([name for name, _ in policy.named_parameters()])",
        )


@check(
    "B5",
    "parameters-there-at-once",
    promise="Has all its parameters when it is built; running it, backward too, adds, "
    "replaces and changes none.",
    why="The optimizer is made before the first forward pass: a parameter that appears later is "
    "never trained (DLR-RM/stable-baselines3#1271). One that a pass changes is another one when "
    "the update scores what the rollout did.",
    fix="Read sizes from the spaces instead of LazyLinear; build no layer in a forward pass, and "
    "bound a weight where it is used, not in place.",
    scope=Scope.MODULES,
    level=Level.ERROR,
)
def parameters_there_at_once(subject: Subject) -> None:
    """Compare the parameters before and after a run, their identity and then their values."""
    policy = subject.fresh()
    before = dict(policy.named_parameters())
    if lazy := [name for name, each in before.items() if is_lazy(each)]:
        raise CheckFailed("parameters with shapes", f"uninitialized: {', '.join(lazy)}")
    subject.step(subject.observations(), policy=policy)
    subject.sequence(subject.observations(steps=2), policy=policy)
    after = dict(policy.named_parameters())
    changed = [name for name in before | after if before.get(name) is not after.get(name)]
    if changed:
        raise CheckFailed(
            "the same parameters before and after a run",
            f"added, lost or replaced: {', '.join(changed)}",
            example=example(
                "before = [id(each) for each in policy.parameters()]",
                "policy.forward_eval(observations, state)",
                "print(before == [id(each) for each in policy.parameters()])",
            ),
        )
    _require_unchanged(subject, policy, backward=True)
    # A bound that weights do not reach at first changes none, so they are also made large.
    for factor in (1.0, LARGE):
        for training in (False, True):
            policy = perturbed_copy(subject, training=training)
            with torch.no_grad():
                for each in trained_parameters(subject, policy).values():
                    if each.is_floating_point():
                        each.mul_(factor)
            _require_unchanged(subject, policy)


def _require_unchanged(subject: Subject, policy: nn.Module, *, backward: bool = False) -> None:
    """Run both passes, as rollouts and updates do, and compare the values of the parameters.

    A hook of a gradient runs in the `backward` pass, and only of the policy itself: no copy has it.
    """
    before = {name: each.detach().clone() for name, each in policy.named_parameters()}
    with suppress(ValueError, RuntimeError):  # large weights may make NaN, which may be refused
        for seed in range(2):
            subject.step(subject.observations(seed=seed), policy=policy)
            observations = subject.observations(steps=2, seed=seed)
            logits, values = subject.sequence(observations, policy=policy, grad=True)
            if backward:
                torch.autograd.backward(sum_of_outputs(subject.distribution(logits), values))
    changed = [
        name
        for name, each in policy.named_parameters()
        if name in before and not torch.equal(each.detach(), before[name])
    ]
    if changed:
        raise CheckFailed(
            "parameters of the same values before and after a run",
            f"changed: {', '.join(changed)}",
            example=example(
                "before = [each.clone() for each in policy.parameters()]",
                "policy.forward_eval(observations, state)",
                "print([bool((a == b).all()) for a, b in zip(before, policy.parameters())])",
            ),
        )


@check(
    "B6",
    "arguments-mean-something",
    promise="Refuses keyword arguments that it does not know; hidden_size sets hidden_size.",
    why="A misspelled option in a config is otherwise a run with the default; a misplaced one "
    "lands in another slot (7 of PufferLib's recurrent policies).",
    fix="Name the arguments instead of **kwargs, or raise TypeError for what is left over; pass "
    "them on by keyword.",
    tier=Tier.STATIC,
    applies=needs_constructor,
)
def arguments_mean_something(subject: Subject) -> None:
    """Build once with a typo, and once twice as wide."""
    policy_or_skip(subject)
    assert subject.cls is not None
    parameters = inspect.signature(subject.cls).parameters
    # Without **kwargs Python itself refuses what is unknown.
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        _require_refusal(subject)
    default = parameters["hidden_size"].default if "hidden_size" in parameters else None
    if type(default) is int:
        _require_effect(subject, default)


@check(
    "B7",
    "building-is-pure",
    promise="Two builds under one seed have equal weights; a build changes nothing else, such as "
    "the bounds of its spaces.",
    why="A seed that does not decide, or a constructor that reseeds, changes directory or global "
    "settings, makes runs that can't be repeated or that disturb others.",
    fix="Draw initial weights from torch's global generator without seeding it; leave printing, "
    "files and settings to the caller.",
    tier=Tier.STATIC,
    scope=Scope.MODULES,
)
def building_is_pure(subject: Subject) -> None:
    """Build under watch, in an empty directory."""
    if not isinstance(policy_or_skip(subject), nn.Module):
        raise CheckSkipped("it is not an nn.Module (B4)")
    builds = [subject.fresh(3) for _ in range(2)]
    first, second = map(_weights, builds)
    if shared := _shared(*builds):
        raise CheckFailed(
            "weights of its own in each build",
            f"two builds share {', '.join(shared)}",
            fix="Make every layer in the constructor: a default argument is made once for all.",
            example="# build twice and compare the data_ptr() of their parameters",
        )
    if differing := [name for name in first if not is_equal(first[name], second[name])]:
        raise CheckFailed(
            "equal weights from two builds under one seed",
            f"they differ: {', '.join(differing)}",
            example="# build twice after torch.manual_seed(0) and compare the state_dicts",
        )
    if effects := side_effects(subject.build):
        raise CheckFailed("a build without side effects", "; ".join(effects))
    if not needs_spaces_only(subject):
        _require_spaces_kept(subject)


def _require_spaces_kept(subject: Subject) -> None:
    """Build for a copy of the spaces whose arrays can't be written, and compare these."""
    spaces = copy.deepcopy(subject.spaces)
    arrays = {
        f"{name} of the {part} space": value
        for part, space in (("observation", spaces.observation), ("action", spaces.action))
        for leaf in leaves(leaf_spaces(space))
        for name, value in vars(leaf).items()
        if isinstance(value, np.ndarray)
    }
    before = {name: value.copy() for name, value in arrays.items()}
    for value in arrays.values():
        value.flags.writeable = False
    error = ""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")  # torch.from_numpy warns of what can't be written
        try:
            rebuild(subject, spaces=spaces)
        except ValueError as raised:
            error = error_line(raised) if "read-only" in str(raised) else ""
    changed = [name for name, value in arrays.items() if not np.array_equal(value, before[name])]
    if error or changed:
        raise CheckFailed(
            "the spaces that it was built for to stay as they were",
            f"it writes into {', '.join(changed) or 'their bounds'}{error and f': {error}'}",
            fix="Copy what is changed: low = space.low.copy(). The env and all other policies have "
            "the same space.",
            example="# compare spaces.observation.low before and after a build",
        )


@check(
    "B8",
    "passes-are-pure",
    promise="A pass and a sample change nothing of the process: no seeds, settings, filters, files "
    "or output.",
    why="A pass runs millions of times inside someone else's program. One that reseeds makes every "
    "rollout draw the same actions; one that sets a flag or prints changes what others run.",
    fix="Draw from the global generator without seeding it; set flags where the program starts, "
    "and log from there.",
    scope=Scope.MODULES,
    needs=("R6",),
)
def passes_are_pure(subject: Subject) -> None:
    """Run both passes and sample in both modes under watch, in an empty directory."""
    observations, sequences = subject.observations(), subject.observations(steps=2)
    for training in (False, True):
        policy = perturbed_copy(subject, training=training)

        def run(policy: nn.Module = policy) -> None:
            logits, _, _ = subject.step(observations, policy=policy)
            subject.distribution(logits).sample()
            logits, _ = subject.sequence(sequences, policy=policy, grad=True)
            dist = subject.distribution(logits)
            dist.log_prob(dist.sample())
            dist.entropy()

        for enabled in (True, False):
            with torch.set_grad_enabled(enabled):
                state = subject.add_required(subject.state(BATCH, policy), observations)
                policy.forward_eval(observations, state)  # type: ignore[operator]
                switched = torch.is_grad_enabled() is not enabled
            if switched:
                raise CheckFailed(
                    f"gradients {'on' if enabled else 'off'} after a step, as before it",
                    "the step has switched them for the whole program",
                    fix="Use `with torch.no_grad():`, which switches them back.",
                    example=example(
                        "policy.forward_eval(observations, state)",
                        "print(torch.is_grad_enabled())",
                    ),
                )
        # The first pass may import, and what that changes is not the pass's doing.
        if side_effects(run) and (effects := side_effects(run)):
            raise CheckFailed(
                f"a pass without side effects, in {'training' if training else 'evaluation'} mode",
                "; ".join(effects),
                example=example(
                    "from puffer_policies.checks.probes.construction import side_effects",
                    "print(side_effects(lambda: policy.forward_eval(observations, dict(state))))",
                ),
            )


CHECKS = (
    builds_from_spaces,
    has_the_members,
    widths_agree,
    modules_registered,
    parameters_there_at_once,
    arguments_mean_something,
    building_is_pure,
    passes_are_pure,
)


def _names_space(error: Exception, subject: Subject) -> bool:
    """Whether an error was raised to refuse the space, rather than by stumbling over it."""
    if isinstance(error, IncompatibleSpace):
        return True
    kinds = {type(each).__name__ for each in (subject.spaces.observation, subject.spaces.action)}
    text = str(error)
    refusal = isinstance(error, (NotImplementedError, ValueError, TypeError, AssertionError))
    return refusal and ("space" in text.lower() or any(kind in text for kind in kinds))


def _cure_of_lack(policy: nn.Module, offenses: list[str]) -> str:
    """Return what to do where only passes are missing, as a memory around both halves has them."""
    halves = (getattr(policy, name, None) for name in ("encode_observations", "decode_actions"))
    if not all(each.startswith("no method forward") for each in offenses) or not all(
        map(callable, halves)
    ):
        return ""
    return (
        "Add what is listed, or try it inside LSTMWrapper, which calls encode_observations and "
        f"decode_actions only: LSTMWrapper(file.py::{type(policy).__name__})."
    )


def _cannot_probe(policy: nn.Module) -> str:
    """Return what both halves lack, or ''."""
    members = ("encode_observations", "decode_actions", "hidden_size")
    offenses = missing_members(policy)
    return "; ".join(each for each in offenses if any(name in each for name in members))


def _decode(policy: nn.Module, hidden: Tensor) -> None:
    shape = tuple(hidden.shape)
    try:
        with torch.no_grad():
            policy.decode_actions(hidden)  # type: ignore[operator]
    except Exception as error:
        raise CheckFailed(
            f"decode_actions reads hidden of shape {shape}, as hidden_size says",
            error_line(error),
            example=f"import torch\nprint(policy.decode_actions(torch.zeros{shape}))",
        ) from error


def _require_refusal(subject: Subject) -> None:
    try:
        rebuild(subject, arguments={TYPO: 1})
    except Exception:
        return
    name = subject.cls.__name__ if subject.cls else subject.name
    raise CheckFailed(
        "TypeError for an unknown keyword argument",
        f"{name}(env, {TYPO}=1) was built without a word",
        example=f"type(policy)(spaces, {TYPO}=1)",
    )


def _require_effect(subject: Subject, default: int) -> None:
    """If the attribute echoes the argument's default, it follows the argument too."""
    if rebuild(subject).hidden_size != default:
        return
    width: object
    try:
        width = rebuild(subject, arguments={"hidden_size": 2 * default}).hidden_size
    except Exception as error:
        width = error_line(error)
    if width != 2 * default:
        raise CheckFailed(
            f"hidden_size={2 * default} builds a policy of that width",
            f"hidden_size is {width}",
            example=f"print(type(policy)(spaces, hidden_size={2 * default}).hidden_size)",
        )


def _shared(one: nn.Module, other: nn.Module) -> list[str]:
    """Return the names of trained parameters that are one tensor in two builds."""
    places = {each.data_ptr() for each in other.parameters() if not is_lazy(each)}
    return [
        name
        for name, each in one.named_parameters()
        if each.requires_grad and not is_lazy(each) and each.numel() and each.data_ptr() in places
    ]


def _weights(policy: nn.Module) -> dict[str, Tensor]:
    return {
        name: each.detach()
        for name, each in (*policy.named_parameters(), *policy.named_buffers())
        if not is_lazy(each)
    }
