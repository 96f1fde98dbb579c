"""The options of a run: frozen dataclasses whose types, limits and doc lines drive the parsing.

Names follow PufferLib and CleanRL where they have one. Each field has a line of text under it,
which `field_docs` reads from the source for ``--options``, so that an option is described in one
place only. The trainer uses every option; `puffer_policies.config.ini` lists keys of PufferLib's
that have no effect here.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from puffer_policies.config.values import Range, Refused, convert, type_text
from puffer_policies.errors import (
    MAX_PROBLEMS,
    BuildError,
    ConfigError,
    did_you_mean,
    joined,
    short,
)
from puffer_policies.registry.names import preset_name_offence, reference_offence
from puffer_policies.registry.specs import PolicySpec

Fraction = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 1, open=True)]
"""Torch's Adam refuses 1, with which a moving average would never move."""
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Auto = Literal["auto"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)
_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+|.*\.py(::.*)?")


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """A limit on text: it must be the name of a registered policy or wrapper, never an import path.

    A policy may also be a preset, or an expression such as ``LSTMWrapper(Default)``. A config or a
    checkpoint may come from a stranger: if it could say ``module:Class``, training by it would run
    code that the stranger chose. Whether the name exists is checked by the registry, later.
    """

    kind: Literal["policy", "wrapper"]

    def __str__(self) -> str:
        return f"that names a {self.kind}"

    def check(self, value: str) -> None:
        """Raise `Refused` for an import path and for text that can't be a name."""
        # Before the grammar of names, so that the error tells what to do instead.
        if _IMPORT_PATH.fullmatch(value):
            raise Refused(self._path_problem(value))
        if self.kind == "wrapper" and (offence := reference_offence(value)):
            raise Refused(f"{offence}.")
        if self.kind == "policy" and preset_name_offence(value.rpartition("/")[2]):
            _require_expression(value)

    def _path_problem(self, value: str) -> str:
        table = "policies" if self.kind == "policy" else "wrappers"
        return (
            f"{value!r} is an import path; a config names registered policies only. Register it in "
            f"registry.toml, under [{table}.NAME] with target = ..., and write NAME here."
        )


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A limit on text: it must name a device that the trainer runs on.

    Torch knows more devices, among them "meta", which computes nothing. Whether this machine has
    the device is asked where torch is imported.
    """

    def __str__(self) -> str:
        return "that is cpu, cuda, cuda:N or auto"

    def check(self, value: str) -> None:
        """Raise `ValueError` for any other text."""
        if not _DEVICE.fullmatch(value):
            hint = " Write cuda for a GPU." if value.lower().startswith("gpu") else ""
            raise ValueError(f"expected cpu, cuda, cuda:N or auto, found {short(value)}.{hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a config, whose values are checked and converted when it is constructed."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        for key, value in _converted(type(self), values).items():
            object.__setattr__(self, key, value)  # the dataclass is frozen

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the section from a mapping such as PufferLib's ``args["train"]``, parsing text.

        Raises:
            ConfigError: unknown keys and wrong values, all of them in one error.
        """
        return cls(**_converted(cls, values))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig(Section):
    """The env, the policy and its wrapper."""

    section: ClassVar[str] = "base"

    env_name: str
    """A gymnasium id, or the name of one of our configs."""
    policy_name: Annotated[str, RegisteredName("policy")] = "Default"
    """A registered policy, or an expression such as ``LSTMWrapper(Default)``."""
    rnn_name: Annotated[str, RegisteredName("wrapper")] | None = None
    """A registered wrapper to put around the policy, or None."""
    package: str | None = None
    """Module of the policy and the env in PufferLib's files; ``--import`` imports it, no config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VecConfig(Section):
    """The number of envs, and how they run."""

    section: ClassVar[str] = "vec"

    num_envs: Count = 8
    """Number of envs, which are stepped together."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """native (the env's own vector class), sync, async, envpool, or auto: native, else sync."""
    timeout: NonNegative = 0.0
    """Seconds that a step or reset of the envs may take; the error names the env. 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Section):
    """PPO's options. Defaults are those of CleanRL's ppo.py where no other source is named."""

    section: ClassVar[str] = "train"

    env: str = ""
    """Name of the env in logs and folders, which PufferLib keeps among the trainer's options."""
    seed: Seed = 1
    """Seed of torch, NumPy and the envs."""
    torch_deterministic: bool = True
    """Whether torch must use deterministic algorithms."""
    device: Annotated[str, DeviceName()] = "auto"
    """cpu, cuda, cuda:N, or auto: CUDA if it is available."""
    num_threads: Annotated[int, Range(1, 1024)] = 1
    """CPU threads of torch; one is fastest for small policies, more help large LSTMs and CNNs."""
    total_timesteps: Count = 500_000
    """Env steps of the whole run, over all envs."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam, or muon (Muon for hidden matrices, Adam for the rest), which needs torch 2.9."""
    learning_rate: NonNegative = 2.5e-4
    """Learning rate of the optimizer at the start of the run."""
    anneal_lr: bool = True
    """Whether the learning rate decays to 0 over the run."""
    lr_schedule: Literal["linear", "cosine"] = "linear"
    """How it decays: linear as in CleanRL, or cosine as in PufferLib (arXiv:1608.03983)."""
    gamma: Fraction = 0.99
    """Discount factor of future rewards."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalized advantage estimation (arXiv:1506.02438)."""
    vtrace_rho_clip: NonNegative | None = None
    """V-trace's clip of each step's importance ratio (PufferLib: 1). If both are None: GAE."""
    vtrace_c_clip: NonNegative | None = None
    """V-trace's clip of the ratios along the trace (arXiv:1802.01561). If only one is None: 1."""
    scale_rewards: bool = True
    """Whether rewards are divided by the running std of returns, as in baselines' VecNormalize."""
    normalize_observations: bool = False
    """Whether observations are normalized by a wrapper right around the policy, inside others."""
    bptt_horizon: Count = 128
    """Steps of a rollout, and of the segments for backpropagation through time."""
    batch_size: Count | Auto = "auto"
    """Steps collected before each update, over all envs; auto: agents x bptt_horizon."""
    minibatch_size: Count | Auto = "auto"
    """Steps in each minibatch; auto: a quarter of batch_size."""
    max_minibatch_size: Count | None = None
    """Steps in memory at once; gradients of larger minibatches are accumulated. None: all."""
    update_epochs: Count = 4
    """Passes over each batch."""
    prio_alpha: NonNegative = 0.0
    """Sample segments by their sum of |advantage| to this power (PufferLib: 0.8). 0: each once."""
    prio_beta0: Fraction = 0.2
    """Initial correction of that bias by importance weights, rising to 1 (arXiv:1511.05952)."""
    norm_adv: bool = True
    """Whether advantages are normalized in each minibatch."""
    clip_coef: NonNegative = 0.2
    """Clip range of PPO's probability ratio."""
    anneal_clip: bool = False
    """Whether clip_coef decays linearly to 0 over the run, as rl-zoo3's ``lin_`` schedules."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss."""
    clip_vloss: bool = False
    """Whether the value loss is clipped; off as in stable-baselines3."""
    vf_clip_coef: NonNegative = 0.2
    """Clip range of the value loss, if clip_vloss is set."""
    ent_coef: NonNegative = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: NonNegative = 0.5
    """Maximum norm of the gradient; larger gradients are scaled down."""
    adam_beta1: Decay = 0.9
    """Decay of Adam's first moment, and Muon's momentum (PufferLib: 0.95)."""
    adam_beta2: Decay = 0.999
    """Decay of Adam's second moment."""
    adam_eps: NonNegative = 1e-5
    """Adam's epsilon."""
    target_kl: NonNegative | None = None
    """Stop an update's epochs when the approximate KL divergence exceeds this. None: never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the policy's matrix products; bfloat16 is autocast, losses stay float32."""
    compile: bool = False
    """Whether to use torch.compile, which costs seconds at the start and makes steps faster."""
    compile_mode: CompileMode = "default"
    """Mode of torch.compile."""
    cuda_graphs: bool | Auto = "auto"
    """Whether CUDA graphs replay acting and updates; auto: on a GPU, if a trial agrees."""
    use_rnn: bool | None = None
    """Whether the policy is recurrent; None asks the policy. A contradiction is an error."""
    alarm_interval: Annotated[int, Range(0)] = 25
    """Updates between checks of the training's health, each about two gradient steps. 0: never."""
    checkpoint_interval: Annotated[int, Range(0)] = 50
    """Updates between checkpoints. 0: only at the end."""
    data_dir: str = "runs"
    """Folder in which each run creates its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Section):
    """How a policy is evaluated."""

    section: ClassVar[str] = "eval"

    episodes: Annotated[int, Range(1, 1_000_000)] = 100
    """Episodes to play."""
    deterministic: bool = True
    """Whether the most likely action is taken, instead of a sampled one."""
    seed: Seed = 10_000
    """Seed of the evaluation's envs, different from that of training."""
    max_steps: Count = 100_000
    """Steps of each env after which the evaluation stops, even with unfinished episodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig(Section):
    """Where metrics go besides the run's metrics.jsonl."""

    section: ClassVar[str] = "log"

    tensorboard: bool = False
    """Whether to write TensorBoard event files into the run's folder."""
    wandb: str | None = None
    """Project of Weights & Biases to log to, or None."""


SECTIONS: dict[str, type[Section]] = {
    each.section: each for each in (BaseConfig, VecConfig, TrainConfig, EvalConfig, LogConfig)
}
"""Sections whose keys are known, by name."""

FREE_SECTIONS = ("env", "policy", "rnn")
"""Sections that hold the keyword arguments of the env, the policy and the wrapper."""


OTHER_NAMES: dict[str, tuple[str, str]] = {
    "env_id": ("base", "env_name"),
    "n_envs": ("vec", "num_envs"),
    "lr": ("train", "learning_rate"),
    "steps": ("train", "total_timesteps"),
    "total_steps": ("train", "total_timesteps"),
    "n_steps": ("train", "bptt_horizon"),
    "num_steps": ("train", "bptt_horizon"),
    "n_epochs": ("train", "update_epochs"),
    "clip_range": ("train", "clip_coef"),
    "entropy_coef": ("train", "ent_coef"),
    "value_coef": ("train", "vf_coef"),
    "use_cuda": ("train", "device"),
    "cuda": ("train", "device"),
}
"""Names of other libraries and short forms -> our option, for hints alone."""


def field_docs(cls: type[Section]) -> dict[str, str]:
    """Return the line of text under each field of a section, by field name."""
    # From the source: Python keeps no docstrings of fields, and the text should stand once.
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    (definition,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: ast.literal_eval(below.value)
        for field, below in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def field_types(cls: type[Section]) -> Mapping[str, Any]:
    """Return the annotation of each field of a section, including limits."""
    return _all_field_types()[cls]


@cache
def _all_field_types() -> dict[type[Section], dict[str, Any]]:
    # Cached: evaluating annotations is slow, and every key that is read needs them.
    hints = {cls: get_type_hints(cls, include_extras=True) for cls in SECTIONS.values()}
    return {cls: {each.name: hints[cls][each.name] for each in fields(cls)} for cls in hints}


def field_defaults(cls: type[Section]) -> dict[str, Any]:
    """Return the default of each field that has one."""
    return {each.name: each.default for each in fields(cls) if each.default is not MISSING}


@dataclass(frozen=True, slots=True)
class Option:
    """An option as ``--options`` and the documentation show it."""

    flag: str
    """``--train.learning-rate``; without the section for [base]."""
    type: str
    default: Any
    """None also if the option has no default."""
    doc: str
    section: str
    key: str


def options() -> list[Option]:
    """Return every option of the sections whose keys are known, in the order of the source."""
    return [
        Option(
            flag_of(section, key), type_text(annotation), defaults.get(key), docs[key], section, key
        )
        for section, cls in SECTIONS.items()
        for docs, defaults in [(field_docs(cls), field_defaults(cls))]
        for key, annotation in field_types(cls).items()
    ]


def flag_of(section: str, key: str) -> str:
    """Return the command-line flag of an option."""
    prefix = "" if section == BaseConfig.section else f"{section}."
    return f"--{prefix}{key}".replace("_", "-")


def _converted(cls: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    types = field_types(cls)
    converted: dict[str, Any] = {}
    # All wrong values are reported together, so that they can be mended in one go.
    offences, unknown = [], 0
    for key, value in values.items():
        if key not in types:
            unknown += 1
            hint = did_you_mean(str(key), types) if unknown <= MAX_PROBLEMS else ""
            offences.append(f"{cls.section}.{key}: no such key. {hint}".rstrip())
            continue
        try:
            converted[key] = convert(value, types[key])
        except ValueError as error:
            offences.append(f"{cls.section}.{key}: {error}")
    if offences:
        fix = f"Keys of {cls.section!r}: {', '.join(types)}." if unknown else ""
        raise ConfigError(joined(offences), fix=fix)
    return converted


def _require_expression(value: str) -> None:
    try:
        PolicySpec.parse(value)
    except BuildError as error:
        raise Refused(str(error).replace("\n", " ")) from error
