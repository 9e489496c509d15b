"""Dates with a month's name, and those of ISO 8601: March 15th, 5 May 2021, 2021-05-05.

Dates of three numbers, such as 3/4/2020, mean two days and are left to `parts.py`, as spelled.
Pure functions that never raise.
"""

import re

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan", "february feb", "march mar", "april apr", "may", "june jun",
            "july jul", "august aug", "september sept sep", "october oct", "november nov",
            "december dec",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?:(?:\s*,\s*|\s+)(?P<year>\d{4}))?"
_NAMED = tuple(
    re.compile(rf"(?:on\s+)?{form}{_YEAR}", re.IGNORECASE)
    for form in (rf"{_MONTH}\s+(?:the\s+)?{_DAY}", rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}")
)
_ISO = re.compile(r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})")
_LONGEST = 40  # characters of a date
_Date = tuple[int | None, int, int]


def same_date(reference: str, answer: str) -> bool | None:
    """Whether two dates are one; None where one of them is not read as a date.

    A year that only one of them has makes them two.
    """
    ours = _date(reference)
    theirs = None if ours is None else _date(answer)
    return None if theirs is None else ours == theirs


def _date(text: str) -> _Date | None:
    """Year, month and day."""
    if len(text) > _LONGEST:
        return None
    found = next((one for form in (*_NAMED, _ISO) if (one := form.fullmatch(text))), None)
    if found is None:
        return None
    month, day = found["month"].lower(), int(found["day"])
    number = int(month) if month.isdecimal() else _MONTHS[month]
    if not (1 <= number <= 12 and 1 <= day <= 31):
        return None
    return int(found["year"]) if found["year"] else None, number, day
