"""Templates to HTML: everything is escaped, and a name that does not exist is an error."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import jinja2
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt
from markupsafe import Markup

_DIGITS: Final = 6
_SMALLEST_PERCENT: Final = 0.1


def number(value: float | None) -> str:
    """A metric with as many digits as people compare; a dash for a value there is not."""
    return "—" if value is None else f"{value:.{_DIGITS}g}"


def percent(change: float) -> str:
    """The size of a change, without its sign."""
    return "less than 0.1 %" if abs(change) < _SMALLEST_PERCENT else f"{abs(change):.1f} %"


def utc(at_ms: int) -> Markup:
    """UTC milliseconds for people and programs."""
    time = datetime.fromtimestamp(at_ms / 1000, UTC)
    machine = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}">{}</time>').format(machine, f"{time:%Y-%m-%d %H:%M:%S} UTC")


def markdown(text: str) -> Markup:
    """A description as MLflow's pages show it, from whoever may write one: no HTML, no images.

    Links lead to http, https and mail addresses only. A heading is a bold line, because the page's own
    headings tell its parts.
    """
    return Markup(_markdown.render(text))  # noqa: S704 - it escapes every text


def _is_allowed(url: str) -> bool:
    return url.lower().startswith(("http://", "https://", "mailto:"))


#: What is written instead of tags that may have attributes, or that the page has for its own parts.
_TAGS: Final = {
    "heading_open": "<p><strong>",
    "heading_close": "</strong></p>\n",
    "td_open": "<td>",
    "th_open": "<th>",
}
_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable("image")
_markdown.validateLink = _is_allowed  # type: ignore[method-assign]
for _token, _tag in _TAGS.items():
    _markdown.add_render_rule(_token, lambda *_, tag=_tag: tag)


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered page."""
    return HTMLResponse(_environment.get_template(template).render(values), status)


_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("mlflow_plugins.web.lifecycle"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"markdown": markdown, "number": number, "percent": percent, "utc": utc}
