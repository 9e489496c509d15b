"""Chemical formulas, compared sign by sign: CO_2 is CO2, and neither C_2O nor Co2.

Leaves out arithmetic's formulas, whose factors may change places.
"""

import re

_NAMES = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb "
    "Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm "
    "Bk Cf Es Fm Md No Lr"
)
_ELEMENTS = frozenset(_NAMES.split())
_FORMULA = re.compile(r"(?:\d*(?:[A-Z][a-z]?|[()])\d*)+(?:\^\d*[+-])?")
_SYMBOL = re.compile(r"[A-Z][a-z]?")


def same_formula(reference: str, answer: str) -> bool | None:
    """Whether an answer is the reference's formula; None where the reference is not a formula.

    A formula has several elements, with a number written below one of them or a small letter
    within: H_2O and NaCl, which read as mathematics or as words would lose their order or case.
    """
    ours = _packed(reference)
    if len(ours) > 60 or _FORMULA.fullmatch(ours) is None:
        return None
    symbols = _SYMBOL.findall(ours)
    has_form = "_" in reference or "^" in reference or re.search("[a-z][A-Z]", ours) is not None
    has_several = len(symbols) > 1 or "^" in reference
    if not has_form or not has_several or not all(one in _ELEMENTS for one in symbols):
        return None
    return ours == _packed(answer)


def _packed(text: str) -> str:
    """Without the signs of subscripts; those of charges stay."""
    return re.sub(r"\\ce(?![A-Za-z])|[_{}\s]", "", text)
