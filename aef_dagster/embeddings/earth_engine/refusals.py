"""What Earth Engine refuses, told as one sentence with the next step.

Here: the sentences, and the removal of secrets from what a server says.
Not here: trying again (connection.py): what arrives here has been tried enough.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from aef_dagster.errors import UserError

SIGN_IN = (
    "set AEF_EE_KEY_FILE to the JSON key of a service account, or run `earthengine authenticate` "
    "(or `gcloud auth application-default login`) once on this machine"
)
KEPT = "finished batches are kept"

# In this order: the first that fits is told. Patterns are of Google's own messages.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (
        r"has not been used in project|api .*is disabled|service_disabled|accessnotconfigured",
        "the Earth Engine API is not enabled in the project: enable it on the project's page "
        "'APIs and services' in the Cloud console, or set AEF_EE_PROJECT to a project that has it",
    ),
    (
        r"not registered|not signed up|sign ?up for earth engine",
        "the project is not registered for Earth Engine: register it (non-commercial use is free) "
        "at code.earthengine.google.com/register, or set AEF_EE_PROJECT to one that is",
    ),
    (
        r"payload|request (is )?too large|entity too large",
        "the outlines are too detailed for one request: set AEF_EE_SCALE to a coarser value, which "
        "simplifies them more",
    ),
    (
        r"memory limit|too many pixels|computation timed out|deadline exceeded|maxpixels",
        "the computation is too large to be answered at once: set AEF_EE_SCALE to a coarser value "
        "(1000 is the study's), or use the batch export for fine ones",
    ),
    (
        r"quota|too many (concurrent )?(requests|aggregations)|rate.?limit|eecu|resource.exhausted",
        "the project's quota is used up: wait (it is counted by the minute and by the month) and "
        f"run again, {KEPT}; or set AEF_EE_PROJECT to another project, AEF_EE_SCALE to a coarser "
        "value",
    ),
    (
        r"unauthenticated|invalid.{0,20}credential|invalid_grant|reauthentication",
        f"the credentials were not accepted: {SIGN_IN}",
    ),
    (
        r"permission|forbidden|not allowed|does not have",
        "the account may not use the project: give it the roles 'Earth Engine Resource Writer' and "
        "'Service Usage Consumer' there, or set AEF_EE_PROJECT or AEF_EE_KEY_FILE to a pair that "
        "belongs together",
    ),
)
_BY_STATUS = {401: 5, 403: 6, 413: 2, 429: 4}

# Keys first, whole; then tokens, signed assertions and what is named as one, wherever they stand.
_SECRETS = (
    re.compile(r"-----BEGIN.*?(-----END[^-]*-----|$)", re.DOTALL),
    re.compile(
        r"(?i:bearer)\s+\S+|ya29\.\S+|\beyJ[\w\-]+(\.[\w\-]+)*"
        r"|(?i:(access|refresh|id)_?token|assertion|api_?key|private_key(_id)?|client_secret)"
        r"\W{1,5}[\w\-./+]{8,}"
    ),
)


@contextmanager
def explained() -> Iterator[None]:
    """Refusals within become a `UserError`; the chain behind, which may hold headers, is cut."""
    import ee
    from google.auth import exceptions
    from googleapiclient import errors

    try:
        yield
    except (ee.EEException, errors.Error) as error:
        raise UserError(sentence(str(error), status_of(error))) from None
    except exceptions.TransportError:
        raise UserError(
            "Google's sign-in did not answer; look at the network and run again, " + KEPT
        ) from None
    except exceptions.GoogleAuthError:
        raise UserError(f"the credentials were not accepted: {SIGN_IN}") from None


def sentence(message: str, status: int | None) -> str:
    """One sentence on a refusal.

    Parameters
    ----------
    message
        What Earth Engine said.
    status
        The status of its answer, where there was one.
    """
    said = without_secrets(" ".join(message.split()))[:300]
    advice = next((text for pattern, text in _SENTENCES if re.search(pattern, said, re.I)), None)
    if advice is None and status in _BY_STATUS:
        advice = _SENTENCES[_BY_STATUS[status]][1]
    if advice is None:
        advice = f"run again later, {KEPT}"
        if status is not None and status < 500:
            advice = f"this is not a passing fault; check AEF_EE_PROJECT and AEF_EE_SCALE; {KEPT}"
    code = "" if status is None else f" ({status})"
    return f"Earth Engine refused{code}: {advice}. It said: {said}"


def without_secrets(text: str) -> str:
    """A text with tokens and keys taken out."""
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    return text


def status_of(error: BaseException) -> int | None:
    """The status of the answer behind an error; the client library keeps it one link down."""
    link: BaseException | None = error
    while link is not None:
        response = getattr(link, "resp", None)
        if response is not None:
            return int(response.status)
        link = link.__context__
    return None
