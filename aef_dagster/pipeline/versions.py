"""Data versions: a hash of content, so that the same content is seen as unchanged.

Not here: when a version makes an asset refresh (automation).
"""

import hashlib

import pandas as pd

# When and from which file a row came says nothing of what it holds: a year appended to a file must
# not make the other years of that file new.
_NOT_CONTENT = ("fetched_at", "bytes_read", "source_file", "source_sha256", "source_files")


def frame_version(frame: pd.DataFrame) -> str:
    """16 hexadecimal digits that depend on the rows of a frame, not on their order."""
    content = frame.drop(columns=[name for name in _NOT_CONTENT if name in frame])
    rows = pd.util.hash_pandas_object(content[sorted(content.columns)], index=False)
    return hashlib.sha256(rows.sort_values().to_numpy().tobytes()).hexdigest()[:16]


def text_version(*texts: str) -> str:
    """16 hexadecimal digits that depend on some texts, not on their order."""
    return hashlib.sha256(" ".join(sorted(set(texts))).encode()).hexdigest()[:16]
