"""Prefect flows around attnrec: one file per stage."""
