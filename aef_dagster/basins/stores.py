"""Where the bytes of the time series come from: the unopened archive, or a folder.

Both list their text files by a path with forward slashes and read one by that path. The archive is
read in place: nothing is unpacked, so no member's name can lead outside a folder.
Not here: what the names mean (camels_us.py), what the bytes mean (records.py).
"""

import zipfile
import zlib
from functools import cached_property
from pathlib import Path

from aef_dagster.errors import DataFileError

# The largest of CAMELS-US is 0.6 MB: what unpacks to so much more is no series, and fills memory.
MOST_BYTES = 64 * 2**20


class ArchiveStore:
    """Text files of a zip archive; one handle, opened at the first use."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataFileError(
                self.path,
                f"not a whole zip archive ({error}): the download may have been cut short, "
                "download it again",
            ) from None

    @cached_property
    def names(self) -> list[str]:
        """Paths of the text files, sorted."""
        return sorted(name for name in self._zip.namelist() if name.endswith(".txt"))

    def label(self, name: str) -> str:
        """What to call a member in an error."""
        return f"{self.path}!{name}"

    def read(self, name: str, gauge_id: str) -> bytes:
        """Content of one member.

        Raises
        ------
        DataFileError
            When the archive is damaged at this member.
        """
        try:
            size = self._zip.getinfo(name).file_size
            if size > MOST_BYTES:
                raise zipfile.BadZipFile(f"{size / 2**20:,.0f} MB of text for one basin")
            return self._zip.read(name)
        # A RuntimeError: the member asks for a password.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise DataFileError(
                self.label(name),
                f"the archive is damaged here ({error}): download it again",
                gauge_id=gauge_id,
            ) from None


class FolderStore:
    """Text files below a folder."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def names(self) -> list[str]:
        """Paths of the text files relative to the folder, sorted."""
        found = (
            path
            for part in ("basin_mean_forcing", "usgs_streamflow")
            for path in (self.path / part).rglob("*.txt")
        )
        return sorted(path.relative_to(self.path).as_posix() for path in found)

    def label(self, name: str) -> str:
        """What to call a file in an error."""
        return str(self.path / name)

    def read(self, name: str, gauge_id: str) -> bytes:
        """Content of one file.

        Raises
        ------
        DataFileError
            When the file cannot be read.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataFileError(
                self.label(name), f"cannot be read ({error.strerror})", gauge_id=gauge_id
            ) from None
