"""Laws of finding and comparing final answers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.tasks import answers
from fl_app.tasks.latex import last_boxed, normalize

PROSE = st.text("abcdefgh ,.:;!?\n-()=", max_size=40)
CENTS = st.integers(-(10**9), 10**9).map(lambda cents: Fraction(cents, 100))


def _spelled(value: Fraction, style: str) -> str:
    cents = abs(int(value * 100))
    whole, rest = divmod(cents, 100)
    text = f"{whole:,}" if "," in style else str(whole)
    if rest or "." in style:
        text += f".{rest:02}"
    return ("-" if value < 0 else "") + ("$" if "$" in style else "") + text


STYLES = st.sampled_from(["", ",", ".", "$", ",.$"])
FORMS = st.sampled_from(
    ["#### {}", "The answer is: {}", "the answer is : {}.", "So that is {}", "= {} dollars.", "{}"]
)


@given(CENTS, STYLES, FORMS, PROSE)
def test_a_number_is_found_in_every_form(
    value: Fraction, style: str, form: str, before: str
) -> None:
    text = f"{before} 7 and 1/2 ... {form.format(_spelled(value, style))}"
    assert answers.final_number(text) == value


@given(CENTS, CENTS, STYLES, STYLES, FORMS)
def test_numbers_are_equal_if_their_values_are(
    a: Fraction, b: Fraction, one: str, other: str, form: str
) -> None:
    said, reference = form.format(_spelled(a, one)), f"so 5 * 3\n#### {_spelled(b, other)}"
    assert answers.number(said, reference) == (a == b)
    assert answers.number(f"{reference}", f"#### {_spelled(b, one)}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 42", 42),
        ("#### 42\n\n### Instruction: what is 7?", 42),
        ("The answer is: 3\nThe answer is: 4", 4),
        ("#### 5\nThe answer is: 6", 6),
        ("It costs 1,234,567.50 in all", Fraction("1234567.5")),
        ("from 10-4 we get 6", 6),
        ("10-4", 4),
        ("x=-4", -4),
        ("a loss of -$3.50", Fraction("-3.5")),
        ("a loss of $-3.50", Fraction("-3.5")),
        ("−8 degrees", -8),
        ("3/4 of it", Fraction(3, 4)),
        ("half: .5", Fraction(1, 2)),
        ("1,2,3", 3),
        ("1,2345", 2345),
        ("50%.", 50),
        ("room v2.5", Fraction("2.5")),
        ("division 4/0", 0),
        ("#### none", None),
        ("no number", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_the_number_of_a_text(text: str, value: Fraction | None) -> None:
    assert answers.final_number(text) == value


CHOICES = [
    *("true", "false", "solution1", "solution2", "option1", "option2"),
    *(f"answer{k}" for k in range(1, 6)),
    *(f"ending{k}" for k in range(1, 5)),
]


@given(st.sampled_from(CHOICES), st.sampled_from(CHOICES), PROSE, PROSE)
def test_the_first_choice_of_the_references_kind_counts(
    said: str, reference: str, before: str, behind: str
) -> None:
    text = f"{before}\nthe correct answer is {said.upper()}. {behind} {reference}"
    kinds = {name: answers.CHOICES[name.rstrip("12345")] for name in (said, reference)}
    same_kind = kinds[said] == kinds[reference]
    assert answers.choice(text, reference) == (said == reference or not same_kind)
    assert answers.first_choice(before, reference) is None
    assert not answers.choice("", reference)


@pytest.mark.parametrize("reference", ["", "42", "answer", "answer6", "true1", "the answer1"])
def test_a_reference_that_is_no_choice_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"is no choice.*true"):
        answers.choice("answer1", reference)


@given(st.text(max_size=60), st.sampled_from(["number", "latex", "text", "choice"]))
def test_any_text_can_be_judged(prediction: str, kind: str) -> None:
    reference = "answer1" if kind == "choice" else "The answer is: 1"
    assert answers.ANSWERS[kind](prediction, reference) in (True, False)
    assert answers.ANSWERS[kind](reference, reference)


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.sampled_from([" ", "  ", "\n", "\t "]))
def test_text_is_compared_word_for_word(words: list[str], blank: str) -> None:
    assert answers.text(blank + blank.join(words).upper(), " ".join(words))
    assert not answers.text(blank.join([*words, "d"]), " ".join(words))


NESTED = st.recursive(
    st.text("abc+1 \\", max_size=4).filter(lambda t: not t.endswith("\\")),
    lambda inner: st.tuples(inner, inner).map(lambda pair: f"{pair[0]}{{{pair[1]}}}"),
    max_leaves=6,
)


@given(NESTED, st.text("abc }{$", max_size=10))
def test_a_box_holds_all_to_its_own_brace(inside: str, before: str) -> None:
    text = f"{before} $\\boxed{{no}}$ hence \\boxed{{{inside}}}"
    assert last_boxed(text) == inside
    assert last_boxed(f"{text} and \\boxed{{left open {{}}") == inside


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\tfrac{1}{2}", "1/2"),
        ("0.5", "1/2"),
        (".25", "0.25"),
        ("-3/4", r"\frac{-3}{4}"),
        (r"\frac{a}2", r"\frac a2".replace(" ", "")),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\$1{,}000".replace("{,}", ","), "1,000"),
        (r"12\%", "12"),
        ("x = 5", "5"),
        (r"5 \text{ inches}", "5"),
        ("$7$", "7"),
        (r"\{1,\!2\}", r"\{1,2\}"),
    ],
)
def test_latex_has_one_spelling(one: str, other: str) -> None:
    assert normalize(one) == normalize(other)
    assert normalize(normalize(one)) == normalize(one)
    assert answers.latex(f"so \\boxed{{{one}}}", f"The answer is: ${other}$.\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1/2", "1/3"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        (r"\leftarrow", "arrow"),
        (r"\text{Monday}", r"\text{Friday}"),
        ("(1,2)", "[1,2]"),
        ("-5", "5"),
        ("x+y=5", "5"),
    ],
)
def test_different_latex_stays_different(one: str, other: str) -> None:
    assert normalize(one) != normalize(other)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{3}. The answer is: 4.", "4"),
        (r"The answer is: $\boxed{\frac12}$.", r"\frac{1}{2}"),
        ("The answer is: 8.\nAnd more. 9", "8"),
        ("The answer is: 8.5", "8.5"),
        (r"so \fbox{6}", "6"),
        (r"so $\boxed 6$ it is", "6"),
        ("just 6", None),
        (r"\boxed{6", None),
    ],
)
def test_the_latex_of_a_text(text: str, answer: str | None) -> None:
    assert answers.final_latex(text) == answer


@pytest.mark.parametrize("kind", ["number", "latex"])
def test_a_reference_without_an_answer_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="reference 'none'"):
        answers.ANSWERS[kind]("1", "none")
