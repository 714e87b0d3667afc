"""MLflow: runs, the model registry, the served model, and the figures that a run logs."""
