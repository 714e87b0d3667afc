"""The command `attnrec`: the same flows from a terminal, and the questions of `questions` to what they left."""

import logging
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from attnrec_pipelines.cli.queries import HomeOption, explain, faithfulness, models, out, recommend, report
from attnrec_pipelines.progress import spinner
from attnrec_pipelines.settings import home_at, prepare

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Attention recommenders whose every score is an exact sum over the user's history.",
)
for command in (recommend, explain, models, faithfulness, report):
    app.command()(command)

ExperimentArgument = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="A TOML file, or smoke, ml-1m, online-retail.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides the file: --set train.epochs=2. Can be repeated."),
]
OverOption = Annotated[
    str | None,
    typer.Option(
        "--over",
        metavar="KEY=A,B,...",
        help="Compare: --over model=sasrec,gru4rec or --over model.attention=scaled_dot,cosine, with equal wall time.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(min=0.01, help="Training time of a model; the epochs are as many as fit, until none is better."),
]
AtOption = Annotated[
    datetime | None,
    typer.Option("--at", help="Logical time (UTC), written as scored_at.", show_default="today 00:00"),
]


def main() -> None:
    """Run the command; an error a person can mend is one line and exit code 2."""
    from attnrec.storage import StorageError

    try:
        app()
    except (ValueError, LookupError, OSError, StorageError, RuntimeError, TypeError) as error:
        if os.environ.get("ATTNREC_DEBUG"):
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False)
        traceback.clear_frames(error.__traceback__)  # DuckDB complains at exit of what they still hold
        sys.exit(2)


@app.command()
def daily(experiment: ExperimentArgument, set_: SetOption = None, home: HomeOption = None, at: AtOption = None) -> None:
    """Ingest, train, evaluate, decide, register and score; a second run does nothing."""
    _prepare_flow(experiment, set_, home)
    from attnrec_pipelines.cli.printing import print_daily
    from attnrec_pipelines.flows.daily import daily_flow

    result = daily_flow(experiment, tuple(set_ or ()), home, at)
    print_daily(out, result, prepare(home))


@app.command()
def ingest(experiment: ExperimentArgument, set_: SetOption = None, home: HomeOption = None) -> None:
    """Read the raw log; bad rows are set aside with a reason."""
    _prepare_flow(experiment, set_, home)
    from attnrec_pipelines.cli.printing import print_ingest
    from attnrec_pipelines.stages.ingest import ingest_flow

    print_ingest(out, ingest_flow(experiment, tuple(set_ or ()), home))


@app.command()
def train(
    experiment: ExperimentArgument,
    set_: SetOption = None,
    over: OverOption = None,
    minutes: MinutesOption = None,
    home: HomeOption = None,
) -> None:
    """Train and evaluate; the run is in MLflow, nothing is registered. With --over, several models side by side."""
    changes = list(set_ or ()) + ([] if minutes is None else [f"train.max_minutes={minutes}", "train.epochs=100000"])
    if over is None:
        _prepare_flow(experiment, changes, home)
        from attnrec_pipelines.cli.printing import print_metrics
        from attnrec_pipelines.stages.train import train_flow

        print_metrics(out, *train_flow(experiment, tuple(changes), home))
        return
    from attnrec_pipelines.stages.compare import variants

    variants(experiment, over, tuple(changes), home)
    _prepare_flow(experiment, changes, home)
    from attnrec_pipelines.cli.printing import print_comparison
    from attnrec_pipelines.stages.compare import compare_flow

    print_comparison(out, compare_flow(experiment, over, tuple(changes), home))


@app.command()
def score(experiment: ExperimentArgument, set_: SetOption = None, home: HomeOption = None, at: AtOption = None) -> None:
    """Score every user with the champion and publish."""
    _prepare_flow(experiment, set_, home)
    from attnrec_pipelines.cli.printing import print_recommendations
    from attnrec_pipelines.stages.score import score_flow

    print_recommendations(out, score_flow(experiment, tuple(set_ or ()), home, at))


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; made when it is not there.")],
    users: Annotated[int, typer.Option(min=1, help="Users.")] = 1200,
    items: Annotated[int, typer.Option(min=10, help="Items.")] = 200,
    pairs: Annotated[int, typer.Option(min=0, help="Planted causes: who bought A soon buys B.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same log.")] = 0,
) -> None:
    """Write a synthetic log with planted causes: interactions, items, and the truth."""
    from attnrec.sample import sample_log, write_sample

    log = sample_log(n_users=users, n_items=items, n_pairs=pairs, seed=seed)
    write_sample(log, folder)
    out.print(f"{len(log.interactions):,} interactions of {users:,} users with {items:,} items in {folder}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    home: HomeOption = None,
) -> None:
    """Open MLflow's pages on this home's runs, on 127.0.0.1 only; stop with Ctrl-C."""
    place = home_at(home)
    if not (place.root / "mlflow.db").exists():
        raise FileNotFoundError(f"no runs in {place.root} yet; run `attnrec daily EXPERIMENT` or give --home")
    prepare(home)
    # MLflow opens on its GenAI pages unless the address says otherwise
    out.print(f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", place.local_store, "--artifacts-destination", str(place.artifacts)]
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)


def _prepare_flow(experiment: str, overrides: list[str] | None, home: str | None) -> None:
    """Find what is wrong with the experiment before anything starts, and keep Prefect's logs readable."""
    from attnrec.ingestion import source_fingerprint
    from attnrec_pipelines.job import make_job

    job = make_job(experiment, tuple(overrides or ()), home)
    source_fingerprint(job.experiment.interactions)
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_traceback)
    signal.signal(signal.SIGINT, _stop)
    with spinner("starting Prefect's temporary server and loading the flow"):
        from prefect.client.orchestration import get_client

        import attnrec_pipelines.flows.daily  # noqa: F401  torch and mlflow take some seconds

        get_client(sync_client=True)  # starts the server unless PREFECT_API_URL names one


def _stop(number: int, frame: object) -> None:
    """Ctrl-C: end at once. What is done is on disk, so nothing waits for a server that was stopped as well."""
    del number, frame
    from prefect.server.api.server import SubprocessASGIServer

    with suppress(Exception):  # Prefect's own; a server that is not ours or already gone is no matter
        for server in list(SubprocessASGIServer._instances.values()):
            server.stop()
    print("\nstopped; run the same command again to go on from the last checkpoint", file=sys.stderr, flush=True)
    os._exit(130)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Errors a person can mend are said in one line at the end; others keep their traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ValueError | LookupError | OSError | RuntimeError) and not os.environ.get("ATTNREC_DEBUG"):
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = f"{type(error).__name__}: {_one_line(error)}", ()
    return True


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
