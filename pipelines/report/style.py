"""The report's style sheet: light or dark as the reader's system is, on a phone or a desk."""

# A chart's series: s is a stroke, c a fill; the numbers are those of `report/svg.py`'s looks.
LIGHT = ("#0b62c4", "#c2410c", "#047857", "#9333ea", "#a16207", "#0e7490", "#be185d", "#57534e")
DARK = ("#60a5fa", "#fb923c", "#34d399", "#c084fc", "#facc15", "#22d3ee", "#f472b6", "#d6d3d1")


def _variables(colours: tuple[str, ...], page: str) -> str:
    series = " ".join(f"--s{n}: {colour};" for n, colour in enumerate(colours))
    return f"{page} {series}"


_LIGHT_PAGE = (
    "--ink: #0f172a; --muted: #5b6678; --line: #e2e8f0; --paper: #f8fafc; --card: #fff; "
    "--code: #f1f5f9; --accent: #1d4ed8; --good: #047857; --bad: #b91c1c; --warn: #b45309; "
    "--good-soft: #d1fae5; --bad-soft: #fecaca; --warn-soft: #fde68a; --mark: #fde68a; "
    "--shade-warn: #fef3c7; --shade-intervene: #fed7aa; --shade-halt: #fecaca; "
    "--cold: #2563eb; --hot: #dc2626;"
)
_DARK_PAGE = (
    "--ink: #e2e8f0; --muted: #9aa7ba; --line: #334155; --paper: #0b1220; --card: #131c2e; "
    "--code: #0b1220; --accent: #93c5fd; --good: #34d399; --bad: #f87171; --warn: #fbbf24; "
    "--good-soft: #064e3b; --bad-soft: #7f1d1d; --warn-soft: #78350f; --mark: #92400e; "
    "--shade-warn: #4a3a10; --shade-intervene: #5a3210; --shade-halt: #5b1a1a; "
    "--cold: #3b82f6; --hot: #ef4444;"
)
_SERIES = "\n".join(
    f".s{n} {{ stroke: var(--s{n}); }} .c{n} {{ fill: var(--s{n}); }}" for n in range(len(LIGHT))
)

CSS = (
    f"""
:root {{ color-scheme: light dark; {_variables(LIGHT, _LIGHT_PAGE)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK, _DARK_PAGE)} }} }}
{_SERIES}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 20px 24px 64px; }
h1 { font-size: 24px; margin: 0 0 2px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 32px 0 10px; }
h3 { font-size: 15px; margin: 0 0 4px; }
p { margin: 0 0 10px; } a { color: var(--accent); }
ul { margin: 4px 0 0; padding-left: 20px; }
.muted { color: var(--muted); } .small { font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr));
  gap: 14px; align-items: start; }
.wide { grid-column: 1 / -1; }
.account { margin: 12px 0 0; display: grid; grid-template-columns: max-content 1fr; gap: 8px 18px;
  border-left: 5px solid var(--warn); }
.account.good { border-left-color: var(--good); } .account.bad { border-left-color: var(--bad); }
.account dt { font-weight: 600; color: var(--muted); } .account dd { margin: 0; }
.account dd:first-of-type { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: 13px; }
td.n, th.n { text-align: right; }
td.n span { white-space: nowrap; }
tr.total td { font-weight: 600; border-top: 2px solid var(--line); }
.pill { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px;
  font-weight: 600; background: var(--line); vertical-align: 2px; }
.pill.good, .pill.ok { background: var(--good-soft); }
.pill.warn, .pill.intervene { background: var(--warn-soft); }
.pill.bad, .pill.halt { background: var(--bad-soft); }
.up { color: var(--good); } .down { color: var(--bad); }
.notes { border-left: 4px solid var(--warn); margin-top: 14px; }
pre { background: var(--code); border-radius: 8px; padding: 8px 12px; margin: 4px 0 8px;
  overflow-x: auto; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
mark { background: var(--mark); color: inherit; border-radius: 3px; padding: 0 2px;
  text-decoration: underline wavy var(--bad); }
pre em { color: var(--bad); font: 12px/1.5 system-ui, sans-serif; margin-left: 6px; }
pre i { color: var(--muted); }
summary { cursor: pointer; font-weight: 600; } details { margin-top: 10px; }
details > .grid { margin-top: 8px; }
svg.chart { width: 100%; height: auto; display: block; }
svg.defs { position: absolute; }
.chart text { fill: var(--muted); font-size: 11.5px; }
.axis-name { color: var(--muted); font-size: 12px; margin: 4px 0 0; }
.chart .grid { stroke: var(--line); } .chart .axis { stroke: var(--muted); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.band { fill-opacity: .16; } .mark { stroke: var(--card); stroke-width: .8; }
.bar { stroke: var(--card); stroke-width: .6; }
.hatch { stroke: var(--card); stroke-width: 1.4; fill: none; }
.starved { fill: var(--cold); } .loaded { fill: var(--hot); }
.even { fill: var(--card); stroke: var(--line); }
.sign { fill: var(--ink); }
.shade.warn { fill: var(--shade-warn); } .shade.intervene { fill: var(--shade-intervene); }
.shade.halt { fill: var(--shade-halt); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; padding: 0;
  margin: 6px 0 0; font-size: 12.5px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { flex: none; }
@media (max-width: 640px) {
  main { padding: 14px 12px 48px; }
  h1 { font-size: 20px; } body { font-size: 14px; }
  .card { padding: 10px 12px; }
  .account { grid-template-columns: 1fr; gap: 0; }
  .account dd { margin-bottom: 8px; }
  .stacked thead { display: none; }
  .stacked, .stacked tbody, .stacked tr, .stacked td { display: block; width: 100%; }
  .stacked tr { border-bottom: 1px solid var(--line); padding: 4px 0; }
  .stacked td { border: 0; padding: 1px 0; }
  .stacked td:first-child { font-weight: 600; }
  .stacked td.n { display: flex; justify-content: flex-end; gap: 8px; text-align: right; }
  .stacked td.n::before { content: attr(data-label); color: var(--muted); font-size: 13px;
    margin-right: auto; }
  .stacked td.n:empty { display: none; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
)
