"""The model-from-code file that MLflow runs: recommendations with reasons from a frame of interactions.

In: user_id, item_id, datetime (text or timestamps), any number of users. Out: user_id, rank, item_id, score, source,
reasons, explained_share, other_events, item_bias. Parameter `k`. It is logged together with the attnrec package, which need not be
installed.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """A pyfunc around a model folder."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model folder that was logged with the model."""
        from attnrec.recommender import load_folder

        self.recommender = load_folder(context.artifacts["model_dir"])

    def predict(self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None):  # pyright: ignore
        """The k best items of every user in the frame; unknown items in it are ignored."""
        frame = model_input.assign(datetime=pd.to_datetime(model_input["datetime"], utc=True, format="ISO8601"))
        found = self.recommender.with_histories(frame).recommend(k=(params or {}).get("k", 10))
        for name in ("user_id", "item_id"):
            found[name] = found[name].astype(str)
        return found.astype(dict.fromkeys(("score", "explained_share", "other_events", "item_bias"), "float64"))


set_model(ServedModel())
