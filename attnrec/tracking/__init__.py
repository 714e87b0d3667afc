"""MLflow tracking: runs, the model registry, the served model, and the figures and examples that a run logs."""
