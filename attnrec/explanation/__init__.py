"""Why an item has the score it has: what each event of one history has to do with it, as a frame, words and pictures.

By default the exact split of the score; every other method of `attnrec.attribution` beside it, called what it is.
"""

from attnrec.explanation.attention import Attention
from attnrec.explanation.builder import explain_items
from attnrec.explanation.explanation import Explanation
from attnrec.explanation.explanations import Explanations
from attnrec.explanation.history import one_history
from attnrec.explanation.sentences import because
from attnrec.explanation.titles import Titles

__all__ = ["Attention", "Explanation", "Explanations", "Titles", "because", "explain_items", "one_history"]
