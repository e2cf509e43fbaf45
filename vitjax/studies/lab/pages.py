"""Pages of studies: plain HTML that needs nothing but the picture beside it and is read on a phone as well."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitjax.studies.lab.report import code_of, parts
from vitjax.studies.lab.study import Study

VERDICT_COLORS = {
    "holds": "#1a7f5a",
    "holds under conditions": "#9a6407",
    "wrong as usually stated": "#b03a2e",
}
STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; max-width: 50rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #22313f }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { font-size: 1.1rem; margin-top: 2rem }
blockquote { margin: 1rem 0; padding-left: 1rem; border-left: 4px solid #c5cdd3; font-size: 1.1rem }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; color: #fff; white-space: nowrap }
.wide { overflow-x: auto } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #dde2e6 }
td small { color: #5d6d7e; white-space: nowrap } h3 { font-size: .9rem; margin-bottom: 0 }
pre { overflow-x: auto; background: #f4f6f7; padding: .8rem; font-size: .8rem; line-height: 1.4 }
dt { font-weight: 600 } dd { margin: 0 0 .5rem }
"""


def write_page(found: dict[str, Any], study: Study, directory: str | Path) -> None:
    """NAME.html of a record; NAME.png must lie beside it."""
    (Path(directory) / f"{study.name}.html").write_text(page(found, code_of(study)))


def write_index(directory: str | Path, studies: Sequence[Study]) -> None:
    """index.html of the studies whose records and pages lie in the directory."""
    directory = Path(directory)
    paths = [directory / f"{study.name}.json" for study in studies]
    records = [json.loads(path.read_text()) for path in paths if path.with_suffix(".html").is_file()]
    (directory / "index.html").write_text(index(records))


def page(found: dict[str, Any], code: tuple[str, str]) -> str:
    """One study: claim, verdict, finding, figure, table, checks, how it was measured, code."""
    name, escape = found["name"], html.escape
    file, text = code
    checks = [
        [
            _cell(check["statement"] + (" (essential)" if check["essential"] else "")),
            _cell(check["measured"], check["unit"]),
            _cell(check["bounds"]),
            "yes" if check["passed"] else "<b>no</b>",
        ]
        for check in found["checks"]
    ]
    facts = {
        "Measured with": f"<code>{escape(found['command'])}</code>",
        "Runtime": f"{found['seconds']:.0f} s on {escape(found['device'])}",
        "Seeds": f"{', '.join(map(str, found['seeds']))}; numbers are means (lowest to highest)",
        "Versions": ", ".join(f"{escape(key)} {escape(value)}" for key, value in found["versions"].items()),
    }
    body = f"""
<p><a href="index.html">All studies</a></p>
<h1>{escape(name)}</h1>
<blockquote>{escape(found["claim"])}</blockquote>
<p>{_badge(found["verdict"])}</p>
<p>{escape(found["finding"])}</p>
<p><img src="{escape(name)}.png" alt="{escape(found["caption"])}"></p>
<p><small>{escape(found["caption"])} Bands and grey lines: lowest to highest seed.</small></p>
<h2>Measurements</h2>
{_table(found["table"]["columns"], [[_cell(cell) for cell in row] for row in found["table"]["rows"]])}
<h2>Where the verdict comes from</h2>
{_table(["must be true", "measured", "bound", "is it?"], checks)}
<p>{escape(found["rule"])}</p>
<h2>How it was measured</h2>
<p>{escape(found["method"])} <a href="#code">The code is below.</a></p>
<dl>{"".join(f"<dt>{fact}</dt><dd>{text}</dd>" for fact, text in facts.items())}</dl>
<h2>Sources</h2>
<ul>{"".join(f"<li>{escape(source)}</li>" for source in found["sources"])}</ul>
<h2 id="code">Code</h2>
<h3>vitjax/studies/{escape(file)}</h3>
<pre>{escape(text)}</pre>
"""
    return _document(f"{name}: {found['verdict']}", body)


def index(records: Sequence[dict[str, Any]]) -> str:
    """All studies with claim and verdict."""
    items = "".join(
        f'<h2><a href="{html.escape(found["name"])}.html">{html.escape(found["name"])}</a> '
        f"{_badge(found['verdict'])}</h2>\n<blockquote>{html.escape(found['claim'])}</blockquote>\n"
        f"<p>{html.escape(found['finding'])}</p>\n"
        for found in records
    )
    return _document(
        "Textbook claims about Transformers, measured",
        "<h1>Textbook claims about Transformers, measured</h1>\n<p>Each claim is tested by a small experiment on the "
        "modules of vitjax. The verdict follows from the numbers by a rule that is the same for all.</p>\n"
        + items,
    )


def _document(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>{body}</body>
</html>
"""


def _badge(verdict: str) -> str:
    return (
        f'<span class="verdict" style="background: {VERDICT_COLORS[verdict]}">{html.escape(verdict)}</span>'
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"

    lines = [row([html.escape(column) for column in columns], "th"), *(row(cells, "td") for cells in rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _cell(cell: Any, unit: str = "") -> str:
    """A cell of a record; where seeds differ, the lowest and the highest on a line of their own."""
    value, *spread = (html.escape(part) for part in parts(cell))
    return f"{value} {html.escape(unit)}".rstrip() + "".join(f"<br><small>{part}</small>" for part in spread)
