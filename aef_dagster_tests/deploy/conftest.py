"""One PostgreSQL for the tests of the deployment."""

import importlib.util

import pytest

from aef_dagster_tests.deploy import postgres


@pytest.fixture(scope="session")
def cluster():
    """A running private server."""
    programs = postgres.find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install --no-install-recommends postgresql")
    if importlib.util.find_spec("dagster_postgres") is None:
        pytest.skip("dagster-postgres is missing: pip install 'aef-dagster[postgres]'")
    with postgres.running(programs) as found:
        yield found
