"""Commands that query the results of the flows: recommendations, explanations, their faithfulness, and the report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from attnrec_pipelines.settings import home_at, prepare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attnrec.recommender import Recommender

PICTURES = (".png", ".svg", ".pdf")

out = Console()


def _picture(path: Path | None) -> Path | None:
    """Refuse other formats before anything is computed."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise ValueError(f"a figure is saved as {', '.join(PICTURES)}, got {str(path)!r}; choose one of these endings")
    return path


# defaults are in show_default: rich takes [words] of a help text for markup and drops them
HomeOption = Annotated[
    str | None,
    typer.Option("--home", help="Folder for everything that is written.", show_default="$ATTNREC_HOME or ./data"),
]
UserOption = Annotated[str, typer.Option("--user", help="A user_id of the log.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A model folder or models:/NAME@ALIAS.", show_default="the model that scored last"),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", help="Also save a figure (PNG, SVG, PDF).", dir_okay=False, callback=_picture),
]


def recommend(
    user: UserOption,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 10,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Recommend k items to one user, with reasons."""
    from attnrec_pipelines.cli.printing import print_frame, titles_of

    recommender, current = _recommender(model, home)
    frame = recommender.recommend([user], k=k, filter_viewed=current["filter_viewed"])
    print_frame(out, frame, titles_of(home_at(home)), with_ids=True)


def explain(
    user: UserOption,
    item: Annotated[str, typer.Option("--item", help="An item_id of the log.")],
    plot: PlotOption = None,
    method: Annotated[
        str, typer.Option(help="Attribution method: contribution (exact), leave_one_out, shapley, ...")
    ] = "contribution",
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Explain one item's score for one user: the contribution of every event."""
    from attnrec_pipelines.cli.printing import print_explanation, titles_of

    titles = titles_of(home_at(home))
    recommender = _recommender(model, home)[0]
    explanation = recommender.explain(user, item, method=method, titles=titles or None)
    print_explanation(out, explanation)
    if plot is not None:
        _save(explanation.figure(), plot)


def models(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Show one kind with all settings.")] = None,
) -> None:
    """List the kinds of models: paper, objective, size, and whether their reasons are exact."""
    from attnrec_pipelines.cli.printing import print_model, print_models

    if kind is None:
        print_models(out)
    else:
        print_model(out, kind)


def faithfulness(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A folder or models:/NAME@ALIAS.", show_default="the model that scored"),
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="Number of users, the same ones in every run.")] = 100,
    methods: Annotated[
        str | None, typer.Option(help="Attribution methods, A,B,...", show_default="ten methods")
    ] = None,
    plot: PlotOption = None,
    table: Annotated[
        Path | None, typer.Option(help="Also write all measures of all methods as CSV.", dir_okay=False)
    ] = None,
    home: HomeOption = None,
) -> None:
    """Measure whether reasons are faithful: remove events in the order of each method and watch the best item."""
    from attnrec.faithfulness import faithfulness_verdict, measure
    from attnrec.faithfulness.settings import FaithfulnessConfig
    from attnrec.storage import write_text
    from attnrec.tracking.examples import fixed_users
    from attnrec.tracking.figures.faithfulness import curves_figure
    from attnrec_pipelines.cli.printing import print_faithfulness
    from attnrec_pipelines.progress import progress_bar

    recommender, current = _recommender(model, home)
    histories = recommender.histories
    assert histories is not None, "_recommender attaches the histories of the last run"
    rows = fixed_users(histories.user_ids.ids, n=users)
    settings = {} if methods is None else {"methods": tuple(name.strip() for name in methods.split(","))}
    chosen = FaithfulnessConfig.from_dict(settings).methods
    with progress_bar("faithfulness", total=len(rows)) as advance:
        options = {"methods": chosen, "filter_viewed": current["filter_viewed"]}
        measured = measure(recommender.model, histories, rows, on_batch=advance, **options)
    print_faithfulness(out, measured, faithfulness_verdict(measured))
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        write_text(table, measured.summary().to_csv(index=False))
        out.print(f"table: {table}", soft_wrap=True)
    if plot is not None:
        _save(curves_figure(measured), plot)


def report(
    recommendations: Annotated[
        Path | None,
        typer.Argument(metavar="[RECOMMENDATIONS]", help="Parquet.", exists=True, show_default="what was published"),
    ] = None,
    to: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)] = Path("report.html"),
    user: Annotated[list[str] | None, typer.Option("--user", help="Show this user. Can be repeated.")] = None,
    users: Annotated[int, typer.Option(min=1, help="Number of users without --user, capped at 5 MB.")] = 100,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Write the report: recommendations with their reasons in one HTML file that needs no network."""
    from attnrec.report import write_report
    from attnrec_pipelines.stages.report import ReportInputs, read_published, report_title

    root, (recommender, current) = home_at(home).root, _recommender(model, home)
    table = read_published(recommendations or root / current["recommendations"])
    stages = {name: root / path for name, path in current["report_inputs"].items()}
    # evaluation and faithfulness belong to the model that scored last
    inputs = ReportInputs(**stages) if model is None else ReportInputs(items=stages.get("items"))
    written = write_report(
        to,
        recommender,
        table,
        users=user,
        n_users=users,
        filter_viewed=current["filter_viewed"],
        title=report_title(current["experiment"]),
        **inputs.arguments(),
    )
    counts = f"{written.n_users:,} of {written.n_published:,} users"
    out.print(f"{counts} in {written.path} ({written.n_bytes / 1e6:.1f} MB)", soft_wrap=True)


def _recommender(model: str | None, home: str | None) -> tuple["Recommender", dict[str, Any]]:
    """Load the model that scored last (or the given one) with the histories of the last run, and current.json.

    Raises:
        FileNotFoundError: before the first scoring run, or if there is no such model.
    """
    from attnrec.config import load_plugins
    from attnrec.dataset import Histories
    from attnrec.loading import load
    from attnrec.recommender import Recommender
    from attnrec.storage import read_json

    home_folder = home_at(home)
    if not home_folder.current.exists():
        raise FileNotFoundError(
            f"{home_folder.root} has no recommendations yet; run `attnrec daily EXPERIMENT` or give --home"
        )
    prepare(home)
    current = read_json(home_folder.current)
    load_plugins(current["plugins"])
    os.environ.setdefault("MLFLOW_TRACKING_URI", home_folder.tracking_uri)
    loaded = load(model or home_folder.root / current["model"])
    histories = Histories.load(home_folder.root / current["histories"] / "histories").recode(loaded.item_ids)
    return Recommender(loaded.model, loaded.item_ids, histories, loaded.metadata, features=loaded.features), current


def _save(figure: "Figure", path: Path) -> None:
    """Save a figure; if that fails, no partial file is left."""
    from attnrec.storage import StorageError

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        message = f"could not write the figure {path} ({error.strerror}); choose another folder or free disk space"
        raise StorageError(error.errno, message) from error
    out.print(f"figure: {path}", soft_wrap=True)
