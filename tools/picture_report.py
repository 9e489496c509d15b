"""Takes a picture of a run's report for the documentation, in headless Chromium.

    python tools/picture_report.py runs/demo-20261125-120000 --out docs/report.png

Needs `chromium` on the path (Debian's package of that name). Leaves out the report itself
(`pipelines/report/`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# A sandbox of its own fails in containers; the page is ours and asks for nothing.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars")  # fmt: skip


def picture(report: Path, out: Path, width: int, height: int) -> None:
    """Write a PNG of the top of a page.

    Raises:
        SystemExit: there is no Chromium, or it wrote nothing.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("chromium is not installed: install Debian's package of that name")
    with tempfile.TemporaryDirectory() as profile:
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--screenshot={out.resolve()}"]
        command += [f"--window-size={width},{height}", report.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True)
    if not out.exists():
        raise SystemExit(f"chromium wrote no picture: {done.stderr[-500:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory with a report.html")
    parser.add_argument("--out", type=Path, default=Path("docs/report.png"))
    parser.add_argument("--size", type=int, nargs=2, default=(1100, 900), help="pixels")
    options = parser.parse_args()
    report = options.run / "report.html"
    if not report.exists():
        sys.exit(f"{report} does not exist: python -m pipelines.report {options.run}")
    picture(report, options.out, *options.size)


if __name__ == "__main__":
    main()
