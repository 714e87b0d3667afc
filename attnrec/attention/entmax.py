"""1.5-entmax attention: sparse, yet smoother than sparsemax (Peters et al. 2019, arXiv:1905.05702).

Inside transformer heads as in Correia et al. 2019, arXiv:1909.00015, with alpha = 1.5 for all of them.
"""

from attnrec.attention.sparse_softmax import entmax15
from attnrec.attention.sparsemax import Sparsemax


class Entmax15(Sparsemax):
    """entmax15(q k' / sqrt(C)) v: a key further than 2 below the best has no share, nor a gradient."""

    paper = "Peters et al. 2019, arXiv:1905.05702"
    shares = staticmethod(entmax15)
