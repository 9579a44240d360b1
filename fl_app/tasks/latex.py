"""Final answers of MATH, which are LaTeX, normalized to one spelling.

The rules are those of the data set's own scoring (Hendrycks et al. 2021, arXiv:2103.03874,
``is_equiv``), implemented anew: spelling and typesetting are dropped, but no algebra is done.
"""

import re

BOX = re.compile(r"\\f?box(?:ed)?\s*(?=\{)|\\boxed\s+(?=[^\s{])")

# What has no meaning, and what replaces it, in this order.
SPELLINGS = (
    (r"\n|\\!", ""),
    (r"\\\\", r"\\"),
    (r"\\[td]frac", r"\\frac"),
    (r"\\left(?![a-z])|\\right(?![a-z])", ""),
    (r"\^\{\\circ\}|\^\\circ", ""),
    (r"\\\$|\$", ""),
    (r"\\text\{ .*$", ""),  # a unit behind the number
    (r"\\?%", ""),
    (r"(^|[ {])\.", r"\g<1>0."),
    (r"^\s*.{1,2}?\s*=", ""),  # "x = " before the value
    (r"\\sqrt\s*([^\s{\[])", r"\\sqrt{\1}"),
    (r"\s", ""),
    (r"\\frac([^{\\])", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\})([^{\\])", r"\1{\2}"),
    (r"^0\.5$", r"\\frac{1}{2}"),
    (r"^(-?[0-9]+)/(-?[0-9]+)$", r"\\frac{\1}{\2}"),
)


def normalize(answer: str) -> str:
    """Return an answer in one spelling: ``"\\dfrac12."`` and ``"1/2"`` are ``"\\frac{1}{2}"``."""
    answer = answer.strip().removesuffix(".")
    for pattern, spelling in SPELLINGS:
        answer = re.sub(pattern, spelling, answer)
    return answer


def last_boxed(text: str) -> str | None:
    """Return the content of the last closed ``\\boxed{...}`` or ``\\fbox{...}``, or None."""
    found = None
    for match in BOX.finditer(text):
        inner = _group(text, match.end())
        found = inner if inner is not None else found
    return found


def _group(text: str, start: int) -> str | None:
    """Return the group that begins at ``start``, without its braces; a word where it has none."""
    if text[start] != "{":
        return re.split(r"[\s$]", text[start:], maxsplit=1)[0]
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position]
    return None
