"""Labels and units of the attribution methods, for tables, plots and sentences."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodText:
    """How an attribution method is described to a reader.

    Attributes:
        label: the method's name in a sentence or column header.
        unit: unit of its values.
        additive: whether the sum of the values of several events is meaningful.
    """

    label: str
    unit: str
    additive: bool


METHOD_TEXTS = {
    "contribution": MethodText("contribution", "score units", additive=True),
    "weight": MethodText("attention weight", "attention weights", additive=True),
    "leave_one_out": MethodText("leave-one-out", "score units", additive=False),
    "renormalized": MethodText("renormalised attention", "score units", additive=False),
    "attention_rollout": MethodText("attention rollout", "attention weights", additive=True),
    "value_norm": MethodText("value norm", "vector norms", additive=False),
    "gradient_x_input": MethodText("gradient x input", "score units", additive=True),
    "integrated_gradients": MethodText("integrated gradients", "score units", additive=True),
    "shapley": MethodText("Shapley value", "score units", additive=True),
    "lime": MethodText("LIME", "score units", additive=True),
    "random": MethodText("random", "random numbers from 0 to 1", additive=False),
    "recency": MethodText("recency", "relative position in the history, 1 is the latest event", additive=False),
    "item_cosine": MethodText("item cosine", "cosine similarity", additive=False),
    "popularity": MethodText("popularity", "events in the log", additive=False),
}


def method_text(method: str) -> MethodText:
    """Return the texts of a method; a method registered by the caller is labelled with its name."""
    return METHOD_TEXTS.get(method, MethodText(method.replace("_", " "), "method-specific units", additive=False))
