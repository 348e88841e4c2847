"""report.html: what a bundle's records say, on one page for people; no script, nothing fetched.

The page is no evidence: it is made of the records, and a verifier makes it again and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from .layout import Manifest, second, shown
from .leaf import format_time
from .summary import Count
from .tally import Tally

_STYLE = """\
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid #8884;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,td.k{font-family:ui-monospace,monospace;font-size:.85rem;overflow-wrap:anywhere}
.bar{background:#4a7dbd;height:.7rem;min-width:1px}
.say{border-left:4px solid #4a7dbd;padding:.4rem 1rem;margin:1rem 0}
.bad{border-color:#c0392b}
@media print{body{max-width:none;margin:0}h2{break-after:avoid}tr{break-inside:avoid}}
"""
MAX_SHOWN = 200
"""Events that are shown one by one; `listings.json` has more."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(manifest: Manifest, tallies: Sequence[Tally]) -> bytes:
    """The page of a bundle. Equal records give equal bytes."""
    return "\n".join(_page(manifest, tallies)).encode("ascii", "xmlcharrefreplace") + b"\n"


def _page(manifest: Manifest, tallies: Sequence[Tally]) -> Iterator[str]:
    tenant, domain = _safe(manifest.tenant), _safe(manifest.trust_domain)
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>Audit of {tenant}</title>'
    yield f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<style>\n{_STYLE}</style></head><body>"
    yield f"<h1>Audit of {tenant}</h1><p>{domain}, {_span(manifest)}</p>"
    yield (
        '<p class="say">This page is made of the records in this bundle, and is no evidence by '
        "itself: <code>exclave-verify</code> makes it again and compares. Its verdict decides. "
        "Nothing here holds a prompt, an input or an answer.</p>"
    )
    yield from _overview(tallies)
    for tally in tallies:
        yield from _log(tally)
    yield from _pins(manifest)
    yield "</body></html>"


def _safe(text: str) -> str:
    """A name of whoever wrote it, fit for the page."""
    return escape(shown(text))


def _span(manifest: Manifest) -> str:
    since = second(manifest.time_from) if manifest.time_from else "the beginning"
    until = second(manifest.time_to) if manifest.time_to else "the end"
    return f"from {since} to {until}; written {format_time(manifest.created_ns)[:19]}Z"


def _overview(tallies: Sequence[Tally]) -> Iterator[str]:
    missing = sum(tally.missing_count for tally in tallies if not tally.partial)
    left = sum(tally.missing_count for tally in tallies if tally.partial)
    late = sum(max(tally.log.uploaded - tally.log.size, 0) for tally in tallies if tally.log.agent)
    if missing:
        yield f'<p class="say bad">{missing:,} records of the range are missing here.</p>'
    else:
        yield '<p class="say">No record of the range is missing here.</p>'
    if left:
        yield (
            f'<p class="say">{left:,} records of the range were not asked for: this page is about '
            "some decisions, not all of them.</p>"
        )
    if late:
        yield f"<p>{late:,} leaves had no cosignature yet, and are not part of it.</p>"
    yield "<h2>Logs</h2>"
    heads = ("log", "records", "of the range", "cosigned", "uploaded", "missing", "INTENT open")
    rows = (
        (
            _safe(tally.log.origin),
            f"{tally.records:,}",
            f"{tally.log.first:,} to {tally.log.end:,}",
            f"{tally.log.size:,}",
            f"{tally.log.uploaded:,}",
            f"{tally.missing_count:,}",
            f"{len(tally.dangling):,}",
        )
        for tally in tallies
    )
    yield from _table(heads, rows)


def _log(tally: Tally) -> Iterator[str]:
    said = tally.summary
    yield f"<h2>{_safe(tally.log.origin)}</h2>"
    if not tally.records:
        yield "<p>No record in the range.</p>"
        return
    yield from _counts("Records by day (UTC)", said.days, by_name=True)
    yield from _counts("Types", said.types)
    yield from _counts("Decisions by outcome", said.outcomes)
    yield from _counts("Decisions by model", said.models)
    yield from _counts("Decisions by rule of the policy", said.rules)
    yield from _counts("What operators did", said.operators)
    if said.events:
        yield "<h3>Overrides, approvals, gaps, incidents, erasures, disclosures</h3>"
        rows = (
            (f"{e.seq:,}", format_time(e.time_ns)[:19] + "Z", _safe(e.type), _safe(e.detail))
            for e in said.events[:MAX_SHOWN]
        )
        yield from _table(("seq", "time", "type", "what"), rows, numbers=1)
        if left := said.events_left + max(len(said.events) - MAX_SHOWN, 0):
            yield f"<p>and {left:,} more.</p>"
    if tally.missing:
        yield "<h3>Missing</h3>"
        yield "<p>" + ", ".join(f"{first} to {last}" for first, last in tally.missing[:50]) + "</p>"


def _counts(title: str, count: Count, *, by_name: bool = False) -> Iterator[str]:
    if not count.names:
        return
    found = sorted(count.names.items()) if by_name else count.ranked()
    most = max(number for _, number in found)
    yield f"<h3>{title}</h3><table>"
    for name, number in found:
        width = max(number * 100 // most, 1)
        yield (
            f'<tr><td class="k">{_safe(name)}</td><td class="n">{number:,}</td>'
            f'<td style="width:50%"><div class="bar" style="width:{width}%"></div></td></tr>'
        )
    yield "</table>"


def _table(
    heads: Sequence[str], rows: Iterator[tuple[str, ...]], *, numbers: int = -1
) -> Iterator[str]:
    """`numbers`: how many columns from the left are numbers; -1: all but the first."""

    def kind(place: int) -> str:
        number = place > 0 if numbers < 0 else place < numbers
        return ' class="n"' if number else ' class="k"'

    yield "<table><tr>" + "".join(f"<th{kind(i)}>{h}</th>" for i, h in enumerate(heads)) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
    yield "</table>"


def _pins(manifest: Manifest) -> Iterator[str]:
    yield "<h2>How to verify</h2>"
    yield (
        "<p><code>exclave-verify BUNDLE.zip --witness-key VKEY</code>, or by hand as VERIFY.md "
        "says. Bring the witness's key from elsewhere: keys out of the bundle prove only that it "
        "agrees with itself. It says that they are:</p>"
    )
    rows = [("witness", _safe(manifest.witness_vkey))]
    rows += [(_safe(log.origin), _safe(log.vkey)) for log in manifest.logs]
    yield from _table(("of", "key"), iter(rows), numbers=0)
    yield "<p>Agents that the coordinator has on file (its word): "
    yield (", ".join(_safe(agent.name) for agent in manifest.agents) or "none") + ".</p>"
