"""The command `attnrec`: flows from a terminal, and queries of their results (see `queries`)."""

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

from attnrec_pipelines.builtin import builtin_experiments
from attnrec_pipelines.cli.queries import HomeOption, explain, faithfulness, models, out, recommend, report
from attnrec_pipelines.console_log import show_log_lines
from attnrec_pipelines.progress import spinner
from attnrec_pipelines.settings import Home, home_at, prepare

EXPERIMENTS = "\n\n".join(
    ["Built-in experiments:", *(f"{name}: {description}" for name, description in builtin_experiments().items())]
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Attention recommenders whose every score is an exact sum over the user's history.",
)
FLOWS, RESULTS, TOOLS = "Flows", "Results", "Tools"
for command in (recommend, explain, report, faithfulness):
    app.command(rich_help_panel=RESULTS)(command)
app.command(rich_help_panel=TOOLS)(models)

ExperimentArgument = Annotated[
    str, typer.Argument(metavar="EXPERIMENT", help="A TOML file, or a built-in experiment (listed below).")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set train.epochs=2. Can be repeated."),
]
OverOption = Annotated[
    str | None,
    typer.Option(
        "--over",
        metavar="KEY=A,B,...",
        help="Compare models: --over model=sasrec,gru4rec or --over model.attention=scaled_dot,cosine.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(min=0.01, help="Training time per model; early stopping still applies."),
]
AtOption = Annotated[
    datetime | None,
    typer.Option("--at", help="Logical time (UTC), written as scored_at.", show_default="today 00:00"),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also print the log lines of Prefect and MLflow, and tracebacks.")
]


def main() -> None:
    """Run the command; a user-fixable error is printed as one line, with exit code 2."""
    try:
        app()
    except Exception as error:
        if (
            os.environ.get("ATTNREC_DEBUG")
            or isinstance(error, RecursionError)
            or not isinstance(error, _user_errors())
        ):
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(_one_line(error))}", highlight=False)
        traceback.clear_frames(error.__traceback__)  # DuckDB complains at exit about objects that frames still hold
        sys.exit(2)


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the types of errors that a user can fix; those of MLflow only if it was imported, which takes seconds."""
    types = (ValueError, LookupError, OSError, RuntimeError, TypeError)
    mlflow = sys.modules.get("mlflow.exceptions")
    return types if mlflow is None else (*types, mlflow.MlflowException)


def _version(value: bool) -> None:
    if value:
        from attnrec import __version__

        out.print(f"attnrec {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Attention recommenders whose every score is an exact sum over the user's history."""
    del version


@app.command(rich_help_panel=FLOWS, epilog=EXPERIMENTS)
def daily(
    experiment: ExperimentArgument,
    set_: SetOption = None,
    home: HomeOption = None,
    at: AtOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Ingest, train, evaluate, promote, register and score; a second run does nothing."""
    _prepare_flow(experiment, set_, home, verbose=verbose)
    from attnrec_pipelines.cli.printing import print_daily
    from attnrec_pipelines.flows.daily import daily_flow

    result = daily_flow(experiment, tuple(set_ or ()), home, at)
    print_daily(out, result, prepare(home))


@app.command(rich_help_panel=FLOWS, epilog=EXPERIMENTS)
def ingest(
    experiment: ExperimentArgument, set_: SetOption = None, home: HomeOption = None, verbose: VerboseOption = False
) -> None:
    """Read the raw log; rejected rows are kept with a reason."""
    _prepare_flow(experiment, set_, home, verbose=verbose)
    from attnrec_pipelines.cli.printing import print_ingest
    from attnrec_pipelines.flows.ingest import ingest_flow

    print_ingest(out, ingest_flow(experiment, tuple(set_ or ()), home))


@app.command(rich_help_panel=FLOWS, epilog=EXPERIMENTS)
def train(
    experiment: ExperimentArgument,
    set_: SetOption = None,
    over: OverOption = None,
    minutes: MinutesOption = None,
    home: HomeOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Train and evaluate one model, or with --over several; results are in MLflow, nothing is registered."""
    changes = list(set_ or ()) + ([] if minutes is None else [f"train.max_minutes={minutes}", "train.epochs=100000"])
    if over is None:
        _prepare_flow(experiment, changes, home, verbose=verbose)
        from attnrec_pipelines.cli.printing import print_metrics
        from attnrec_pipelines.flows.train import train_flow

        print_metrics(out, *train_flow(experiment, tuple(changes), home))
        return
    from attnrec_pipelines.stages.variants import variants

    variants(experiment, over, tuple(changes), home)
    _prepare_flow(experiment, changes, home, verbose=verbose)
    from attnrec_pipelines.cli.printing import print_comparison
    from attnrec_pipelines.flows.compare import compare_flow

    print_comparison(out, compare_flow(experiment, over, tuple(changes), home))


@app.command(rich_help_panel=FLOWS, epilog=EXPERIMENTS)
def score(
    experiment: ExperimentArgument,
    set_: SetOption = None,
    home: HomeOption = None,
    at: AtOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Score every user with the champion and publish the recommendations."""
    _prepare_flow(experiment, set_, home, verbose=verbose)
    from attnrec_pipelines.cli.printing import print_recommendations
    from attnrec_pipelines.flows.score import score_flow

    published = score_flow(experiment, tuple(set_ or ()), home, at)
    print_recommendations(out, published, prepare(home))


@app.command(rich_help_panel=TOOLS)
def sample(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; created if missing.")],
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 1200,
    items: Annotated[int, typer.Option(min=10, help="Number of items.")] = 200,
    pairs: Annotated[int, typer.Option(min=0, help="Planted effects: users who buy A soon buy B.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same log.")] = 0,
) -> None:
    """Write a synthetic log with planted effects: interactions, items, and the true causes."""
    from attnrec.sample import sample_log, write_sample

    log = sample_log(n_users=users, n_items=items, n_pairs=pairs, seed=seed)
    write_sample(log, folder)
    out.print(f"{len(log.interactions):,} interactions of {users:,} users with {items:,} items in {folder}")


@app.command(rich_help_panel=TOOLS)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    home: HomeOption = None,
) -> None:
    """Serve the MLflow UI with this home's runs, on 127.0.0.1 only; stop with Ctrl-C."""
    home_folder = home_at(home)
    if not (home_folder.root / "mlflow.db").exists():
        raise FileNotFoundError(f"{home_folder.root} has no runs yet; run `attnrec daily EXPERIMENT` or give --home")
    prepare(home)
    out.print(f"http://127.0.0.1:{port}/{_first_page(home_folder)}", soft_wrap=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", home_folder.local_store, "--artifacts-destination", str(home_folder.artifacts)]
    try:
        code = subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)


def _first_page(home: Home) -> str:
    """Return the page of the MLflow UI to open: the runs of the last scored experiment, with their metrics."""
    from mlflow import MlflowClient

    from attnrec.storage import read_json
    from attnrec.tracking.saved_view import VIEW

    # without workflowType in the address MLflow opens its GenAI pages
    if not home.current.exists():
        return "#/experiments?workflowType=machine_learning"
    name = read_json(home.current)["mlflow_experiment"]
    experiment = MlflowClient(home.local_store).get_experiment_by_name(name)
    if experiment is None:
        return "#/experiments?workflowType=machine_learning"
    return f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def _prepare_flow(experiment: str, overrides: list[str] | None, home: str | None, *, verbose: bool) -> None:
    """Check the experiment before anything starts, set up logging, and start Prefect's server."""
    from attnrec.ingestion import source_fingerprint
    from attnrec_pipelines.job import make_job

    if verbose:
        os.environ["ATTNREC_DEBUG"] = "1"
    else:  # read by Prefect when it sets up logging
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    job = make_job(experiment, tuple(overrides or ()), home)
    source_fingerprint(job.experiment.interactions)
    show_log_lines()
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_without_traceback)
    signal.signal(signal.SIGINT, _stop)
    starting = "starting Prefect's temporary server (10 s to 40 s)"
    if not sys.stderr.isatty():  # on a terminal the spinner shows it
        print(starting, file=sys.stderr, flush=True)
    with spinner(starting):
        from prefect.client.orchestration import get_client

        import attnrec_pipelines.flows.daily  # noqa: F401  torch and mlflow take some seconds

        get_client(sync_client=True)  # starts the server unless PREFECT_API_URL names one


def _stop(number: int, frame: object) -> None:
    """Ctrl-C: end at once. Completed work is on disk, so nothing waits for the server, which was stopped as well."""
    del number, frame
    from prefect.server.api.server import SubprocessASGIServer

    with suppress(Exception):  # a server that is not ours, or already stopped, does not matter
        for server in list(SubprocessASGIServer._instances.values()):
            server.stop()
    # not print, which a flow with log_prints sends to Prefect
    sys.stderr.write("\nstopped; the same command resumes from the last checkpoint\n")
    sys.stderr.flush()
    os._exit(130)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Shorten user-fixable errors to one line in Prefect's log; other errors keep their traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, ValueError | LookupError | OSError | RuntimeError) and not os.environ.get("ATTNREC_DEBUG"):
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = f"{type(error).__name__}: {_one_line(error)}", ()
    return True


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
