"""Evaluation: full-catalogue ranking metrics, model comparison, user segments and the promotion rule."""

from attnrec.evaluation.evaluator import EvaluateConfig, Evaluation, evaluate

__all__ = ["EvaluateConfig", "Evaluation", "evaluate"]
