"""Where experts are placed on the cores of a stacked chip: the problem, the heuristic and the exact search."""
