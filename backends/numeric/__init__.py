"""Runs the IR on numpy arrays: the oracle that every lowering is held against."""
