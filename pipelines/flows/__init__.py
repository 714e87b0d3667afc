"""Prefect flows: one file per flow, whose body lists the steps."""
