"""MLflow signature of the served model, and its input example."""

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array, Object, Property

REASON = Object(
    [
        Property("item_id", DataType.string),
        Property("contribution", DataType.double),
        Property("weight", DataType.double, required=False),
    ]
)
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, name) for name in ("user_id", "item_id", "datetime")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "user_id"),
            ColSpec(DataType.long, "rank"),
            ColSpec(DataType.string, "item_id"),
            ColSpec(DataType.double, "score"),
            ColSpec(DataType.string, "source"),
            ColSpec(Array(REASON), "reasons"),
            ColSpec(DataType.double, "explained_share", required=False),
            ColSpec(DataType.double, "other_events", required=False),
            ColSpec(DataType.double, "item_bias"),
        ]
    ),
    params=ParamSchema([ParamSpec("k", DataType.long, 10)]),
)

EXAMPLE = pd.DataFrame({"user_id": ["user-1"], "item_id": ["item-1"], "datetime": ["2026-01-01T00:00:00Z"]})
