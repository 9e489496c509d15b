"""The report's style sheet."""

CSS = """
:root { --ink: #0f172a; --muted: #64748b; --line: #e2e8f0; --paper: #f8fafc; --accent: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 36px 0 12px; }
h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 0 0 10px; } a { color: var(--accent); }
.muted { color: var(--muted); } .small { font-size: 13px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(500px, 100%), 1fr));
  gap: 16px; align-items: start; }
.wide { grid-column: 1 / -1; }
.plot img { width: 100%; height: auto; display: block; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: 13px; }
td.n, th.n { text-align: right; }
td.n span { white-space: nowrap; }
tr.total td { font-weight: 600; border-top: 2px solid var(--line); }
.pill { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px;
  font-weight: 600; background: #e2e8f0; }
.pill.good, .pill.ok { background: #d1fae5; color: #065f46; }
.pill.warn { background: #fde68a; color: #78350f; }
.pill.intervene { background: #fed7aa; color: #7c2d12; }
.pill.bad, .pill.halt { background: #fecaca; color: #7f1d1d; }
.up { color: #047857; } .down { color: #b91c1c; }
.notes { border-left: 4px solid #f59e0b; margin-top: 18px; }
.notes ul { margin: 4px 0 0; padding-left: 20px; }
pre { background: #f1f5f9; border-radius: 8px; padding: 10px 12px; margin: 4px 0 12px;
  overflow-x: auto; font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; } details { margin-top: 12px; }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
