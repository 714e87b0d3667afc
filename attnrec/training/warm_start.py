"""Warm start: weights and optimizer moments of an earlier model, carried by item id into another catalogue.

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
from attnrec.training.feature_rows import FeatureRows
from attnrec.training.step import Stepper

SETTINGS = ("heads", "pooling_heads", "attention", "attention_settings", "readout", "scores")
"""What a model must share with the one it starts from, and shapes may not show."""

EVENT_TYPES = "context.types.weight"
"""The parameter with a row for each type of event."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class WarmStart:
    """An earlier model to start from.

    An item that both catalogues have keeps its row. A new one starts from what its features predict, where both
    catalogues' are given and it has a value of a shared column, else from the mean of the earlier items that had a
    training event. An item that is gone has no row; one without an event in the new log is read in histories and never
    recommended. The same id must mean the same item: before a transfer, rename ids that coincide by chance.

    Attributes:
        model: of the same kind and settings; its catalogue may be another.
        item_ids: its catalogue.
        moments: what `TrainingResult.moments` held, "parameter/moment" -> tensor; empty starts the optimizer anew.
        features: of its catalogue.
        new_features: of the catalogue of the model that is started.
    """

    model: Model
    item_ids: Vocabulary
    moments: dict[str, Tensor] = field(default_factory=dict)
    features: Features | None = None
    new_features: Features | None = None

    def apply(self, model: Model, item_ids: Vocabulary, stepper: Stepper) -> None:
        """Give `model`, its optimizer and its average what is known. (A graph model's scores also follow its graph.)

        Args:
            model: untrained, for the catalogue `item_ids`.
            item_ids: its catalogue.
            stepper: whose optimizer and average go with the model.

        Raises:
            ValueError: for a model of another kind or shape, a column of features of another kind or width, or a
                catalogue of which neither ids nor features say anything.
        """
        self._check(model)
        sources = torch.from_numpy(self.item_ids.rows_for(item_ids))  # the earlier row of each new one, 0 for new items
        self._check_known(sources)
        given, item_rows = dict(self.model.named_parameters()), model.item_parameters()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                old = given[name].detach().cpu()
                if name == EVENT_TYPES:
                    parameter.copy_(self._types(old, parameter, model.event_names))
                else:
                    parameter.copy_(self._rows(old, sources) if name in item_rows else old)
        stepper.load_moments(dict(self._moments(item_rows, sources, model.event_names)))
        stepper.average.restart()
        self._tell(sources)

    def fingerprint(self) -> str:
        """Changes with everything that `apply` gives."""
        digest = hashlib.sha256(repr([self.item_ids.ids.tolist(), self.model.event_names]).encode())
        tensors = dict(self.model.named_parameters()) | {"rankable": self.model.rankable} | self.moments
        for name, tensor in tensors.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        if self.predictor is not None:
            for part in self.predictor.parts():
                digest.update(part)
        return digest.hexdigest()

    @cached_property
    def predictor(self) -> FeatureRows | None:
        """What features say of rows; None unless both catalogues' are given."""
        if self.features is None or self.new_features is None:
            return None
        return FeatureRows(self.features, self.new_features, known=self.model.rankable.cpu().numpy())

    def _rows(self, old: Tensor, sources: Tensor) -> Tensor:
        """A parameter's rows in the new catalogue, (N, ...); padding stays zero."""
        rows = old[self.model.rankable.cpu()].mean(0).expand(len(sources), *old.shape[1:]).clone()
        if self.predictor is not None and self.predictor.predicted.any():
            predicted = torch.from_numpy(self.predictor.predicted)
            rows[predicted] = self.predictor.predict(old)[predicted]
        kept = sources > 0
        rows[kept] = old[sources[kept]]
        rows[0] = 0
        return rows

    def _types(self, old: Tensor, new: Tensor, names: tuple[str, ...]) -> Tensor:
        """Rows of types of events follow their names: a log numbers its own. Types that are new have those of `new`."""
        if not self.model.event_names:  # a model saved before it kept them
            return old
        rows = new.detach().cpu().clone()
        for place, name in enumerate(names):
            if name in self.model.event_names:
                rows[place + 1] = old[self.model.event_names.index(name) + 1]  # row 0 is of padding
        return rows

    def _moments(
        self, item_rows: set[str], sources: Tensor, event_names: tuple[str, ...]
    ) -> Iterator[tuple[str, Tensor]]:
        """The moments follow their rows; those of new items and new types of events are zero."""
        kept = sources > 0
        for key, value in self.moments.items():
            if key.rsplit("/", 1)[0] == EVENT_TYPES and value.ndim:
                yield key, self._types(value, torch.zeros_like(value), event_names)
            elif key.rsplit("/", 1)[0] in item_rows and value.ndim:
                carried = value.new_zeros(len(sources), *value.shape[1:])
                carried[kept] = value[sources[kept]]
                yield key, carried
            else:
                yield key, value

    def _check(self, model: Model) -> None:
        if self.model.kind != model.kind:
            raise ValueError(
                f"init must be a model of the same kind, got {self.model.kind} for {model.kind}; leave init out"
            )
        item_rows = model.item_parameters()
        old, new = (
            {name: getattr(one.config, name, None) for name in SETTINGS}
            | {name: tuple(p.shape[1 if name in item_rows else 0 :]) for name, p in one.named_parameters()}
            for one in (self.model, model)
        )
        for name in old | new:
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"init must have the settings of the model it starts, got {name} {old.get(name)} for "
                    f"{new.get(name)}; use the same dim, layers, heads and max_length, or leave init out"
                )

    def _check_known(self, sources: Tensor) -> None:
        for features, n_rows in ((self.features, self.model.n_items + 1), (self.new_features, len(sources))):
            assert features is None or features.n_rows == n_rows, "features are aligned with their catalogue"
        if not (sources > 0).any() and (self.predictor is None or not self.predictor.predicted.any()):
            raise ValueError(
                f"init knows none of the items: {len(sources) - 1} in the log, {len(self.item_ids)} of its own; "
                "give items= (in an experiment: [items]) with columns that both logs' items share"
            )

    def _tell(self, sources: Tensor) -> None:
        new = sources[1:] == 0
        predicted = torch.zeros_like(new) if self.predictor is None else torch.from_numpy(self.predictor.predicted[1:])
        n_kept, n_predicted = int((~new).sum()), int((new & predicted).sum())
        logger.info(
            "warm start: %d items keep their rows, %d start from features, %d from the mean, %d are gone",
            n_kept,
            n_predicted,
            int(new.sum()) - n_predicted,
            len(self.item_ids) - n_kept,
        )
