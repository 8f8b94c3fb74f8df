"""A page as a browser sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import requests


@dataclass
class Parsed(HTMLParser):
    """Elements in order with the names of their attributes, the text, and what each form would send."""

    elements: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    text: str = ""
    forms: list[dict[str, str]] = field(default_factory=list)
    _textarea: str | None = None

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, answer: requests.Response) -> Parsed:
        page = cls()
        page.feed(answer.text)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append({})
        elif tag == "input" and self.forms:
            self.forms[-1][values["name"]] = values.get("value", "")
        elif tag == "button" and self.forms and "name" in values:
            self.forms[-1].setdefault("actions", "")
            self.forms[-1]["actions"] += f"{values['value']} "
        elif tag == "textarea":
            self._textarea = values["name"]
            self.forms[-1][self._textarea] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._textarea = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._textarea:
            self.forms[-1][self._textarea] += data
