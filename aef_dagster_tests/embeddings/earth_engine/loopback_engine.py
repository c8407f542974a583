"""An Earth Engine on this machine: it computes what it is asked, from a world of its own.

Here: `Engine`, an HTTP server that answers discovery, algorithms, value:compute,
table:computeFeatures, table:export and operations, and hands out tokens. What was asked is taken
from the posted expression, which is walked and computed; an unknown function is a refusal. Faults
are switched on by `fail`.
Not here: the truth (field.py, tile_world.py).
"""

import csv
import functools
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import shapely
from numpy.typing import NDArray

# One degree of the equator, as Earth Engine turns metres into degrees.
DEGREE_M = 111_319.49079327358
TOKEN = "ya29.token-that-nobody-may-see"


@dataclass(frozen=True)
class SceneImage:
    """One image of a collection: the annual one, unless it is told otherwise."""

    year: int
    box: tuple[float, float, float, float]
    properties: dict[str, Any]
    # lon, lat [n] -> values [n, bands], NaN where masked or outside.
    read: Callable[[NDArray, NDArray], NDArray]
    collection: str = "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"
    bands: tuple[str, ...] = tuple(f"A{i:02d}" for i in range(64))

    def value(self, name: str) -> Any:
        start = datetime(self.year, 1, 1, tzinfo=UTC).timestamp() * 1000
        return self.properties.get(name, start if name == "system:time_start" else None)


@dataclass(frozen=True)
class Raster:
    """An image while it is computed: named bands, and how they are read."""

    bands: tuple[str, ...]
    read: Callable[[NDArray, NDArray], NDArray]


@dataclass(frozen=True)
class Feature:
    geometry: Any
    properties: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request.

    A `status` with a message; the answer `cut` in its middle; a page of `html` in its place; a
    feature left out of it (`short`).
    """

    status: int = 200
    message: str = ""
    kind: str = "status"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request as it came, and what its expression asked for."""

    method: str
    path: str
    headers: Message
    body: dict[str, Any]
    size: int
    facts: dict[str, list[Any]] = field(default_factory=dict)


class Refusal(Exception):
    """The expression cannot be computed."""


class Walk:
    """Computes one expression, and notes what it asks for in `facts`."""

    def __init__(self, images: Sequence[SceneImage], expression: dict[str, Any]):
        self.images, self.values = images, expression["values"]
        self.facts: dict[str, list[Any]] = {}
        self.result = self.node(self.values[expression["result"]], {})

    def note(self, **facts: Any) -> None:
        for name, value in facts.items():
            self.facts.setdefault(name, []).append(value)

    def node(self, node: dict[str, Any], names: dict[str, Any]) -> Any:
        if "valueReference" in node:
            return self.node(self.values[node["valueReference"]], names)
        if "argumentReference" in node:
            return names[node["argumentReference"]]
        if "constantValue" in node:
            return node["constantValue"]
        if "arrayValue" in node:
            return [self.node(item, names) for item in node["arrayValue"]["values"]]
        if "dictionaryValue" in node:
            items = node["dictionaryValue"]["values"].items()
            return {key: self.node(item, names) for key, item in items}
        if "functionDefinitionValue" in node:
            made = node["functionDefinitionValue"]
            body = self.values[made["body"]]
            return lambda *args: self.node(
                body, {**names, **dict(zip(made["argumentNames"], args, strict=True))}
            )
        call = node["functionInvocationValue"]
        function = FUNCTIONS.get(call["functionName"])
        if function is None:
            raise Refusal(f"Unknown function {call['functionName']}")
        return function(self, **{k: self.node(v, names) for k, v in call["arguments"].items()})


def load(walk: Walk, id: str) -> list[SceneImage]:
    walk.note(collection=id)
    return [image for image in walk.images if image.collection == id]


def mosaic(walk: Walk, collection: list[SceneImage]) -> Raster:
    if not collection:
        return Raster((), lambda lon, lat: np.empty((lon.size, 0)))

    def read(lon: NDArray, lat: NDArray) -> NDArray:
        values = np.full((lon.size, 64), np.nan)
        for image in collection:  # the last one lies on top
            there = image.read(lon, lat)
            values = np.where(np.isnan(there), values, there)
        return values

    return Raster(tuple(f"A{i:02d}" for i in range(64)), read)


def select(
    walk: Walk, input: Raster, bandSelectors: list[str], newNames: list[str] | None = None
) -> Raster:
    absent = [name for name in bandSelectors if name not in input.bands]
    if absent:
        raise Refusal(f"Image.select: Band pattern '{absent[0]}' did not match any bands.")
    at = [input.bands.index(name) for name in bandSelectors]
    return Raster(tuple(newNames or bandSelectors), lambda lon, lat: input.read(lon, lat)[:, at])


def add_bands(walk: Walk, dstImg: Raster, srcImg: Raster) -> Raster:
    return Raster(
        dstImg.bands + srcImg.bands,
        lambda lon, lat: np.hstack([dstImg.read(lon, lat), srcImg.read(lon, lat)]),
    )


def mask(walk: Walk, image: Raster) -> Raster:
    return Raster(image.bands, lambda lon, lat: (~np.isnan(image.read(lon, lat))).astype(float))


def reduce_regions(
    walk: Walk, image: Raster, collection: list[Feature], reducer: dict, scale: float, crs: str
) -> list[Feature]:
    walk.note(scale=scale, crs=crs, reducer=reducer["name"], bands=image.bands)
    if crs != "EPSG:4326":
        raise Refusal(f"this engine computes in EPSG:4326, not {crs}")
    names = image.bands if len(image.bands) > 1 else reducer["outputs"]
    made = []
    for feature in collection:
        lon, lat, share, centred = cells(feature.geometry, scale / DEGREE_M)
        values = image.read(lon, lat)
        valid = ~np.isnan(values)
        if reducer["name"] == "mean":
            weight = share[:, None] * valid
            total = weight.sum(axis=0)
            with np.errstate(invalid="ignore"):
                numbers = np.where(valid, values, 0).T @ share / total
            found = {n: v for n, v, t in zip(names, numbers, total, strict=True) if t > 0}
        else:
            counts = (centred[:, None] & valid).sum(axis=0)
            found = dict(zip(names, counts.tolist(), strict=True))
        made.append(replace(feature, properties={**feature.properties, **found}))
    return made


def cells(geometry: Any, step: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Pixels of a grid that a polygon touches: centre, share within, whether the centre is."""
    west, south, east, north = (np.asarray(geometry.bounds) / step).tolist()
    x, y = np.meshgrid(
        np.arange(np.floor(west), np.ceil(east)), np.arange(np.floor(south), np.ceil(north))
    )
    x, y = x.ravel() * step, y.ravel() * step
    boxes = shapely.box(x, y, x + step, y + step)
    shapely.prepare(geometry)
    share = shapely.contains_properly(geometry, boxes).astype(float)
    edge = np.flatnonzero((share == 0) & shapely.intersects(geometry, boxes))
    share[edge] = shapely.area(shapely.intersection(geometry, boxes[edge])) / step**2
    touched = share > 0
    lon, lat = x[touched] + step / 2, y[touched] + step / 2
    return lon, lat, share[touched], shapely.contains_xy(geometry, lon, lat)


def date_filter(walk: Walk, leftValue: tuple[str, str], rightField: str) -> Callable[[Any], bool]:
    walk.note(dates=leftValue)
    start, end = (datetime.fromisoformat(day + "T00:00+00:00") for day in leftValue)
    return lambda image: (
        start.timestamp() * 1000 <= image.value(rightField) < end.timestamp() * 1000
    )


def box_filter(walk: Walk, leftField: str, rightValue: Feature) -> Callable[[Any], bool]:
    walk.note(region=rightValue.geometry.bounds)
    return lambda image: rightValue.geometry.intersects(shapely.box(*image.box))


def not_null(walk: Walk, properties: list[str]) -> Callable[[Any], bool]:
    return lambda feature: all(feature.properties.get(name) is not None for name in properties)


def histogram(walk: Walk, collection: list[Any], property: str) -> dict[str, int]:
    values = [image.value(property) for image in collection]
    return {str(v): values.count(v) for v in sorted({v for v in values if v is not None})}


def collection_of(walk: Walk, features: list[Feature]) -> list[Feature]:
    walk.note(basins=[feature.properties.get("gauge_id") for feature in features])
    return features


def feature_select(
    walk: Walk, input: Feature, propertySelectors: list[str], retainGeometry: bool = True
) -> Feature:
    kept = {name: input.properties[name] for name in propertySelectors if name in input.properties}
    return Feature(input.geometry if retainGeometry else None, kept)


def polygon(walk: Walk, coordinates: list, geodesic: bool = True, **_: Any) -> Any:
    walk.note(geodesic=geodesic)
    return shapely.Polygon(coordinates[0], coordinates[1:])


def multi_polygon(walk: Walk, coordinates: list, geodesic: bool = True, **_: Any) -> Any:
    walk.note(geodesic=geodesic)
    return shapely.MultiPolygon([(rings[0], rings[1:]) for rings in coordinates])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ImageCollection.load": load,
    "ImageCollection.mosaic": mosaic,
    "Collection.filter": lambda walk, collection, filter: [c for c in collection if filter(c)],
    "Collection.map": lambda walk, collection, baseAlgorithm: [
        baseAlgorithm(item) for item in collection
    ],
    "Collection.size": lambda walk, collection: len(collection),
    "Collection": collection_of,
    "DateRange": lambda walk, start, end: (start, end),
    "Filter.dateRangeContains": date_filter,
    "Filter.intersects": box_filter,
    "Filter.notNull": not_null,
    "Image.select": select,
    "Image.rename": lambda walk, input, names: replace(input, bands=tuple(names)),
    "Image.addBands": add_bands,
    "Image.mask": mask,
    "Image.reduceRegions": reduce_regions,
    "Reducer.mean": lambda walk: {"name": "mean", "outputs": ("mean",)},
    "Reducer.count": lambda walk: {"name": "count", "outputs": ("count",)},
    "Reducer.setOutputs": lambda walk, reducer, outputs: {**reducer, "outputs": tuple(outputs)},
    "Feature": lambda walk, geometry, metadata=None: Feature(geometry, metadata or {}),
    "Feature.select": feature_select,
    "Element.set": lambda walk, object, key, value: replace(
        object, properties={**object.properties, key: value}
    ),
    "GeometryConstructors.Polygon": polygon,
    "GeometryConstructors.MultiPolygon": multi_polygon,
    "GeometryConstructors.Rectangle": lambda walk, coordinates, **_: shapely.box(*coordinates),
    "Projection": lambda walk, crs: crs,
    "AggregateFeatureCollection.array": lambda walk, collection, property: [
        image.value(property) for image in collection
    ],
    "AggregateFeatureCollection.histogram": histogram,
    "List.distinct": lambda walk, list: [*dict.fromkeys(list)],
}


@dataclass
class Engine:
    """The server's state: what it has, what it was asked, what goes wrong next.

    `bucket` is the folder that stands for Cloud Storage.
    """

    url: str
    images: list[SceneImage]
    bucket: Path
    asked: list[Asked] = field(default_factory=list)
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fail(self, ending: str, *faults: Fault | None, forever: bool = False) -> None:
        """The next requests to addresses with this ending go wrong in turn; None goes well."""
        self.faults[ending] = [*faults] * (1000 if forever else 1)

    def requests(self, ending: str) -> list[Asked]:
        """What came to addresses with this ending."""
        return [asked for asked in self.asked if asked.path.endswith(ending)]

    def answer(self, asked: Asked) -> Any:
        """What a request is answered with: JSON, or the bytes of it."""
        if asked.path.endswith("/$discovery/rest"):
            return shipped("cloud_api_discovery_document.json")
        if asked.path.endswith("/algorithms"):
            return shipped("algorithms.json")
        if asked.path.endswith("/token"):
            return {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        if "/operations/" in asked.path:
            operation = self.operations[asked.path.split("/")[-1]]
            operation["metadata"]["state"] = "SUCCEEDED"
            return operation
        walk = Walk(self.images, asked.body["expression"])
        asked.facts = walk.facts
        if asked.path.endswith("value:compute"):
            return {"result": walk.result}
        if asked.path.endswith("table:computeFeatures"):
            start = int(asked.body.get("pageToken", 0))
            end = start + int(asked.body.get("pageSize", 1000))
            more = {"nextPageToken": str(end)} if end < len(walk.result) else {}
            page = [
                {"type": "Feature", "geometry": None, "properties": feature.properties}
                for feature in walk.result[start:end]
                if feature.geometry is None
            ]
            return {"type": "FeatureCollection", "features": page, **more}
        if asked.path.endswith("table:export"):
            return self._export(asked.body, walk.result)
        raise Refusal(f"no such method: {asked.path}")

    def _export(self, body: dict[str, Any], features: list[Feature]) -> dict[str, Any]:
        place = body["fileExportOptions"]["cloudStorageDestination"]
        path = self.bucket / place["bucket"] / (place["filenamePrefix"] + ".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(body["selectors"])
            for feature in features:
                writer.writerow([feature.properties.get(name) for name in body["selectors"]])
        number = f"TASK{len(self.operations) + 1}"
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        facts = {"state": "PENDING", "type": "EXPORT_FEATURES", "createTime": now,
                 "updateTime": now, "description": body["description"]}  # fmt: skip
        self.operations[number] = {"name": f"projects/p/operations/{number}", "metadata": facts}
        return self.operations[number]

    def next_fault(self, path: str) -> Fault | None:
        for ending, waiting in self.faults.items():
            if path.endswith(ending) and waiting:
                return waiting.pop(0)
        return None


@functools.cache
def shipped(name: str) -> bytes:
    """A document of the client library's own tests, which its package brings along."""
    return (resources.files("ee") / "tests" / name).read_bytes()


class Handler(BaseHTTPRequestHandler):
    """One connection to an engine."""

    protocol_version = "HTTP/1.1"
    # Else header and body leave as two packets, and the second waits 40 ms for an answer.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self):
        self.handle_request()

    def do_POST(self):
        self.handle_request()

    def handle_request(self):
        engine = self.server.engine
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        form = "json" not in self.headers.get("Content-Type", "json")
        body = parse_qs(raw.decode()) if form else json.loads(raw or b"{}")
        asked = Asked(self.command, urlsplit(self.path).path, self.headers, body, len(raw))
        engine.asked.append(asked)
        fault = engine.next_fault(asked.path)
        kind = None if fault is None else fault.kind
        if kind == "html":
            return self.reply(
                fault.status, b"<html>Please sign in to the network</html>", "text/html"
            )
        if kind == "status":
            error = {"error": {"code": fault.status, "message": fault.message}}
            return self.reply(fault.status, json.dumps(error).encode(), headers=fault.headers)
        try:
            status, told = 200, engine.answer(asked)
        except Refusal as refusal:
            status, told = 400, {"error": {"code": 400, "message": str(refusal)}}
        if kind == "short":
            told["features"].pop()
        content = told if isinstance(told, bytes) else json.dumps(told).encode()
        return self.reply(status, content, cut=kind == "cut")

    def reply(self, status, content, kind="application/json", cut=False, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def running(images: Sequence[SceneImage], bucket: Path):
    """An engine that listens on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.engine = Engine(f"http://127.0.0.1:{server.server_port}", list(images), bucket)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.engine
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
