"""Many points of a model and a target in one go: what varies, what is compiled once, and the table of results."""
