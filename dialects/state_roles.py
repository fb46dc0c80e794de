"""What an array that lives across steps can be, where its users must know."""

from __future__ import annotations

FIXED_SIZE_ROLES = ("conv", "recurrent")
"""States that are as large for a long sequence as for a short one, and are replaced in every step."""

STATE_ROLES = ("key_value_heads", "latent", "index_key", *FIXED_SIZE_ROLES)
"""The roles of `layer.state`, see there."""
