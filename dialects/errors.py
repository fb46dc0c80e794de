"""The one base class of errors that a user of pmc can cause."""


class PmcError(Exception):
    """Bad input.  The message is one line: what is wrong, where, and what would be right."""


def excerpt(text: str, limit: int = 200) -> str:
    """`text` as a message quotes it: the middle of a long one is left out."""
    half = (limit - len(" .. ")) // 2
    return text if len(text) <= limit else f"{text[:half]} .. {text[-half:]}"
