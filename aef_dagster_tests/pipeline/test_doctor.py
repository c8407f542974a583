"""`aef doctor`: what the settings need, without making anything, and the test message."""

import pytest

from aef_dagster.errors import UserError
from aef_dagster.pipeline.doctor import MISSING, examine, try_channels
from aef_dagster.settings import load_settings
from aef_dagster_tests.pipeline.listeners import webhook


def states(settings):
    return {finding.what: (finding.state, finding.told) for finding in examine(settings)}


def test_the_sample_needs_nothing_and_nothing_is_made(tmp_path):
    found = states(load_settings(home=tmp_path / "var"))
    assert MISSING not in {state for state, _told in found.values()}
    assert "set AEF_ALERT_WEBHOOK" in found["failures are told to"][1]
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize(
    ("given", "what", "told"),
    [({"executor": "k8s", "k8s_tolerations": "garbage"}, "executor k8s", "AEF_K8S_TOLERATIONS"),
     ({"dagster_storage": "postgres"}, "Dagster's history", "DAGSTER_PG_HOST"),
     ({"executor": "ray", "ray_address": "http://127.0.0.1:9"}, "executor ray", "no Ray head")],
)  # fmt: skip
def test_settings_that_cannot_work_are_told(given, what, told, tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_PG_HOST", raising=False)
    state, sentence = states(load_settings(home=tmp_path, **given))[what]
    assert state == MISSING and told in sentence


def test_an_address_of_another_kind_is_refused_at_once():
    with pytest.raises(UserError, match="AEF_RAY_ADDRESS.*cannot be used: write the address of a"):
        load_settings(ray_address="ray://127.0.0.1:10001")


def test_a_test_message_goes_out_and_a_dead_channel_is_told(tmp_path):
    with pytest.raises(UserError, match="nobody: set AEF_ALERT_WEBHOOK"):
        try_channels(load_settings(home=tmp_path))
    with webhook() as hook:
        settings = load_settings(home=tmp_path, alert_webhook=hook.address)
        assert try_channels(settings) == ["webhook"]
        assert "a test message" in hook.told[0]["text"] and str(tmp_path) in hook.told[0]["text"]
        hook.status = 500
        with pytest.raises(UserError, match="webhook: ") as refused:
            try_channels(settings)
    assert "Brook7secret" not in str(refused.value)
