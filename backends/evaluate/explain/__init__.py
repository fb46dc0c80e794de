"""Why a step takes what it takes: where the time goes, what binds every op, and what would have to change."""
