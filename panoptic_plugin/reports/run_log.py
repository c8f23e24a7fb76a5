"""What only the log of a run says: the environment, the command, and where the time went."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

LINE_START = re.compile(r"^\[\d\d/\d\d \d\d:\d\d:\d\d\] (\S+) ([A-Z]+): ")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
EVALUATION = re.compile(
    r"Inference done \d+/(?P<batches>\d+)\. Dataloading: (?P<data>[\d.]+) s/iter\. "
    r"Inference: (?P<inference>[\d.]+) s/iter\. Eval: (?P<evaluation>[\d.]+) s/iter"
)
TRAINING = re.compile(r"Total training time: ([\d:]+(?: day[s]?, [\d:]+)?|\d+ days?, [\d:]+)")
SPEED = re.compile(r"Overall training speed: (\d+) iterations in .* \(([\d.]+) s / it\)")
LARGEST = 64 * 1024 * 1024  # bytes read from the end of a log; those of long trainings are a few megabytes


@dataclass
class LogFacts:
    """What was found; empty where the log does not say.

    Attributes:
        environment: (name, value) rows.
        command: the words of the last command line.
        evaluation: seconds a batch of the last evaluation; keys data, inference, evaluation.
        training_time: "h:mm:ss" of the last training that ended.
        seconds_per_iteration: of that training.
        warnings, errors: the last few lines of that level, without time.
        interrupted: the last training started and did not end.
    """

    environment: list[tuple[str, str]] = field(default_factory=list)
    command: str = ""
    evaluation: dict[str, float] = field(default_factory=dict)
    training_time: str = ""
    seconds_per_iteration: float | None = None
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    interrupted: bool = False


def read_log(path: Path) -> LogFacts:
    """Facts of a log; of none at all where the file is not there."""
    if not path.is_file():
        return LogFacts()
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LARGEST))
        text = COLOR.sub("", file.read().decode("utf-8", errors="replace"))
    return log_facts(text.splitlines())


def log_facts(lines: list[str]) -> LogFacts:
    """Facts of a log's lines; where several jobs wrote into it, the last one that says something counts."""
    facts = LogFacts()
    in_environment = False
    for line in lines:
        start = LINE_START.match(line)
        if in_environment and not start:
            _add_environment(facts, line)
            continue
        in_environment = line.rstrip().endswith(" Environment:")
        if in_environment:
            facts.environment = []
        elif start:
            _read_line(facts, line[start.end() :], start.group(2))
    return facts


def _add_environment(facts: LogFacts, line: str) -> None:
    name, _, value = line.strip().partition("  ")
    if name and value.strip():
        facts.environment.append((name, value.strip()))


def _read_line(facts: LogFacts, message: str, level: str) -> None:
    if message.startswith("Command line: "):
        facts.command = message.removeprefix("Command line: ").strip()
    elif message.startswith("Starting training from iteration"):
        facts.interrupted = True
    elif found := EVALUATION.search(message):
        facts.evaluation = {name: float(found[name]) for name in ("data", "inference", "evaluation")}
    elif found := TRAINING.search(message):
        facts.training_time, facts.interrupted = found[1], False
    elif found := SPEED.search(message):
        facts.seconds_per_iteration = float(found[2])
    if level in ("WARNING", "ERROR", "CRITICAL"):
        kept = facts.warnings if level == "WARNING" else facts.errors
        kept.append(message.strip()[:300])
        del kept[:-8]
