"""Running a stack of models over long spans of days on the device: validation and simulation.

The counterpart of running.py for one pass over a span, in float32 like that. Not here: what is done
with the flow; windows of their own for each day, which running.py simulates for both engines.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aef_dagster.models.engine.grouped_batches import Alike, DeviceData, ModelTables
from aef_dagster.models.engine.grouped_network import Layout, LongRun


@dataclass(frozen=True, eq=False)
class Span:
    """What one model shall run over.

    Parameters
    ----------
    place
        Its place in the stack.
    rows, statics
        Basins, as rows of the data, and their scaled static inputs [basin, static].
    days
        Days that pass through the network.
    wanted
        Days returned; they end where `days` end.
    """

    place: int
    rows: NDArray[np.int64]
    statics: NDArray[np.float32]
    days: slice
    wanted: slice

    @property
    def lengths(self) -> tuple[int, int]:
        """Days run and days wanted."""
        return self.days.stop - self.days.start, self.wanted.stop - self.wanted.start


def run_spans(
    layout: Layout,
    rows: torch.Tensor,
    tables: ModelTables,
    data: DeviceData,
    alike: Alike,
    spans: Sequence[Span],
) -> list[NDArray[np.float32]]:
    """What each model's network gives for its span, still scaled.

    Parameters
    ----------
    layout, rows
        Parameters of the stack, [place, parameter].
    tables, data, alike
        The models' scaling, the data, and what the models have in common.
    spans
        What to run. Those of equal lengths run at once.

    Returns
    -------
    list of ndarray
        Per span float32 [basin, wanted day].
    """
    of_lengths = defaultdict(list)
    for number, span in enumerate(spans):
        of_lengths[span.lengths].append(number)
    found: dict[int, NDArray[np.float32]] = {}
    with torch.no_grad():
        for numbers in of_lengths.values():
            some = [spans[number] for number in numbers]
            flows = _run_of_length(layout, rows, tables, data, alike, some)
            found |= dict(zip(numbers, flows, strict=True))
    return [found[number] for number in range(len(spans))]


def _run_of_length(
    layout: Layout,
    rows: torch.Tensor,
    tables: ModelTables,
    data: DeviceData,
    alike: Alike,
    spans: Sequence[Span],
) -> list[NDArray[np.float32]]:
    device = rows.device
    places = torch.tensor([span.place for span in spans], device=device)
    basins = max(len(span.rows) for span in spans)
    # Models with fewer basins run some of theirs again, for nobody.
    first = np.array(
        [
            np.resize(span.rows, basins) * data.days + span.days.start
            for span in spans
        ]
    )  # fmt: skip
    width = layout.shapes[layout.first_static_weight][1]
    statics = np.zeros((len(spans), basins, width), dtype=np.float32)
    for number, span in enumerate(spans):
        statics[number, : len(span.rows), : span.statics.shape[1]] = span.statics
    run = LongRun(
        layout.views(rows[places]),
        torch.from_numpy(statics).to(device),
        None if tables.floor is None else tables.floor[places],
    )
    positions = torch.from_numpy(first).to(device)[:, None, :]
    forcing = data.forcing[alike.log_sqrt]
    mean, std = tables.forcing_mean[places], tables.forcing_std[places]
    (days, wanted), parts = spans[0].lengths, []
    # A quarter of the basin-days of an update at a time: a recorded update holds on to its memory.
    step = max(1, alike.window * alike.batch // (4 * basins))
    for begin in range(0, days, step):
        day = torch.arange(begin, min(begin + step, days), device=device)
        position = positions + day[:, None]
        weather = forcing.index_select(0, position.flatten()).view(*position.shape, -1)
        flow = run.go_on((weather - mean) / std)
        parts.append(flow[:, max(0, days - wanted - begin) :])
    flows = torch.cat(parts, dim=1).mT.cpu().numpy()
    return [
        np.ascontiguousarray(flow[: len(span.rows)])
        for span, flow in zip(spans, flows, strict=True)
    ]
