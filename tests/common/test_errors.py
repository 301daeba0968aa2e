"""Words for people: one line, without what a terminal would obey."""

from common.errors import printable


def test_a_text_is_one_line_of_printable_characters() -> None:
    assert printable("é, 中, ≤ and a\u00a0space") == "é, 中, ≤ and a\u00a0space"
    assert printable("first\nsecond\r\nthird") == "first second third"
    assert printable("\x1b[31mred\x07\x00") == "?[31mred??"
    assert printable("x" * 60_000) == "x" * 500 + " … " + "x" * 497
