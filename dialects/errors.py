"""The one base class of errors that a user of pmc can cause."""


class PmcError(Exception):
    """Bad input.  The message is one line: what is wrong, where, and what would be right."""
