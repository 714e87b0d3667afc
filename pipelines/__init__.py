"""Prefect flows around attnrec: one file per stage."""

import os

# OpenMP reads this when torch is imported: threads that wait sleep instead of spinning. Two threads beside a busy
# neighbour: 8,700 tokens/s, under 1,000 with the default; on a quiet machine it costs nothing
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
