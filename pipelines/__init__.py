"""Finished pipelines, run by name: ``lepton-pipe run nuclei raw=... out=...``."""
