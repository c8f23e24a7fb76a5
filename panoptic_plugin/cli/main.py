"""The ``panoptic`` command: one name, a subcommand a task."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# name: (module, what it does). Modules are imported only when called, so that `panoptic --help` is instant.
COMMANDS = {
    "quickstart": ("panoptic_plugin.cli.quickstart", "generate scenes, train, evaluate and draw results, in minutes"),
    "train": ("panoptic_plugin.cli.train", "train or evaluate a model from a config file"),
    "evaluate": ("panoptic_plugin.cli.evaluate", "score predictions that are on disk, or predict and score"),
    "demo": ("panoptic_plugin.cli.demo", "draw the panoptic segmentation of images, videos and a camera"),
    "benchmark": ("panoptic_plugin.cli.benchmark", "time each stage of a config, from decoding to evaluation"),
    "report": ("panoptic_plugin.cli.report", "one page about one or several runs: curves, scores, images, time"),
    "tune": ("panoptic_plugin.cli.tune", "tune loss weights and post-processing on a split of the training set"),
    "joint-chain": ("panoptic_plugin.cli.joint_chain", "train the joint network's experiments on generated scenes"),
    "convert-weights": ("panoptic_plugin.cli.convert_weights", "turn ImageNet checkpoints into backbone weights"),
    "data": ("panoptic_plugin.cli.data", "validate, convert, prepare, subset, split, show and synthesize datasets"),
}


def usage() -> str:
    """The text of ``panoptic --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: panoptic COMMAND [OPTIONS]",
            "",
            "Panoptic segmentation on Detectron2.",
            "",
            "commands:",
            *lines,
            "",
            "'panoptic COMMAND --help' lists the options of one.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; returns its exit code, 2 for a usage error."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0 if words else 2
    if words[0] == "--version":
        from panoptic_plugin.version import __version__

        sys.stdout.write(f"panoptic_plugin {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        from panoptic_plugin.registry import suggestion

        sys.stderr.write(f"error: there is no command {words[0]!r}. {suggestion(words[0], list(COMMANDS))}\n")
        return 2
    module = importlib.import_module(COMMANDS[words[0]][0])
    sys.argv[0] = f"panoptic {words[0]}"
    return int(module.main(words[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
