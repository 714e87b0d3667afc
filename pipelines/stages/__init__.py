"""Stages: one file per stage, what it makes and the key of its output. No Prefect, no printing."""
