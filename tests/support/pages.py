"""What a test wants to know of an HTML page."""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr", "col", "source", "wbr", "area", "base", "embed", "track"}
LABELS = ("aria-labelledby", "aria-describedby", "aria-controls", "for", "headers")


@dataclass
class Page(HTMLParser):
    """A page, read once: its elements, and what is wrong with how they are nested."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    tables: list[dict[str, int]] = field(default_factory=list)  # of each, how many captions, scopes and other heads
    shown: list[str] = field(default_factory=list)  # text, without that of styles and scripts
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.feed(self.text)
        self.close()
        self.wrong += [f"{tag} is not closed" for tag in self.open]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that closes itself, as in SVG."""
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that begins."""
        given = {key: value or "" for key, value in attrs}
        if len(given) < len(attrs):
            self.wrong.append(f"{tag} has an attribute twice")
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.tables.append({"caption": 0, "scope": 0, "other": 0})
        if tag == "caption":
            self.tables[-1]["caption"] += 1
        if tag == "th":
            self.tables[-1]["scope" if given.get("scope") in ("row", "col") else "other"] += 1

    def handle_endtag(self, tag: str) -> None:
        """An element that ends."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"{tag} ends where it is not the innermost")

    def handle_data(self, data: str) -> None:
        """Text."""
        if not {"style", "script"} & set(self.open):
            self.shown.append(data)

    @property
    def words(self) -> str:
        """The text that is shown, with single spaces."""
        return " ".join(" ".join(self.shown).split())

    def attributes(self, *names: str) -> list[str]:
        """The values of these attributes, of all elements."""
        return [given[name] for _, given in self.elements for name in names if name in given]

    @property
    def ids(self) -> list[str]:
        """All ids."""
        return self.attributes("id")

    def dangling(self) -> set[str]:
        """References to ids that are not there: labels and links within the page."""
        named = {name for value in self.attributes(*LABELS) for name in value.split()}
        named |= {value[1:] for value in self.attributes("href", "xlink:href") if value.startswith("#")}
        named |= set(re.findall(r"url\(#([^)]+)\)", self.text))
        return named - set(self.ids)

    def loaded(self) -> set[str]:
        """Addresses that a browser would ask for: none may be there."""
        found = {value for value in self.attributes("src", "srcset", "data", "action", "poster", "formaction") if value}
        found |= {value for value in self.attributes("href", "xlink:href") if not value.startswith("#")}
        found |= {each for each in re.findall(r"url\(([^)]*)\)", self.text) if not each.startswith("#")}
        return found | set(re.findall(r"@import[^;]*", self.text))
