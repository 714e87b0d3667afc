"""The MLflow client: the champion of a registered model, and a registry that does not respond."""

import pytest
from mlflow.exceptions import MlflowException, RestException

from attnrec.tracking.tracker import Tracker

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's warnings


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return Tracker(f"sqlite:///{folder / 'mlflow.db'}", experiment="shop", artifacts=folder / "artifacts")


def failing_client(monkeypatch, tracker: Tracker, error: Exception) -> None:
    def fail(*arguments):
        raise error

    monkeypatch.setattr(tracker.client, "get_model_version_by_alias", fail)


def test_a_model_that_is_not_registered_has_no_champion(tracker):
    assert tracker.champion("shop") is None


def test_a_registered_model_without_the_alias_has_no_champion(tracker):
    tracker.client.create_registered_model("without-alias")
    assert tracker.champion("without-alias") is None


@pytest.mark.parametrize(
    "response",
    [
        {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Registered Model with name=shop not found"},
        {"error_code": "INVALID_PARAMETER_VALUE", "message": "Registered model alias champion not found."},
    ],
)
def test_a_server_that_reports_no_champion_has_no_champion(tracker, monkeypatch, response):
    failing_client(monkeypatch, tracker, RestException(response))
    assert tracker.champion("shop") is None


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("API request failed: connection refused"),
        RestException({"error_code": "INTERNAL_ERROR", "message": "alias not found because the database is locked"}),
        RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "try again"}),
        RestException({"error_code": "PERMISSION_DENIED", "message": "no access"}),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "Invalid model name"}),
        OSError("disk I/O error"),
    ],
)
def test_a_registry_that_cannot_be_read_is_an_error_and_never_no_champion(tracker, monkeypatch, error):
    failing_client(monkeypatch, tracker, error)
    with pytest.raises(type(error)) as raised:
        tracker.champion("shop")
    assert raised.value is error
