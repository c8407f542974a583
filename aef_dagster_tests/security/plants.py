"""What shows that a file was unpickled."""

import os
from pathlib import Path


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))
