"""The driver: command line, configuration, frontends, named pipelines and the public API."""
