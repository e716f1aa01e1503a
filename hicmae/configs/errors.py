"""The errors a person is meant to read."""

__all__ = ["ConfigError", "Continuable", "UserError"]


class UserError(Exception):
    """Something the user can mend; the message names the culprit and the remedy, the command line prints it alone."""


class ConfigError(UserError, ValueError):
    """A recipe or an option that cannot be used; the message names the dotted path and the alternatives."""


class Continuable(UserError):
    """A run ended before its end, through no mistake: the same command continues it (exit code 75)."""
