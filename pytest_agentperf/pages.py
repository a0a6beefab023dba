"""HTML that opens offline: the templates, and a policy under which a page may load and run nothing.

Everything in a bundle is somebody else's text: Jinja2 escapes it, no page has a script, and the
policy forbids whatever would slip through.
"""

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from pytest_agentperf import words

__all__ = ["fragment", "page", "style"]

_PACKAGE = "pytest_agentperf"
_GROUND = (
    "body{margin:0;background:#fff}"
    "@media screen and (prefers-color-scheme:dark){body{background:#101214}}"
    "@page{margin:14mm 12mm}"
)
"""What a page needs around a fragment."""


def fragment(template: str, **values: Any) -> str:
    """Render a template that brings its own style."""
    return _environment().get_template(template).render(style=_safe(style()), **values)


def page(title: str, body: str) -> str:
    """Return a whole page around a fragment; it opens from disk without a network.

    Args:
        title: of the page, escaped here.
        body: a fragment, which is HTML.
    """
    policy = (
        f"default-src 'none'; style-src {_source(_GROUND)} {_source(style())}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("page.html.jinja")
    return template.render(title=title, policy=policy, ground=_safe(_GROUND), body=_safe(body))


@cache
def style() -> str:
    """Return the style of every fragment; all of its selectors stay inside one."""
    return (resources.files(_PACKAGE) / "templates" / "style.css").read_text("utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 heavy; the plugin starts without it

    environment = Environment(
        loader=PackageLoader(_PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    environment.filters.update({name: getattr(words, name) for name in words.__all__})
    return environment


def _safe(html: str) -> Any:
    from markupsafe import Markup  # noqa: PLC0415 comes with Jinja2

    return Markup(html)  # nosec B704 # ours, or rendered by templates that escape
