"""Types, attributes, operations and verifiers, one file per dialect."""
