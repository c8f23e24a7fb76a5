"""Errors that a user can mend. The command line prints them as one line, without a traceback."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Base of all: the message names the file or key, what was found, what was expected and the remedy."""


class ConfigError(UserError):
    """A configuration file or override that cannot be used."""


class DatasetError(UserError):
    """A dataset folder, JSON, image or label that cannot be used."""


class CheckpointError(UserError):
    """A weights file that is missing, damaged or does not fit."""


class OutOfMemoryError(UserError):
    """More memory was needed than the device has; the message says for what, and what needs less."""


def one_line(error: BaseException) -> str:
    """The message without line breaks, and without the traceback that a data loader's worker puts around it."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        pattern = rf"^(?:[\w.]*\.)?{type(error).__name__}: "
        text = re.split(pattern, text, flags=re.MULTILINE)[-1]
    return " ".join(text.split())
