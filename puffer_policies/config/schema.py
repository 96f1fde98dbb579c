"""The options of a run: frozen dataclasses whose types, limits and doc lines drive the parsing.

Names are PufferLib's and CleanRL's wherever they have one. A line of text stands under each field;
`field_docs` reads it from the source for ``--help``, so an option is described in one place only.
Every option is read by the trainer; `puffer_policies.config.ini` names those that are not.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from puffer_policies.config.values import Range, Refused, convert, type_text
from puffer_policies.errors import BuildError, ConfigError, did_you_mean
from puffer_policies.registry.names import preset_name_offence, reference_offence
from puffer_policies.registry.specs import PolicySpec

Fraction = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Auto = Literal["auto"]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

_IMPORT_PATH = re.compile(r"[\w.]+:[\w.]+|.*\.py(::.*)?")


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """Text that may stand for a registered policy or wrapper: ``Annotated[str, RegisteredName]``.

    A policy may also be a preset, or an expression such as ``LSTMWrapper(Default)``.
    """

    kind: Literal["policy", "wrapper"]

    def __str__(self) -> str:
        return f"that names a {self.kind}"

    def check(self, value: str) -> None:
        """Raise `Refused` for an import path and for what is no name at all."""
        if _IMPORT_PATH.fullmatch(value):
            raise Refused(self._not_a_path(value))
        if self.kind == "wrapper" and (offence := reference_offence(value)):
            raise Refused(f"{offence}.")
        if self.kind == "policy" and preset_name_offence(value.rpartition("/")[2]):
            _require_expression(value)

    def _not_a_path(self, value: str) -> str:
        table = "policies" if self.kind == "policy" else "wrappers"
        return (
            f"{value!r} is an import path; a config names registered policies only. Register it in "
            f"registry.toml, under [{table}.NAME] with target = ..., and write NAME here."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section of a config: checked when made, and readable from a mapping."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        for key, value in _checked(type(self), given).items():
            object.__setattr__(self, key, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the section from a mapping such as PufferLib's ``args["train"]``; text is parsed.

        Raises:
            ConfigError: unknown keys and wrong values, all of them in one error.
        """
        return cls(**_checked(cls, values))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig(Section):
    """What is trained on what."""

    section: ClassVar[str] = "base"

    env_name: str
    """A gymnasium id, or the name of one of our configs."""
    policy_name: Annotated[str, RegisteredName("policy")] = "Default"
    """A registered policy, or an expression such as ``LSTMWrapper(Default)``."""
    rnn_name: Annotated[str, RegisteredName("wrapper")] | None = None
    """A registered wrapper to put around the policy, or None."""
    package: str | None = None
    """Where PufferLib's files say that the env lives: kept and shown, never imported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VecConfig(Section):
    """How many envs run, and how."""

    section: ClassVar[str] = "vec"

    num_envs: Count = 8
    """Envs stepped together."""
    vectorization: Literal["auto", "native", "sync", "async", "envpool"] = "auto"
    """native (the env's own vector class), sync, async or envpool; auto: native, else sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Section):
    """PPO's options. Defaults are those of CleanRL's ppo.py where no other source is named."""

    section: ClassVar[str] = "train"

    env: str = ""
    """Name of the env in logs and folders; PufferLib's trainer is given it among these options."""
    seed: Seed = 1
    """Seed of torch, NumPy and the envs."""
    torch_deterministic: bool = True
    """Whether torch must use deterministic algorithms."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    num_threads: Count = 1
    """CPU threads of torch: one is fastest for small policies, more pay for big LSTMs and CNNs."""
    total_timesteps: Count = 500_000
    """Env steps of the whole run, over all envs."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam, or muon: Muon for hidden matrices, Adam for the rest; needs torch 2.9."""
    learning_rate: NonNegative = 2.5e-4
    """Step size of the optimiser, at the start of the run."""
    anneal_lr: bool = True
    """Whether the learning rate falls to 0 over the run."""
    lr_schedule: Literal["linear", "cosine"] = "linear"
    """How it falls: linear as in CleanRL, cosine as in PufferLib (arXiv:1608.03983)."""
    gamma: Fraction = 0.99
    """Discount of future rewards."""
    gae_lambda: Fraction = 0.95
    """Lambda of generalised advantage estimation (arXiv:1506.02438)."""
    vtrace_rho_clip: NonNegative | None = None
    """V-trace's clip of a step's importance ratio (PufferLib: 1); both clips None: GAE."""
    vtrace_c_clip: NonNegative | None = None
    """V-trace's clip of the ratio along the trace (arXiv:1802.01561); only one None: 1."""
    scale_rewards: bool = True
    """Whether rewards are divided by the running deviation of returns (baselines' VecNormalize)."""
    normalize_observations: bool = False
    """Whether a NormalizeObservationWrapper is put right around the policy, inside its wrappers."""
    bptt_horizon: Count = 128
    """Steps of a rollout, and of the segments through which gradients flow back in time."""
    batch_size: Count | Auto = "auto"
    """Steps collected before each update, over all envs; auto: agents * bptt_horizon."""
    minibatch_size: Count | Auto = "auto"
    """Steps of one gradient step; auto: a quarter of batch_size."""
    max_minibatch_size: Count | None = None
    """Steps held in memory at once: gradients of more are added up piece by piece; None: all."""
    update_epochs: Count = 4
    """Passes over each batch."""
    prio_alpha: NonNegative = 0.0
    """Draw segments by their sum of |advantage| to this power (PufferLib: 0.8); 0: each once."""
    prio_beta0: Fraction = 0.2
    """Share of that bias made up for by weights, at first; it rises to 1 (arXiv:1511.05952)."""
    norm_adv: bool = True
    """Whether advantages are normalised in each minibatch."""
    clip_coef: NonNegative = 0.2
    """PPO's clip range of the probability ratio."""
    anneal_clip: bool = False
    """Whether clip_coef falls linearly to 0 over the run, as in rl-zoo3's ``lin_`` schedules."""
    vf_coef: NonNegative = 0.5
    """Weight of the value loss."""
    clip_vloss: bool = False
    """Whether the value loss is clipped; off, as in stable-baselines3."""
    vf_clip_coef: NonNegative = 0.2
    """Clip range of the value loss, where clip_vloss is set."""
    ent_coef: NonNegative = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: NonNegative = 0.5
    """Largest norm of the gradient; longer gradients are scaled down."""
    adam_beta1: Fraction = 0.9
    """Decay of Adam's mean, and Muon's momentum (PufferLib: 0.95)."""
    adam_beta2: Fraction = 0.999
    """Decay of Adam's variance."""
    adam_eps: NonNegative = 1e-5
    """Adam's epsilon."""
    target_kl: NonNegative | None = None
    """Stop an update's epochs once the approximate KL divergence exceeds this; None: never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the policy's matrix products; bfloat16 is autocast, and losses stay float32."""
    compile: bool = False
    """Whether torch.compile compiles the policy: seconds at the start for faster steps."""
    compile_mode: CompileMode = "default"
    """torch.compile's mode."""
    use_rnn: bool | None = None
    """Whether the policy is recurrent; None: ask the policy. A contradiction is an error."""
    alarm_interval: Annotated[int, Range(0)] = 25
    """Updates between looks at the health of training, about two gradient steps each; 0: never."""
    checkpoint_interval: Annotated[int, Range(0)] = 50
    """Updates between checkpoints; 0: only the last one."""
    data_dir: str = "runs"
    """Folder that receives a folder for each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Section):
    """How a policy is evaluated."""

    section: ClassVar[str] = "eval"

    episodes: Count = 100
    """Episodes to play."""
    deterministic: bool = True
    """Whether the likeliest action is taken instead of a sampled one."""
    seed: Seed = 10_000
    """Seed of the evaluation's envs, apart from those of training."""
    max_steps: Count = 100_000
    """Steps of each env after which the evaluation ends, its last episodes unfinished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig(Section):
    """Where a run's measurements go, besides the lines of JSON in its folder."""

    section: ClassVar[str] = "log"

    tensorboard: bool = False
    """Whether TensorBoard's event files are written into the run's folder."""
    wandb: str | None = None
    """Project of Weights & Biases to send to; None: nothing is sent."""


SECTIONS: dict[str, type[Section]] = {
    each.section: each for each in (BaseConfig, VecConfig, TrainConfig, EvalConfig, LogConfig)
}
"""Sections whose keys are known, by name."""

FREE_SECTIONS = ("env", "policy", "rnn")
"""Sections that hold the keyword arguments of the env, the policy and the wrapper."""


def field_docs(cls: type[Section]) -> dict[str, str]:
    """Return the line of text under each field of a section, by field name."""
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


def field_types(cls: type[Section]) -> dict[str, Any]:
    """Return the annotation of each field of a section, limits included."""
    hints = get_type_hints(cls, include_extras=True)
    return {each.name: hints[each.name] for each in fields(cls)}


def field_defaults(cls: type[Section]) -> dict[str, Any]:
    """Return the default of each field that has one."""
    return {each.name: each.default for each in fields(cls) if each.default is not MISSING}


@dataclass(frozen=True, slots=True)
class Option:
    """An option as ``--help`` and the documentation show it."""

    flag: str
    """``--train.learning-rate``; those of [base] stand without their section."""
    type: str
    default: Any
    """None also where there is no default."""
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


def _checked(cls: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    types = field_types(cls)
    converted: dict[str, Any] = {}
    offences = []
    for key, value in values.items():
        try:
            if key not in types:
                raise ValueError(f"no such key. {did_you_mean(key, types)}".rstrip())
            converted[key] = convert(value, types[key])
        except ValueError as error:
            offences.append(f"{cls.section}.{key}: {error}")
    if offences:
        raise ConfigError("\n".join(offences), fix=f"Keys of {cls.section!r}: {', '.join(types)}.")
    return converted


def _require_expression(value: str) -> None:
    try:
        PolicySpec.parse(value)
    except BuildError as error:
        raise Refused(str(error).replace("\n", " ")) from error
