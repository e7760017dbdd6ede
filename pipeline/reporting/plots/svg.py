"""From matplotlib's SVG to one that belongs in a page: small, in the page's colours and font, named for readers."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from html import escape

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
# colours that plots are drawn with -> variables of the page's style sheet, which has them for light and dark
COLOURS = {"#000001": "--ink", "#000002": "--muted", "#000003": "--line", "#000004": "--bg", "#000005": "--good"}
COLOURS |= {f"#0000{number:02x}": f"--c{number - 15}" for number in range(16, 22)}
INK, MUTED, LINE, PAGE, GOOD = list(COLOURS)[:5]
SERIES = list(COLOURS)[5:]
NUMBER = re.compile(r"-?\d+\.\d+")


def inline(text: str, name: str, title: str, description: str, hints: Mapping[str, str]) -> str:
    """Make matplotlib's SVG a part of a page.

    name: starts all ids, and must be the plot's own. title, description: for those who do not see it.
    hints: gid of an artist -> what a pointer that rests on it shows.
    """
    root = ET.fromstring(text)  # noqa: S314  # matplotlib's own
    for unused in ("metadata",):
        for found in root.findall(f"{SVG}{unused}"):
            root.remove(found)
    for style in root.iter(f"{SVG}style"):
        style.text = ""
    used = set(re.findall(r"(?:#|url\(#)([\w.-]+)", " ".join(_references(root))))
    width, height = (round(float(size)) for size in root.attrib["viewBox"].split()[2:])
    body = "".join(_written(child, name, used, hints) for child in root)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
        f"{body}</svg>"
    )


def _references(root: ET.Element) -> list[str]:
    return [value for element in root.iter() for key, value in element.attrib.items() if key != "id"]


def _written(element: ET.Element, name: str, used: set[str], hints: Mapping[str, str]) -> str:
    """The element as text, without groups that do nothing and ids that nothing refers to."""
    tag = element.tag.removeprefix(SVG)
    if tag == "style":
        return ""
    given = element.attrib
    inner = "".join(_written(child, name, used, hints) for child in element)
    hint = hints.get(given.get("id", ""))
    attributes = {}
    for key, value in given.items():
        if key == "id":
            if value in used:
                attributes["id"] = f"{name}-{value}"
        elif key == LINK:
            attributes["href"] = f"#{name}-{value[1:]}"
        elif key == "transform" and value.startswith("rotate(-0 "):
            continue
        elif key == "style":
            attributes["style"] = _style(value, name)
        elif value in COLOURS:  # of a hatch
            attributes[key] = f"var({COLOURS[value]})"
        else:
            attributes[key] = _short(value).replace("url(#", f"url(#{name}-")
    if hint is not None:
        inner = f"<title>{escape(hint)}</title>{inner}"
    if tag in ("g", "defs") and not inner:
        return ""
    if tag == "g" and not attributes and hint is None:
        return inner
    written = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items() if value)
    text = escape(element.text.strip(), quote=False) if element.text else ""
    return f"<{tag}{written}>{text}{inner}</{tag}>" if text or inner else f"<{tag}{written}/>"


def _style(value: str, name: str) -> str:
    """A style with the page's colours, and without its own font."""
    kept = []
    for part in value.split(";"):
        key, _, setting = part.strip().partition(": ")
        if key == "font-family" or not key:
            continue
        if key == "font":  # size and family in one, as older versions write
            key, setting = "font-size", setting.split()[0]
        setting = f"var({COLOURS[setting]})" if setting in COLOURS else setting
        kept.append(f"{key}:{_short(setting)}".replace("url(#", f"url(#{name}-"))
    return ";".join(kept)


def _short(value: str) -> str:
    """Coordinates to a tenth of a unit, on one line."""
    rounded = NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value)
    return " ".join(rounded.split())
