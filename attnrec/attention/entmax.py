"""1.5-entmax attention: sparse, yet smoother than sparsemax (Peters et al. 2019, arXiv:1905.05702).

Used in transformer heads as by Correia et al. 2019, arXiv:1909.00015, here with alpha = 1.5 for all heads.
"""

from attnrec.attention.sparse_softmax import entmax15
from attnrec.attention.sparsemax import Sparsemax


class Entmax15(Sparsemax):
    """entmax15(q k' / sqrt(C)) v: a key whose score is more than 2 below the best has weight 0 and no gradient."""

    paper = "Peters et al. 2019, arXiv:1905.05702"
    normalise = staticmethod(entmax15)
