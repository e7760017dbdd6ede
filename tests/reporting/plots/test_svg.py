"""svg: matplotlib's file as a part of a page."""

import re
import xml.etree.ElementTree as ET

from pipeline.reporting.plots import svg

GIVEN = """<?xml version="1.0"?>
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="360pt" height="280pt" viewBox="0 0 360 280.5"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata>made with x, https://matplotlib.org/</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1">
  <g id="point1"><path d="M 0.123456 216
L 288 0.04" clip-path="url(#clip)" style="fill: #000001; stroke: #000010; opacity: 0.5"/></g>
  <g id="text_1"><text style="font-size: 10px; font-family: 'DejaVu Sans'; text-anchor: end" x="1.0" y="2.55"
    transform="rotate(-0 1 2)">a &lt; b &amp; c</text></g>
  <g id="text_2"><text style="font: 9px 'DejaVu Sans'; fill: #000002" transform="rotate(-90 1.25 2)">y</text></g>
  <g id="empty"/><path d="M 0 7" style="fill: none"/>
  <use xlink:href="#mark" x="3.04"/>
 </g>
 <defs><clipPath id="clip"><rect width="10"/></clipPath><path id="mark" d="M 0 0"/>
  <pattern id="hatch"><rect fill="#000004"/></pattern></defs>
</svg>"""
FOUND = svg.inline(GIVEN, "plot-0", "A <title>", 'of "it"', {"point1": "x: 1 & 2"})


def test_it_has_a_name_and_a_description() -> None:
    """As an image with text of its own; all is escaped."""
    assert FOUND.startswith(
        '<svg viewBox="0 0 360 280" width="360" height="280" role="img" aria-labelledby="plot-0-title'
    )
    assert '<title id="plot-0-title">A &lt;title&gt;</title><desc id="plot-0-desc">of &quot;it&quot;</desc>' in FOUND
    assert "<title>x: 1 &amp; 2</title>" in FOUND
    assert ">a &lt; b &amp; c</text>" in FOUND
    ET.fromstring(FOUND)  # noqa: S314  # what is above


def test_colours_and_fonts_are_the_pages() -> None:
    """In styles and in attributes; a font keeps its size."""
    assert "fill:var(--ink);stroke:var(--c1);opacity:0.5" in FOUND
    assert '<rect fill="var(--bg)"/>' in FOUND
    assert "font-size:9px;fill:var(--muted)" in FOUND
    assert "DejaVu" not in FOUND


def test_ids_are_its_own() -> None:
    """Those that something refers to, with the plot's name; others are left out."""
    assert re.findall(r' id="([^"]+)"', FOUND) == ["plot-0-title", "plot-0-desc", "plot-0-0", "plot-0-1"]
    assert 'clip-path="url(#plot-0-0)"' in FOUND
    assert 'href="#plot-0-1"' in FOUND


def test_it_is_small() -> None:
    """Tenths of a unit, no groups that do nothing, no metadata, no namespace."""
    assert 'd="M0.1 216L288 0"' in FOUND
    assert 'transform="rotate(-90 1.2 2)"' in FOUND
    assert "rotate(-0" not in FOUND
    assert "http" not in FOUND
    assert "empty" not in FOUND
    assert "M0 7" not in FOUND


def test_every_colour_is_one_of_a_kind() -> None:
    """None of them could be another's beginning, or a colour of a plot by chance."""
    assert len(set(svg.COLOURS.values())) == len(svg.COLOURS) == 5 + len(svg.SERIES)
    assert all(re.fullmatch("#0000[01][0-9a-f]", colour) for colour in svg.COLOURS)
