"""Stages: one file per stage, with its output and its stage key. No Prefect, no printing."""
