"""Preset models, chips, topologies and deployments: data only."""
