"""The stages promote and champion when MLflow's registry cannot be read: an error, never "no champion"."""

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from attnrec_pipelines.job import PipelineError, make_job
from attnrec_pipelines.stages.champion import champion_model, check_registry
from attnrec_pipelines.stages.promote import decide_promotion
from attnrec_pipelines.stages.warm_start import find_init

ERRORS = [
    MlflowException("API request failed: connection refused"),
    RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "try again"}),
]


@pytest.fixture(params=ERRORS, ids=["no connection", "unavailable"])
def failing_registry(request, monkeypatch):
    """Let every query for a champion fail."""

    def fail(*arguments):
        raise request.param

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", fail)
    return request.param


@pytest.fixture
def job(first_day, new_home):
    """Return the first day's experiment with an empty home."""
    return make_job(str(first_day[0]), ("pipeline.init=champion",), str(new_home))


def test_nothing_is_decided_while_the_registry_cannot_be_read(failing_registry, job, first_day):
    _, _, first = first_day
    with pytest.raises(MlflowException) as raised:
        decide_promotion(job, first.histories, first.trained, first.evaluated)
    assert raised.value is failing_registry
    assert not list(job.home.stages.iterdir()), "a cached decision would outlive the failure"


def test_no_stage_takes_a_failing_registry_for_a_missing_champion(failing_registry, job):
    for stage in (check_registry, champion_model, lambda job: find_init(job, lambda init: "a key")):
        with pytest.raises(MlflowException):
            stage(job)
    assert not list(job.home.stages.iterdir())


def test_the_first_decision_is_made_and_cached_when_the_registry_responds(job, first_day, stage_times):
    _, _, first = first_day
    decision = decide_promotion(job, first.histories, first.trained, first.evaluated)
    assert decision.promoted
    assert decision.reason.startswith("first champion: ")
    before = stage_times(job.home.root)
    assert [name.partition("-")[0] for name in before] == ["promote"]
    assert decide_promotion(job, first.histories, first.trained, first.evaluated) == decision
    assert stage_times(job.home.root) == before


def test_a_registry_without_a_champion_is_an_error_for_scoring_only(job):
    assert check_registry(job) is None
    with pytest.raises(PipelineError, match="'tiny' has no champion"):
        champion_model(job)
