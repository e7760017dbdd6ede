"""From matplotlib's SVG to one that belongs in a page: small, in the page's colours and font, named for readers."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from html import escape

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
# colours that plots are drawn with -> variables of the page's style sheet, which has them for light and dark
COLOURS = {"#000001": "--ink", "#000002": "--muted", "#000003": "--line", "#000004": "--bg", "#000005": "--good"}
COLOURS |= {f"#0000{number:02x}": f"--c{number - 15}" for number in range(16, 22)}
INK, MUTED, LINE, PAGE, GOOD = list(COLOURS)[:5]
SERIES = list(COLOURS)[5:]
NUMBER = re.compile(r"-?\d+\.\d+")
COMMAND = re.compile(r" ?([A-Za-z]) ?")  # of a path
REFERENCE = re.compile(r"(?<=#)[\w.-]+")
LEFT_OUT = {"font-family", "stroke-linecap"}  # of styles
UNSEEN = "fill:none"  # the style of an empty shape


def inline(text: str, name: str, title: str, description: str, hints: Mapping[str, str]) -> str:
    """Make matplotlib's SVG a part of a page.

    name: starts all ids, and must be the plot's own. title, description: for those who do not see it.
    hints: gid of an artist -> what a pointer that rests on it shows.
    """
    root = ET.fromstring(text)  # noqa: S314  # matplotlib's own
    for found in root.findall(f"{SVG}metadata"):
        root.remove(found)
    width, height = (round(float(size)) for size in root.attrib["viewBox"].split()[2:])
    writer = Writer(root, name, hints)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
        f"{''.join(map(writer.written, root))}</svg>"
    )


class Writer:
    """Writes elements as text, without groups that do nothing and ids that nothing refers to."""

    def __init__(self, root: ET.Element, name: str, hints: Mapping[str, str]) -> None:
        values = (value for element in root.iter() for value in element.attrib.values() if "#" in value)
        referred = dict.fromkeys(found for value in values for found in REFERENCE.findall(value))
        given = {element.attrib.get("id") for element in root.iter()}
        self._ids = {old: f"{name}-{number}" for number, old in enumerate(old for old in referred if old in given)}
        self._hints = hints

    def written(self, element: ET.Element) -> str:
        """An element and all that is in it."""
        tag, hint = element.tag.removeprefix(SVG), self._hints.get(element.attrib.get("id", ""))
        attributes = dict(self._attributes(element))
        if tag == "style" or attributes.get("style") == UNSEEN:
            return ""
        inner = "".join(map(self.written, element))
        if hint is not None:
            inner = f"<title>{escape(hint)}</title>{inner}"
        if tag in ("g", "defs") and not inner:
            return ""
        if tag == "g" and not attributes and hint is None:
            return inner
        written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if value)
        text = escape(element.text.strip(), quote=False) if element.text else ""
        return f"<{tag}{written}>{text}{inner}</{tag}>" if text or inner else f"<{tag}{written}/>"

    def _attributes(self, element: ET.Element) -> Iterator[tuple[str, str]]:
        for key, value in element.attrib.items():
            if key == "id":
                if value in self._ids:
                    yield key, self._ids[value]
            elif key == LINK:
                yield "href", self._renamed(value)
            elif key == "style":
                yield key, self._style(value)
            elif value in COLOURS:  # of a hatch
                yield key, f"var({COLOURS[value]})"
            elif key == "d":
                yield key, COMMAND.sub(r"\1", _short(value))
            elif not value.startswith("rotate(-0 "):
                yield key, self._renamed(_short(value))

    def _style(self, value: str) -> str:
        """A style with the page's colours, and without its own font."""
        kept = []
        for part in value.split(";"):
            key, _, setting = part.strip().partition(": ")
            if key in LEFT_OUT or not key:
                continue
            if key == "font":  # size and family in one, as older versions write
                key, setting = "font-size", setting.split()[0]
            setting = f"var({COLOURS[setting]})" if setting in COLOURS else _short(setting)
            kept.append(f"{key}:{self._renamed(setting)}")
        return ";".join(kept)

    def _renamed(self, value: str) -> str:
        return REFERENCE.sub(lambda found: self._ids.get(found[0], found[0]), value)


def _short(value: str) -> str:
    """Coordinates to a tenth of a unit, on one line."""
    rounded = NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value)
    return " ".join(rounded.split())
