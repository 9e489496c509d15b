"""Takes pictures of a run's report for the documentation, in headless Chromium.

    python tools/picture_report.py runs/demo-20261125-120000

writes docs/report.png (a desk's first screen) and docs/report_phone.png (a phone's), in few colours
so that they stay small. Needs what `tools/headless.py` needs. Leaves out the report itself
(`pipelines/report/`).
"""

import argparse
import sys
from pathlib import Path

from headless import browser
from PIL import Image

SCREENS = {"report.png": (1280, 900), "report_phone.png": (390, 844)}
MAX_BYTES = 200_000
COLOURS = 128


def main() -> None:
    """Command line: one picture per screen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory with a report.html")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the pictures")
    parser.add_argument("--dark", action="store_true", help="as a dark system shows it")
    options = parser.parse_args()
    report = options.run / "report.html"
    if not report.exists():
        sys.exit(f"{report} does not exist: python -m pipelines.report {options.run}")
    try:
        with browser() as chromium:
            for name, (width, height) in SCREENS.items():
                out = options.out / name
                chromium.open(report, width, height, dark=options.dark)
                chromium.picture(out)
                Image.open(out).convert("RGB").quantize(COLOURS).save(out, optimize=True)
                print(f"{out}: {out.stat().st_size:,} bytes")
                if out.stat().st_size > MAX_BYTES:
                    sys.exit(f"{out} is larger than {MAX_BYTES:,} bytes")
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
