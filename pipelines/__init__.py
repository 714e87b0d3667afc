"""Prefect flows around attnrec: one file per stage."""

import os

# OpenMP reads this when torch is imported: a thread that waits spins 10,000 times and then sleeps. Two threads beside a
# busy neighbour: 21,000 tokens/s, under 1,000 with the default (300,000); on a quiet machine 65,000 with both
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
