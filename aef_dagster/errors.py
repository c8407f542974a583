"""The errors a user can mend.

Here: exceptions whose message alone tells what is wrong, where, and what to do next.
The command line prints them as one sentence and exits with code 2; an asset fails with the same
sentence. Anything else that is raised is a bug and keeps its traceback.
Not here: errors of one library or one room that no user can act upon.
"""

from pathlib import Path


class UserError(Exception):
    """Something the user can mend: the message says what is wrong and what to do next."""


class DataFileError(UserError):
    """A file cannot be read as what it should be.

    Parameters
    ----------
    path
        The file, or `archive.zip!member` for a member of an archive.
    cause
        What is wrong with it, in one sentence.
    line
        The line where it goes wrong, counted from 1, where there is one.
    gauge_id
        The basin that the file belongs to, where there is one.
    """

    def __init__(
        self, path: Path | str, cause: str, *, line: int | None = None, gauge_id: str | None = None
    ):
        self.path, self.cause, self.line, self.gauge_id = str(path), cause, line, gauge_id
        where = f"{path}, line {line}" if line is not None else f"{path}"
        basin = f"basin {gauge_id}: " if gauge_id else ""
        super().__init__(f"{basin}{where}: {cause}")

    def __reduce__(self):  # keyword arguments must survive the way back from a worker process
        return (_rebuild, (self.path, self.cause, self.line, self.gauge_id))


def _rebuild(path, cause, line, gauge_id):
    return DataFileError(path, cause, line=line, gauge_id=gauge_id)
