"""Commands that ask what the flows left: recommendations, reasons, whether these are true, and a page of them."""

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
    """Refuse what is no picture before anything is computed."""
    if path is not None and path.suffix.lower() not in PICTURES:
        raise ValueError(f"a picture ends in {', '.join(PICTURES)}, got {str(path)!r}; choose one of them")
    return path


# defaults stand in show_default: rich takes [words] of a help text for markup and drops them
HomeOption = Annotated[
    str | None,
    typer.Option("--home", help="Folder for all that is written.", show_default="$ATTNREC_HOME or ./data"),
]
UserOption = Annotated[str, typer.Option("--user", help="A user_id of the log.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A model folder or models:/NAME@ALIAS.", show_default="what served last"),
]
PlotOption = Annotated[
    Path | None,
    typer.Option("--plot", help="Also save a picture (PNG, SVG, PDF).", dir_okay=False, callback=_picture),
]


def recommend(
    user: UserOption,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """The k best items of one user, with reasons, by the model that served last."""
    from attnrec_pipelines.cli.printing import print_frame

    recommender, current = _recommender(model, home)
    print_frame(out, recommender.recommend([user], k=k, filter_viewed=current["filter_viewed"]))


def explain(
    user: UserOption,
    item: Annotated[str, typer.Option("--item", help="An item_id of the log.")],
    plot: PlotOption = None,
    method: Annotated[
        str, typer.Option(help="contribution splits the score; leave_one_out, shapley and others say it their way.")
    ] = "contribution",
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Why one item has the score it has for one user: every event's part."""
    from attnrec_pipelines.cli.printing import print_explanation

    explanation = _recommender(model, home)[0].explain(user, item, method=method)
    print_explanation(out, explanation)
    if plot is not None:
        _save(explanation.figure(), plot)


def models(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="One of them, with all its settings.")] = None,
) -> None:
    """The kinds of models: where they come from, what they are trained to do, and whether their reasons are exact."""
    from attnrec_pipelines.cli.printing import print_model, print_models

    if kind is None:
        print_models(out)
    else:
        print_model(out, kind)


def faithfulness(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A folder or models:/NAME@ALIAS.", show_default="what serves"),
    ] = None,
    users: Annotated[int, typer.Option(min=2, help="How many users, the same ones in every run.")] = 100,
    methods: Annotated[
        str | None, typer.Option(help="Of attnrec.attribution, A,B,...", show_default="ten of them")
    ] = None,
    plot: PlotOption = None,
    table: Annotated[
        Path | None, typer.Option(help="Also write all measures of all methods, CSV.", dir_okay=False)
    ] = None,
    home: HomeOption = None,
) -> None:
    """Whether reasons are true: what becomes of the best item when events go in the order of each method."""
    from attnrec.faithfulness import faithfulness_verdict, measure
    from attnrec.faithfulness.settings import FaithfulnessConfig
    from attnrec.storage import write_text
    from attnrec.tracking.examples import fixed_users
    from attnrec.tracking.figures.faithfulness import curves_figure
    from attnrec_pipelines.cli.printing import print_faithfulness
    from attnrec_pipelines.progress import bar

    asked, current = _recommender(model, home)
    histories = asked.histories
    assert histories is not None, "the command's models know the users of the last run"
    rows = fixed_users(histories.user_ids.ids, n=users)
    given = {} if methods is None else {"methods": tuple(name.strip() for name in methods.split(","))}
    chosen = FaithfulnessConfig.from_dict(given).methods
    with bar("faithfulness", total=len(rows)) as done:
        how = {"methods": chosen, "filter_viewed": current["filter_viewed"]}
        measured = measure(asked.model, histories, rows, on_batch=done, **how)
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
    to: Annotated[Path, typer.Option(help="The page, one file.", dir_okay=False)] = Path("report.html"),
    user: Annotated[list[str] | None, typer.Option("--user", help="Show this user. Can be repeated.")] = None,
    users: Annotated[int, typer.Option(min=1, help="How many users otherwise, as far as 5 MB go.")] = 100,
    model: ModelOption = None,
    home: HomeOption = None,
) -> None:
    """Write a page of recommendations with their reasons: one HTML file that needs no network."""
    from attnrec.report import write_report
    from attnrec_pipelines.stages.report import About, read_published, title_of

    place, (asked, current) = home_at(home), _recommender(model, home)
    table = read_published(recommendations or place.root / current["recommendations"])
    known = {name: place.root / path for name, path in current["about"].items()}
    about = About(**known) if model is None else About(items=known.get("items"))  # the rest is of the one that served
    written = write_report(
        to,
        asked,
        table,
        users=user,
        n_users=users,
        filter_viewed=current["filter_viewed"],
        title=title_of(current["experiment"]),
        **about.shown(),
    )
    shown = f"{written.n_users:,} of {written.n_published:,} users"
    out.print(f"{shown} in {written.path} ({written.n_bytes / 1e6:.1f} MB)", soft_wrap=True)


def _recommender(model: str | None, home: str | None) -> tuple["Recommender", dict[str, Any]]:
    """The model that served last (or the one given) with the histories of the last run, and what that run remembered.

    Raises:
        FileNotFoundError: before the first run, or where there is no such model.
    """
    from attnrec.dataset import Histories
    from attnrec.loading import load
    from attnrec.recommender import Recommender
    from attnrec.storage import read_json

    place = home_at(home)
    if not (place.root / "current.json").exists():
        raise FileNotFoundError(
            f"nothing was scored in {place.root} yet; run `attnrec daily EXPERIMENT` or give --home"
        )
    prepare(home)
    current = read_json(place.root / "current.json")
    os.environ.setdefault("MLFLOW_TRACKING_URI", place.tracking_uri)
    loaded = load(model or place.root / current["model"])
    histories = Histories.load(place.root / current["histories"] / "histories").recode(loaded.item_ids)
    return Recommender(loaded.model, loaded.item_ids, histories, loaded.metadata, features=loaded.features), current


def _save(figure: "Figure", path: Path) -> None:
    """Write a picture; where that fails, no part of one is left."""
    from attnrec.storage import StorageError

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        said = f"could not write the picture {path} ({error.strerror}); choose another place or free some space"
        raise StorageError(error.errno, said) from error
    out.print(f"picture: {path}", soft_wrap=True)
