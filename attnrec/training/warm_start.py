"""Warm start: copy weights and optimizer moments of an earlier model into another catalogue, by item id.

Shapes: N = n_items + 1 item rows of the new catalogue, D channels.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from attnrec.dataset import Features, Vocabulary
from attnrec.models import Model
from attnrec.training.feature_regression import FeatureRegression
from attnrec.training.step import Stepper

COMPARED_SETTINGS = ("heads", "pooling_heads", "attention", "attention_settings", "readout", "scores")
"""Settings that must be equal in both models although parameter shapes may not depend on them."""

EVENT_TYPES = "context.types.weight"
"""The parameter with a row per event type."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """An earlier model to start training from.

    An item of both catalogues keeps its parameter rows. A new item with a value in a shared feature column starts from
    the rows predicted from its features, if the features of both catalogues are given; any other new item starts from
    the mean over the earlier items with a training event. Rows of items that are not in the new catalogue are dropped.
    An item of the new catalogue without an event in the new log is used in histories but never recommended. Equal ids
    must mean equal items: before a transfer between shops, rename ids that are equal by coincidence.

    Attributes:
        model: the earlier model; same kind and settings, any catalogue.
        item_ids: catalogue of the earlier model.
        moments: `TrainingResult.moments` of the earlier training, "parameter/moment" -> tensor; empty starts with a new
            optimizer state.
        features: item features of the earlier catalogue.
        new_features: item features of the new catalogue.
    """

    model: Model
    item_ids: Vocabulary
    moments: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None
    new_features: Features | None = None

    def apply(self, model: Model, item_ids: Vocabulary, stepper: Stepper) -> None:
        """Initialise `model`, its optimizer state and its moving average from the earlier model.

        The scores of a graph model also depend on its graph, which is not copied.

        Args:
            model: untrained model for the catalogue `item_ids`.
            item_ids: the new catalogue.
            stepper: the stepper of `model`.

        Raises:
            ValueError: for a model of another kind or shape, a feature column of another type or width, or catalogues
                that share neither items nor feature values.
        """
        self._check_model(model)
        old_rows = torch.from_numpy(self.item_ids.rows_for(item_ids))  # earlier row of each item, 0 for new items
        self._check_catalogue(old_rows)
        old_parameters, item_parameters = dict(self.model.named_parameters()), model.item_parameters()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                old = old_parameters[name].detach().cpu()
                if name == EVENT_TYPES:
                    parameter.copy_(self._event_type_rows(old, parameter, model.event_names))
                else:
                    parameter.copy_(self._item_rows(old, old_rows) if name in item_parameters else old)
        stepper.load_moments(dict(self._new_moments(item_parameters, old_rows, model.event_names)))
        stepper.ema.reset()
        self._log_summary(old_rows)

    def fingerprint(self) -> str:
        """Return a hash of everything that `apply` copies."""
        digest = hashlib.sha256(repr([self.item_ids.ids.tolist(), self.model.event_names]).encode())
        tensors = dict(self.model.named_parameters()) | {"rankable": self.model.rankable} | self.moments
        for name, tensor in tensors.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if self.regression is not None:
            for part in self.regression.fingerprint_parts():
                digest.update(part)
        return digest.hexdigest()

    @cached_property
    def regression(self) -> FeatureRegression | None:
        """Regression from features onto parameter rows; None unless the features of both catalogues are given."""
        if self.features is None or self.new_features is None:
            return None
        return FeatureRegression(self.features, self.new_features, train_rows=self.model.rankable.cpu().numpy())

    def _item_rows(self, old: Tensor, old_rows: Tensor) -> Tensor:
        """Return an item parameter for the new catalogue, (N, ...); the padding row is zero."""
        rows = old[self.model.rankable.cpu()].mean(0).expand(len(old_rows), *old.shape[1:]).clone()
        if self.regression is not None and self.regression.has_prediction.any():
            has_prediction = torch.from_numpy(self.regression.has_prediction)
            rows[has_prediction] = self.regression.predict(old)[has_prediction]
        kept = old_rows > 0
        rows[kept] = old[old_rows[kept]]
        rows[0] = 0
        return rows

    def _event_type_rows(self, old: Tensor, new: Tensor, names: tuple[str, ...]) -> Tensor:
        """Copy the rows of event types by name (each log numbers its own types); new types keep the rows of `new`."""
        if not self.model.event_names:  # saved by a version that did not store them
            return old
        rows = new.detach().cpu().clone()
        for number, name in enumerate(names):
            if name in self.model.event_names:
                rows[number + 1] = old[self.model.event_names.index(name) + 1]  # row 0 is padding
        return rows

    def _new_moments(
        self, item_parameters: set[str], old_rows: Tensor, event_names: tuple[str, ...]
    ) -> Iterator[tuple[str, Tensor]]:
        """Copy the moments like their parameters; rows of new items and new event types are zero."""
        kept = old_rows > 0
        for key, value in self.moments.items():
            parameter = key.rsplit("/", 1)[0]
            if parameter == EVENT_TYPES and value.ndim:
                yield key, self._event_type_rows(value, torch.zeros_like(value), event_names)
            elif parameter in item_parameters and value.ndim:
                rows = value.new_zeros(len(old_rows), *value.shape[1:])
                rows[kept] = value[old_rows[kept]]
                yield key, rows
            else:
                yield key, value

    def _check_model(self, model: Model) -> None:
        if self.model.kind != model.kind:
            raise ValueError(
                f"init must be a model of the same kind, got {self.model.kind} for {model.kind}; "
                f"set kind = {self.model.kind!r} or remove init"
            )
        item_parameters = model.item_parameters()
        old, new = (
            {name: getattr(each.config, name, None) for name in COMPARED_SETTINGS}
            | {name: tuple(p.shape[1 if name in item_parameters else 0 :]) for name, p in each.named_parameters()}
            for each in (self.model, model)
        )
        for name in old | new:
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"init must have the same settings as the new model, got {name} {old.get(name)} in init and "
                    f"{new.get(name)} in the new model; use the same dim, layers, heads and max_length, or remove init"
                )

    def _check_catalogue(self, old_rows: Tensor) -> None:
        for features, n_rows in ((self.features, self.model.n_items + 1), (self.new_features, len(old_rows))):
            assert features is None or features.n_rows == n_rows, "features must have a row per item row"
        if not (old_rows > 0).any() and (self.regression is None or not self.regression.has_prediction.any()):
            raise ValueError(
                f"init must share items or item features with the log, got {len(self.item_ids)} items in init, "
                f"{len(old_rows) - 1} in the log and none in both; pass items= (in an experiment: [items]) with "
                "columns that the items of both logs have"
            )

    def _log_summary(self, old_rows: Tensor) -> None:
        new = old_rows[1:] == 0
        regression = self.regression
        predicted = torch.zeros_like(new) if regression is None else torch.from_numpy(regression.has_prediction[1:])
        n_kept, n_predicted = int((~new).sum()), int((new & predicted).sum())
        logger.info(
            "warm start: %d items keep their rows, %d start from features, %d from the mean, %d are dropped",
            n_kept,
            n_predicted,
            int(new.sum()) - n_predicted,
            len(self.item_ids) - n_kept,
        )
