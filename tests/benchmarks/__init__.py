"""Benchmarks of lepton_pipe beside its rivals: ``python -m tests.benchmarks --help``."""
