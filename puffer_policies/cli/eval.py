"""The verb eval: a checkpoint plays episodes, and may be filmed."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

from puffer_policies.cli.checkpoint_arguments import add_checkpoint_arguments, location_of
from puffer_policies.cli.main import FAILED
from puffer_policies.cli.numbers import count, seed
from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.cli.parser import text
from puffer_policies.streams import write_note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint, and how it plays."""
    as_in_training = "(default: as in the run's final evaluation)"
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--episodes", type=count, metavar="N", help=f"episodes to play {as_in_training}"
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help=f"seed of the environments {as_in_training}"
    )
    parser.add_argument(
        "--max-steps",
        type=count,
        metavar="N",
        help="stop each environment after this many steps, even in the middle of an episode",
    )
    parser.add_argument(
        "--stochastic",
        action="store_true",
        help="sample the actions, instead of taking the most likely one",
    )
    parser.add_argument(
        "--video", type=text, metavar="FILE", help="also record a video, as .mp4 or .gif"
    )
    parser.add_argument(
        "--video-episodes",
        type=count,
        default=1,
        metavar="N",
        help="episodes in the video (default: 1)",
    )


def run(options: argparse.Namespace) -> int:
    """Play with a checkpoint and print the returns; 2 if something failed beside them."""
    from puffer_policies.runs.display import Progress
    from puffer_policies.runs.evaluate import evaluate_config, load_trained_policy  # torch
    from puffer_policies.runs.video import record_video, require_video

    # Checked first: a wrong path should not be found after minutes of playing.
    if options.video is not None:
        require_video(options.video)
        # Pictures need no screen; without one SDL, with which gymnasium draws, complains.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    trained = load_trained_policy(
        location_of(options), overrides=_overrides(options), best=options.best
    )
    policy, config = trained.policy, trained.config
    progress = Progress(config.train.total_timesteps, config.base.env_name, write_note)
    watch = partial(progress.evaluation, total=config.eval.episodes)
    failures: list[str] = []
    evaluation = evaluate_config(policy, config, watch=watch, failures=failures)
    data, fields = evaluation.to_dict(), list(evaluation.fields().items())
    try:
        if options.video is not None:
            video = record_video(policy, config, options.video, episodes=options.video_episodes)
            data["video"] = video.to_dict()
            fields.append(("video", str(video)))
    finally:
        # With a video or without one, the returns are there.
        if options.json:
            print_json(data)
        else:
            print_fields(fields)
    return FAILED if failures else 0


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags change of the [eval] section."""
    # Only flags that were given: the others must not replace what the run was trained with.
    flags = {key: getattr(options, key) for key in ("episodes", "seed", "max_steps")}
    overrides = {key: value for key, value in flags.items() if value is not None}
    return {**overrides, "deterministic": False} if options.stochastic else overrides
