"""The errors a user can mend.

Here: exceptions whose message alone tells what is wrong, where, and what to do next.
The command line prints them as one sentence and exits with code 2; an asset fails with the same
sentence. Anything else that is raised is a bug and keeps its traceback.
Here too: how a full disk is told from other errors, since each library says it in its own way.
Not here: errors of one library or one room that no user can act upon.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = "the disk is full; free some space and run this again"
# safetensors, DuckDB, SQLite, and numpy (which counts, without an errno) each have words of their
# own; a step of Dagster passes on words only.
_FULL_DISK = re.compile(
    r"no space left on device|database or disk is full|disk quota exceeded|the disk is full"
    r"|\d+ requested and \d+ written",
    re.IGNORECASE,
)


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


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, is a full disk's or a used up quota's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # What SQLite says where not even the index of its log fits: "disk I/O error".
        if getattr(seen, "sqlite_errorname", "") == "SQLITE_IOERR_SHMSIZE":
            return True
        if _FULL_DISK.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def writing(what: object) -> Iterator[None]:
    """A block that writes something: a full disk becomes a sentence that names it.

    Parameters
    ----------
    what
        A path, or the thing and its path.

    Raises
    ------
    UserError
        The disk is full. Other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        # Not `from error`: the page and the command line show the innermost cause.
        raise UserError(f"{what} could not be written: {DISK_FULL}") from None


def _rebuild(path, cause, line, gauge_id):
    return DataFileError(path, cause, line=line, gauge_id=gauge_id)
