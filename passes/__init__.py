"""Rewrites and lowerings from one dialect to the next, one file per pass."""
