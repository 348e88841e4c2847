"""Text goes out in whole characters and never contains a stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exclave_agent.runtimes.text import StopFilter


def run(pieces: list[bytes], stops: list[str]) -> tuple[str, bool]:
    """All that comes out, and whether a stop string was found."""
    filter_ = StopFilter(stops)
    text = ""
    for piece in pieces:
        text += filter_.feed(piece)
        if filter_.stopped:
            return text, True
    return text + filter_.finish(), False


def cut(raw: bytes, data: st.DataObject) -> list[bytes]:
    """The bytes in pieces, as tokens cut them: anywhere."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=len(raw))))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


@given(st.text(), st.data())
def test_without_stops_all_of_the_text_comes_out(text: str, data: st.DataObject) -> None:
    assert run(cut(text.encode(), data), []) == (text, False)


@given(
    st.text(alphabet="abßc🙂", max_size=30),
    st.lists(st.text(alphabet="abßc🙂", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_text_ends_before_the_first_stop_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    out, stopped = run(cut(text.encode(), data), stops)
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in out for stop in stops)
    if stopped:
        # Which of two overlapping stops is seen first hangs on the cut; the text before it not.
        assert any(text.startswith(out + stop) for stop in stops)
    else:
        assert out == text


def test_the_start_of_a_stop_string_is_held_until_it_is_decided() -> None:
    filter_ = StopFilter(["END"])
    assert filter_.feed(b"the E") == "the "
    assert filter_.feed(b"N") == ""
    assert filter_.feed(b"ormous") == "ENormous"
    assert filter_.feed(b"EN") == ""
    assert filter_.finish() == "EN"


def test_a_character_is_held_until_it_is_whole_and_dropped_when_it_never_is() -> None:
    filter_ = StopFilter()
    smile = "🙂".encode()
    assert filter_.feed(b"a" + smile[:2]) == "a"
    assert filter_.feed(smile[2:]) == "🙂"
    assert filter_.feed(smile[:3]) == ""
    assert filter_.finish() == ""


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert run([b"a\xffb"], []) == ("a\ufffdb", False)


def test_empty_stop_strings_are_ignored() -> None:
    assert run([b"abc"], [""]) == ("abc", False)
