"""Faithfulness of explanations on real logs: python benchmarks/bench_faithfulness.py --home HOME --experiment ml-1m.

Uses the newest model of a kind that the flows trained in HOME on the experiment's data and split (see bench_heads.py);
trains nothing. Test users are those whose ids have the smallest hashes. Appends a line to results/faithfulness.jsonl;
--figure also draws the deletion and insertion curves.
"""

import argparse
import os
import resource
import time
from pathlib import Path
from typing import Any

from bench_heads import newest, split_of
from record import append


def main() -> None:
    """Measure, print the tables, append a line."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from attnrec.faithfulness import faithfulness_verdict, measure
    from attnrec.tracking.examples import fixed_users
    from attnrec.tracking.figures.faithfulness import curves_figure
    from attnrec_pipelines.job import make_job

    torch.set_num_threads(1)
    job = make_job(options.experiment, tuple(options.set), options.home)
    split = split_of(job)
    trained, saved = newest(job, split, kind=options.kind)
    histories = split.test.histories
    users = split.test.users[fixed_users(histories.user_ids.decode(split.test.users), n=options.users)]
    counts = torch.from_numpy(split.train.item_counts())
    started = time.process_time()
    measured = measure(saved.model, histories, users, counts=counts, methods=options.methods)
    seconds = time.process_time() - started
    verdict, summary = faithfulness_verdict(measured), measured.summary()
    against = measured.compare_method("pos_at_5")
    print(summary.to_string(index=False, float_format="%.4f"))
    print(against.to_string(index=False, float_format="%.4f"))
    print(f"attention is interchangeable for {measured.interchangeable_share:.1%} of users; {verdict.sentence}")
    if options.figure is not None:
        curves_figure(measured).savefig(options.figure, dpi=110)
    facts: dict[str, Any] = {"data": job.experiment.name, "model": saved.model.kind, "split": job.experiment.split.kind}
    facts |= {"readout": getattr(saved.model.config, "readout", "-"), "seed": saved.metadata["seed"]}
    facts |= {"metrics": measured.to_json(), "seconds": seconds, "tokens_per_second": None, "device": "cpu"}
    facts |= {"threads": 1, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    facts |= {"stage": trained.name, "n_users": len(users), "verdict": verdict.to_json()}
    print(append("faithfulness", facts | {"against": against.round(6).astype(object).to_dict("records")}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True)
    parser.add_argument("--experiment", default="ml-1m")
    parser.add_argument("--kind", default="attnrec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--methods", nargs="*", default=None)
    parser.add_argument("--figure", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
