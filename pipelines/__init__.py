"""Prefect flows around attnrec. The folder pipelines/ is installed as `attnrec_pipelines`."""

import os

# OpenMP reads this when torch is imported: a waiting thread spins 10,000 times and then sleeps. Two threads while
# another process uses a core: 21,000 tokens/s, under 1,000 with the default (300,000); on an idle machine 65,000 with
# both values
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
