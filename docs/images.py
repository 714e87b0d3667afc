"""Write docs/report.png, the picture in the README: make images. Needs Chromium.

The report is of the sample log, by a model that trains in seconds; the picture is a screenshot of one user's page. Its
metrics are measured on the events that chose the epoch, so they are illustrations, not results.
"""

import io
import shutil
import tempfile
from pathlib import Path

import pandas as pd
from PIL import Image
from playwright.sync_api import sync_playwright

import attnrec
from attnrec.dataset import split_last
from attnrec.evaluation import evaluate
from attnrec.models import build_model, model_config
from attnrec.report import write_report

ROOT = Path(__file__).parents[1]
USER = "user-0007"
WIDTH, HEIGHT = 1180, 900


def main() -> None:
    """Train, write the report, take the screenshot."""
    log = pd.read_csv(ROOT / "data/sample/interactions.csv")
    items = pd.read_csv(ROOT / "data/sample/items.csv")
    settings = {"dim": 32, "max_length": 50}
    options = {"epochs": 12, "batch_size": 16, "learning_rate": 0.003, "progress_bar": False}
    recommender = attnrec.fit(log, settings=settings, **options)
    users = sorted({USER, *log["user_id"].unique()[:40]})
    recommendations = recommender.recommend(users, k=10)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report(
            page,
            recommender,
            recommendations,
            titles=items[["item_id", "title"]],
            items=items.rename(columns={"kind": "category"}),
            metrics=_metrics(recommender),
            users=[USER],
            title="Sample shop: recommendations and their reasons",
        )
        _screenshot(page, ROOT / "docs/report.png")


def _metrics(recommender: attnrec.Recommender) -> dict[str, dict]:
    """Return metrics of the model and two baselines on each user's last event."""
    assert recommender.histories is not None
    split = split_last(recommender.histories)
    models = {"attnrec": recommender.model}
    for kind in ("item_knn", "popularity"):
        models[kind] = build_model(model_config(kind, {}), split.train.n_items)
        models[kind].observe(split.train)
    return {name: evaluate(model, split.test).to_json() for name, model in models.items()}


def _screenshot(page: Path, target: Path) -> None:
    """Take a screenshot of a page, with few colours to keep the file small."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.as_uri())
        view.wait_for_timeout(500)
        image = Image.open(io.BytesIO(view.screenshot()))
        browser.close()
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(target, optimize=True)


if __name__ == "__main__":
    main()
