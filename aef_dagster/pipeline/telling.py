"""The sentence of a failed asset, first on its page.

Dagster wraps what an asset raises, and shows a stack trace before the cause. A `dg.Failure` is
shown by its own words.

Not here: sentences for the terminal (cli.py), and messages to people who do not look
(failures.py).
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

from aef_dagster.errors import UserError


def told(body: Callable) -> Callable:
    """Body of an asset whose `UserError` becomes the failure of its step, and is not retried."""
    if inspect.isgeneratorfunction(body):

        @functools.wraps(body)
        def yields(*args, **kwargs) -> Iterator:
            with _as_failure():
                yield from body(*args, **kwargs)

        return yields

    @functools.wraps(body)
    def returns(*args, **kwargs):
        with _as_failure():
            return body(*args, **kwargs)

    return returns


@contextmanager
def _as_failure() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
