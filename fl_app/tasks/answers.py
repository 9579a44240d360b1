"""The final answer in a generated text, and whether it equals the reference's.

Sources: multiple choice of the commonsense data sets in the form that LLM-Adapters gives them
(Hu et al. 2023, arXiv:2304.01933: "the correct answer is answer1"); numbers of GSM8K (Cobbe et al.
2021, arXiv:2110.14168: "#### 42") and of MetaMath (Yu et al. 2024, arXiv:2309.12284: "The answer
is: 42"); LaTeX of MATH (see ``fl_app.tasks.latex``).
"""

import re
from collections.abc import Callable
from fractions import Fraction

from fl_app.tasks.latex import last_boxed, normalize

# The names of the choices, by how the reference begins: BoolQ; PIQA; SIQA, ARC and OBQA;
# HellaSwag; WinoGrande.
CHOICES = {
    "true": r"true|false",
    "false": r"true|false",
    "solution": r"solution[12]",
    "answer": r"answer[1-5]",
    "ending": r"ending[1-4]",
    "option": r"option[12]",
}
MARKER = re.compile(r"####|the answer is\s*:", re.IGNORECASE)
NUMBER = re.compile(
    r"(?:(?<![\w.)])-)?"  # a sign, but no hyphen or minus between two things
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:/[1-9][0-9]*)?"
)
MOST_DIGITS = 1000  # Python refuses to read integers of more than 4300


def text(prediction: str, reference: str) -> bool:
    """Return whether both are the same words, whatever their case and white space."""
    return _words(prediction) == _words(reference)


def choice(prediction: str, reference: str) -> bool:
    """Return whether the first choice that ``prediction`` names is ``reference``.

    The possible choices follow from the reference: for "answer2", answer1 to answer5.

    Raises
    ------
    ValueError
        ``reference`` is none of the known choices.
    """
    return first_choice(prediction, reference) == reference.strip().lower()


def first_choice(prediction: str, reference: str) -> str | None:
    """Return the first choice in ``prediction`` of the reference's kind, or None.

    Raises
    ------
    ValueError
        ``reference`` is none of the known choices.
    """
    wanted = reference.strip().lower()
    names = CHOICES.get(wanted.rstrip("0123456789"))
    if names is None or not re.fullmatch(names, wanted):
        raise ValueError(
            f"the reference {reference!r} is no choice: it should be one of "
            f"{', '.join(sorted(set(CHOICES.values())))}"
        )
    found = re.search(names, prediction.lower())
    return found[0] if found else None


def number(prediction: str, reference: str) -> bool:
    """Return whether both end in the same number.

    Numbers are compared exactly; MetaMath's own script rounds them to integers first.

    Raises
    ------
    ValueError
        There is no number in ``reference``.
    """
    wanted = final_number(reference)
    if wanted is None:
        raise ValueError(f"there is no number in the reference {reference!r}")
    return final_number(prediction) == wanted


def final_number(answer: str) -> Fraction | None:
    """Return the first number after the last "####" or "The answer is:", else the last number.

    ``1,234``, ``-0.5`` and ``3/4`` are numbers; signs of currency and percent are not read. None
    where there is no number.
    """
    answer = re.sub(r"-[$€£]", "-", answer.replace("\N{MINUS SIGN}", "-"))
    *before, behind = MARKER.split(answer)
    found = NUMBER.findall(behind)
    if not found:
        return None
    chosen = (found[0] if before else found[-1]).replace(",", "")
    if len(chosen) > MOST_DIGITS:
        return None
    numerator, _, denominator = chosen.partition("/")
    return Fraction(numerator) / int(denominator or 1)


def latex(prediction: str, reference: str) -> bool:
    """Return whether both end in the same LaTeX, whatever its typesetting.

    Raises
    ------
    ValueError
        There is no answer in ``reference``.
    """
    wanted = final_latex(reference)
    if wanted is None:
        raise ValueError(
            f"the reference {reference!r} has neither \\boxed{{}} nor 'The answer is:'"
        )
    return final_latex(prediction) == wanted


def final_latex(answer: str) -> str | None:
    """Return the text after the last "The answer is:", to the end of its sentence, normalized.

    Without those words it is the content of the last ``\\boxed{}``; None where there is neither.
    """
    *before, behind = re.split(r"the answer is\s*:", answer, flags=re.IGNORECASE)
    found = behind.split(".\n")[0] if before else last_boxed(answer)
    if found is None:
        return None
    boxed = last_boxed(found)
    return normalize(found if boxed is None else boxed)


def _words(answer: str) -> list[str]:
    return answer.lower().split()


ANSWERS: dict[str, Callable[[str, str], bool]] = {
    "choice": choice,
    "latex": latex,
    "number": number,
    "text": text,
}
