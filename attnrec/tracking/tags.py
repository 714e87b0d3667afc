"""Names of the tags, artifacts and aliases that attnrec writes to MLflow."""

STAGE_KEY = "attnrec.stage_key"
"""Run and version: key of the stage that produced it."""

TRAIN_KEY = "attnrec.train_key"
"""Version: key of the training stage."""

INIT_KEY = "attnrec.init_key"
"""Version: the model that training started from, "" for none (see `pipeline.init`)."""

SPLIT_KEY = "attnrec.split_key"
"""Version: hash of the split and the filters, which decide the validation and test events."""

SERVED_STAGE = "attnrec.served_stage"
"""Version: folder name of the stage whose model is served."""

PROMOTED = "attnrec.promoted"
"""Version: whether it was promoted to champion, "true" or "false"."""

EXPERIMENT = "attnrec.experiment"
"""Version: name of the experiment that the model was trained for."""

ROLE = "attnrec.role"
"""Run: "model", "baseline" or "comparison"."""

COMPARISON = "attnrec.comparison"
"""Run: the comparison it belongs to."""

DATA = "attnrec.data"
"""Run: content hash of the log."""

MACHINE = "attnrec.machine"
"""Run: processor architecture, number of cores and GPU."""

RECORDED = "attnrec.recorded"
"""Run: the evaluation stages whose results it contains."""

UNDERPERFORMING = "attnrec.underperforming_segments"
"""Run: number of segments far below the mean of all users."""

FAITHFUL = "attnrec.faithful"
"""Run: whether the model's own reasons beat every control in a paired test, "true" or "false"."""

EVALUATED_MODEL = "evaluated_model"
"""Artifact folder of a run: the model that was evaluated; the served one may have been refitted on all events."""

DESCRIPTION = "mlflow.note.content"
"""MLflow's tag for the description of a run, in markdown."""
