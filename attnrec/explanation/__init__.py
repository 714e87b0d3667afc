"""Explanations of one score: the value of each history event, as a frame, sentences, plots and graph paths.

The default method is the exact split of the score; every other method of `attnrec.attribution` can be chosen by name.
"""

from attnrec.explanation.attention_maps import AttentionMaps
from attnrec.explanation.builder import explain_items
from attnrec.explanation.explanation import Explanation
from attnrec.explanation.explanations import Explanations
from attnrec.explanation.history import one_history
from attnrec.explanation.sentences import because
from attnrec.explanation.titles import Titles

__all__ = ["AttentionMaps", "Explanation", "Explanations", "Titles", "because", "explain_items", "one_history"]
