"""Matplotlib figures for MLflow runs and notebooks. Nothing here imports mlflow."""
