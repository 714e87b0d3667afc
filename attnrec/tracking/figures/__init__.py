"""Matplotlib figures for MLflow runs and notebooks; no module of this package imports mlflow."""
