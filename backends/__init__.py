"""What interprets IR: numeric semantics, cost models, evaluation and reports."""
