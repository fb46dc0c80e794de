"""Requests that arrive, wait and are served by steps of a program: times of steps, a simulation, a closed form."""
