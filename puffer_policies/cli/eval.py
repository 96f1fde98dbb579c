"""The verb eval: a checkpoint plays, and may be filmed."""

from __future__ import annotations

import argparse
import os
from typing import Any

from puffer_policies.cli.output import print_fields, print_json
from puffer_policies.runs.evaluate import evaluate_config, restore
from puffer_policies.runs.video import record_video, require_video


def run_eval(options: argparse.Namespace) -> int:
    """Replay a checkpoint and print what it reached."""
    if options.video is not None:
        require_video(options.video)
        # Pictures need no screen; without one SDL, with which gymnasium draws, complains.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    trained = restore(options.checkpoint, overrides=_overrides(options), best=options.best)
    policy, config = trained.policy, trained.config
    evaluation = evaluate_config(policy, config)
    data, fields = evaluation.to_dict(), list(evaluation.described().items())
    if options.video is not None:
        video = record_video(policy, config, options.video, episodes=options.video_episodes)
        data["video"] = video.to_dict()
        fields.append(("video", str(video)))
    if options.json:
        print_json(data)
    else:
        print_fields(fields)
    return 0


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags change of the [eval] section."""
    given = {key: getattr(options, key) for key in ("episodes", "seed", "max_steps")}
    overrides = {key: value for key, value in given.items() if value is not None}
    return {**overrides, "deterministic": False} if options.stochastic else overrides
