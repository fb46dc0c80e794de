"""How each family of tensor ops is tiled: its plans, its loop nest and its buffers, one module per family."""
