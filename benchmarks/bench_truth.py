"""Whether first reasons are the planted causes, for every model and method: python benchmarks/bench_truth.py.

Every kind is trained on the sample log with the same few settings, then every method that works for it is asked.
Writes docs/ground-truth.md and a line per model to results/truth.jsonl. About ten minutes on one thread.
"""

import argparse
import json
import math
import os
import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import RESULTS, append

PAGE = Path(__file__).parents[1] / "docs" / "ground-truth.md"
SETTINGS = {"dim": 32, "max_length": 50}
TRAINING = {"epochs": 12, "seed": 0, "progress_bar": False}
INTRODUCTION = """# Do reasons name the cause?

The sample log plants causes: who buys A buys B as one of the next three things, with probability 0.75. Beside them
stand taste, season, popularity, and a distractor, the carrier bag, that everybody buys often and that causes nothing.
Every model was trained on it (dim 32, 12 epochs, seed 0) and asked for its best 10 items for the {n_users} users
whose held out event had a planted cause. Where the list holds that event's item (a hit), the first reason should be
its cause. `python benchmarks/bench_truth.py` makes this page; methods are those of `attnrec.attribution`,
`contribution` is what `recommend` writes. Models stand in the order of their hits. A model with few hits has not
learned the causes in 12 epochs, and its reasons are for something else; what a method says of such a model says
little of the method.
"""


def main() -> None:
    """Train, ask, append a line per model, and write the page from what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", help="Only these kinds.")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from attnrec.models import MODELS

    torch.set_num_threads(1)
    for kind in options.models or MODELS:
        print(kind, of_model(kind), flush=True)
    lines = map(json.loads, (RESULTS / "truth.jsonl").read_text().splitlines())
    PAGE.write_text(page({line["model"]: line["metrics"] for line in lines}))


def of_model(kind: str) -> dict[str, dict[str, float]]:
    """Method -> what `ground_truth` found, for one kind of model."""
    from attnrec.attribution import METHODS
    from attnrec.dataset import histories_from_frame, split_last
    from attnrec.evaluation.ground_truth import ground_truth
    from attnrec.fitting import fit
    from attnrec.models import model_config
    from attnrec.sample import sample_log

    log = sample_log()
    holdout = split_last(histories_from_frame(log.interactions)).test
    settings = {name: value for name, value in SETTINGS.items() if name in type(model_config(kind, {})).model_fields}
    started = time.perf_counter()
    model = fit(log.interactions, model=kind, settings=settings, **TRAINING).model
    fitted = time.perf_counter() - started
    methods = [name for name, method in METHODS.items() if method.works_for(model)]
    found = {name: asdict(ground_truth(model, holdout, log, method=name)) for name in methods}
    facts: dict[str, Any] = {"data": "sample", "model": kind, "readout": getattr(model.config, "readout", "-")}
    facts |= {"split": "last", "seed": TRAINING["seed"], "seconds": fitted, "metrics": found, "device": "cpu"}
    facts |= {"tokens_per_second": None, "threads": 1}
    facts |= {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    append("truth", facts)
    return found


def page(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """The page: the two tables, models by methods."""
    from attnrec.attribution import METHODS

    kinds = sorted(found, key=lambda kind: -first(found[kind])["n_hits"])
    asked = max(first(of)["n_recommendations"] for of in found.values()) // 10
    head = "| model | hits | " + " | ".join(METHODS) + " |\n|---|" + "---|" * (1 + len(METHODS))
    parts = [
        INTRODUCTION.format(n_users=asked),
        "## The cause is the first reason\n\nShare of the hits.\n",
        head,
        *(row(kind, found[kind], "cause_share") for kind in kinds),
        "\n## The distractor is the first reason\n",
        "Share of all recommendations to these users. Were first reasons drawn from the items of the history, it would",
        f"be {max(first(of)['distractor_share_at_random'] for of in found.values()):.1%} at most. Events of one item are",
        "one reason, with the sum of what a method gives them: so controls fall for what is bought often.\n",
        head,
        *(row(kind, found[kind], "distractor_share") for kind in kinds),
    ]
    return "\n".join(parts) + "\n"


def row(kind: str, of_methods: dict[str, dict[str, float]], value: str) -> str:
    """One model's line; "-" where a method does not work for it or nothing was hit."""
    from attnrec.attribution import METHODS

    values = [of_methods.get(name, {}).get(value, math.nan) for name in METHODS]
    cells = ["-" if math.isnan(share) else f"{share:.0%}" for share in values]
    return f"| {kind} | {first(of_methods)['n_hits']} | " + " | ".join(cells) + " |"


def first(of_methods: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of any method: hits and recommendations are the model's."""
    return next(iter(of_methods.values()))


if __name__ == "__main__":
    main()
