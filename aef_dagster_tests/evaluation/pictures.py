"""Looking at pictures: PNG files that open, their texts, the figures behind them."""

import io
from types import ModuleType

from PIL import Image


def keeping_figures(monkeypatch, module: ModuleType) -> list:
    """The figures that a module turns into PNG files from now on, in order."""
    figures, png_of = [], module.png_of

    def kept(figure):
        figures.append(figure)
        return png_of(figure)

    monkeypatch.setattr(module, "png_of", kept)
    return figures


def opened(content: bytes) -> Image.Image:
    assert len(content) < 150_000
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # readable on a dark page
    return image


def texts(artists):
    return [artist.get_text() for artist in artists]


def legend_of(axes):
    return texts(axes.get_legend().get_texts())
