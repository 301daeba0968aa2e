"""The page as one HTML file: the template filled, style and scripts inside."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

from benchmarks.outputs.page.content import plain

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "script.js")


def html(content: dict[str, Any]) -> str:
    """The page of `content.page`. Every text is escaped; Plotly (4.8 MB) is packed as gzip in base64 (2.0 MB)."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["plain"] = plain
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    own = {
        "style": Markup((HERE / "style.css").read_text(encoding="utf-8")),
        "script": Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        "plotly": base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode(),
    }
    return environment.get_template("template.html").render(content | own)
