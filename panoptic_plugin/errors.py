"""Errors that a user can mend. The command line prints them as one line, without a traceback."""


class UserError(ValueError):
    """Base of all: the message names the file or key, what was found, what was expected and the remedy."""


class ConfigError(UserError):
    """A configuration file or override that cannot be used."""


class DatasetError(UserError):
    """A dataset folder, JSON, image or label that cannot be used."""


class CheckpointError(UserError):
    """A weights file that is missing, damaged or does not fit."""
