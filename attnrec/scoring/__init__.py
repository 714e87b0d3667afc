"""Scoring: the top-k items of every user, with scores and reasons."""

from attnrec.scoring.recommendations import Recommendations, ScoreConfig, recommend

__all__ = ["Recommendations", "ScoreConfig", "recommend"]
