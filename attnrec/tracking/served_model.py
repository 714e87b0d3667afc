"""MLflow pyfunc model (models from code): recommendations with reasons from a frame of interactions.

Input: user_id, item_id, datetime (text or timestamps) of any number of users. Output: user_id, rank, item_id, score,
source, reasons, explained_share, other_events, item_bias. Parameter: `k`, the number of items per user. The attnrec
package is logged with the model and need not be installed where the model is served.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Pyfunc wrapper of a model folder."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder from the artifacts of the logged model."""
        from attnrec.recommender import load_folder

        self.recommender = load_folder(context.artifacts["model_dir"])

    def predict(self, context: PythonModelContext, model_input, params: dict[str, Any] | None = None):  # pyright: ignore
        """Recommend k items to every user of the frame; items that the model was not trained on are ignored."""
        frame = model_input.assign(datetime=pd.to_datetime(model_input["datetime"], utc=True, format="ISO8601"))
        recommendations = self.recommender.with_histories(frame).recommend(k=(params or {}).get("k", 10))
        types = dict.fromkeys(("score", "explained_share", "other_events", "item_bias"), "float64")
        return recommendations.astype(types | {"user_id": str, "item_id": str})


set_model(ServedModel())
