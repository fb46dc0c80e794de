"""What an array that lives across steps can be, where its users must know."""

from __future__ import annotations

FIXED_SIZE_ROLES = ("conv", "recurrent")
"""States that are as large for a long sequence as for a short one, and are replaced in every step."""

OPEN_ENTRY = "open_entry"
"""What a compressor has of the tokens whose entry is not closed: no keys, and kept as precise as activations are."""

ENTRY_AXIS = "entry"
"""The logical axis of the rows of a cache that has one for every entry that tokens have been compressed to."""

STATE_ROLES = ("key_value_heads", "latent", "index_key", OPEN_ENTRY, *FIXED_SIZE_ROLES)
"""The roles of `layer.state`, see there."""
