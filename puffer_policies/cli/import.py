"""The verb import: PufferLib 5's file of weights becomes a checkpoint."""

from __future__ import annotations

import argparse

from puffer_policies.cli.numbers import count
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.files import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the file, what it does not say of itself, and the checkpoint."""
    as_in_pufferlib = "of PufferLib's [policy] section"
    parser.add_argument("file", metavar="FILE", help="a .bin that PufferLib 5 wrote")
    parser.add_argument(
        "--env", type=text, metavar="ENV", required=True, help="the environment that it plays"
    )
    parser.add_argument(
        "--hidden-size",
        type=count,
        default=128,
        metavar="N",
        help=f"hidden_size {as_in_pufferlib} (default: 128)",
    )
    parser.add_argument(
        "--num-layers",
        type=count,
        default=4,
        metavar="N",
        help=f"num_layers {as_in_pufferlib} (default: 4)",
    )
    parser.add_argument(
        "--float",
        action="store_true",
        help="the file is of PufferLib's float build, whose tensors lie closer together",
    )
    parser.add_argument(
        "--masked", action="store_true", help="put an ActionMaskWrapper around the policy"
    )
    parser.add_argument(
        "--output",
        "-o",
        type=text,
        metavar="FILE",
        help="the checkpoint (default: beside the file, as .safetensors)",
    )


def run(options: argparse.Namespace) -> int:
    """Write a checkpoint of the policy, with which every other verb works, and print its path."""
    from puffer_policies.assembly.checkpoint import save_checkpoint  # torch
    from puffer_policies.config.config import Config
    from puffer_policies.export.flatfile import DEFAULT, FLOAT, read_puffer
    from puffer_policies.spaces import spaces_of

    path = user_path(options.file)
    output = path.with_suffix(".safetensors") if options.output is None else options.output
    spaces = spaces_of(options.env)
    policy = read_puffer(
        path,
        spaces,
        hidden_size=options.hidden_size,
        num_layers=options.num_layers,
        alignment=FLOAT if options.float else DEFAULT,
        masked=options.masked,
    )
    config = Config.from_args({"env_name": options.env, "policy_name": str(policy.spec)})
    saved = save_checkpoint(user_path(output), policy, env=spaces, config=config.to_args())
    if options.json:
        print_json({"path": str(saved), "policy": str(policy.spec)})
    else:
        commands = f"puffer-policies eval {saved}"
        print_fields([("policy", str(policy.spec)), ("file", str(saved)), ("play", commands)])
    return 0
