"""Prefect flows: one file per flow; the body of a flow is the recipe."""
