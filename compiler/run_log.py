"""The log of a thermal run in its folder."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

LOG = logging.getLogger("pmc.thermal")


@contextmanager
def log_file(path: Path, append: bool = False) -> Generator[None]:
    """Send what `pmc.thermal` logs to a file, without times, so that two runs write the same bytes."""
    handler = logging.FileHandler(path, "a" if append else "w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    before = LOG.level
    LOG.setLevel(logging.DEBUG)
    LOG.addHandler(handler)
    try:
        yield
    except Exception as error:
        LOG.error("stopped: %s", error)
        raise
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)
        handler.close()
