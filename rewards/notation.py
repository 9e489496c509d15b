"""One plain spelling for the arithmetic that models write in LaTeX, Markdown and Unicode.

`$3 \\times 4 = \\boxed{12}$`, `**3 * 4 = 12**` and `3 x 4 = 12` all become `3 * 4 = 12`. What has
no plain spelling (powers, roots, subscripts) is left as it is, so that the reader stumbles over it.
Leaves out what the arithmetic means (`arithmetic`) and when it may be trusted (`doubt`).
"""

import re

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"<<[^<>]{0,80}>>", ""),  # GSM8K's notes to a calculator
        (r"\{,\}", ","),
        (r"\\(?:cdot|times|ast)(?![A-Za-z])|[\u00d7\u00b7\u22c5\u2217]", " * "),
        (r"\\div(?![A-Za-z])|\u00f7", " / "),
        (r"\u2212", "-"),
        (r"\\[dt]?frac\{([^{}]{1,60})\}\{([^{}]{1,60})\}", r"((\1)/(\2))"),
        (r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]{0,60})\}", r" \1 "),
        (r"\\(?:boxed|fbox)\{([^{}]{0,60})\}", r" \1 "),
        (r"\\(?:left|right|big|Big)(?=[()])", ""),
        (r"\\l?dots(?![A-Za-z])|\u2026", "..."),
        (r"\\\\", "\n"),
        (r"\\[()\[\]]|\$\$", "$"),
        (r"\\([%$#&])", r"\1"),
        (r"\\[,;:! ]|\\quad(?![A-Za-z])", " "),
        (r"&\s*=", "="),
        (r"(?<=[0-9)])\s*\*\*\s*(?=[0-9(])", "^"),  # a power of Python's, not bold type
        (r"\*\*|__|`", " "),
        (r"(?<=[0-9)])[ \t]+[xX][ \t]+(?=[0-9(])", " * "),
    )
)


def plainly(text: str) -> str:
    """Rewrite the operators and the mark-up of arithmetic in ASCII; other text stays as it is."""
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text
