"""The study's report: one HTML page that needs no network, made from readings.

Readings come in, text goes out. page.py: the page, its heading and its findings. parts.py: tables,
pictures, checks. style.css and script.js are put into the page. Nothing here knows where readings
come from or where the page is kept.
"""

from aef_dagster.experiments.report.page import Heading, render_report

__all__ = ["Heading", "render_report"]
