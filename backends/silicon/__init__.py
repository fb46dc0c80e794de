"""Measured operator tables of real GPUs and physical models fitted to them; `database.PerfDatabase` answers queries."""
