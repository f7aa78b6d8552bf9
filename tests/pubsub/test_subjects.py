"""Subjects and patterns."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silly.pubsub.subjects import Pattern, check_subject, is_subject

pytestmark = pytest.mark.no_engine

# Few characters, so that patterns often match; those that regular expressions and globs use.
TOKENS = st.text("ab[]?\\^$+-{}|(é", min_size=1, max_size=3)
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(
    st.lists(TOKENS | st.just("*"), min_size=0, max_size=3), TOKENS | st.sampled_from("*>")
).map(lambda parts: ".".join([*parts[0], parts[1]]))


def matches(pattern: list[str], subject: list[str]) -> bool:
    """The rules, as simply as can be said."""
    if pattern == [">"]:
        return len(subject) >= 1
    if not pattern or not subject:
        return pattern == subject
    return pattern[0] in {"*", subject[0]} and matches(pattern[1:], subject[1:])


@given(PATTERNS, SUBJECTS)
def test_matching_is_that_of_the_rules(pattern: str, subject: str) -> None:
    expected = matches(pattern.split("."), subject.split("."))
    assert Pattern(pattern).matches(subject) == expected
    assert Pattern(subject).matches(subject)
    assert Pattern(">").matches(subject)


@given(st.text("ab.*> \n\x85\u2028é", max_size=12))
def test_what_is_valid_is_that_of_the_rules(text: str) -> None:
    tokens = text.split(".")
    plain = all(token and not set(token) & set("*> \n\x85\u2028") for token in tokens)
    assert is_subject(text) == plain
    if plain:
        assert check_subject(text) == text
    else:
        with pytest.raises(ValueError, match=r"^subject .* is invalid: "):
            check_subject(text)
    tokens = ["x" if token == "*" else token for token in tokens]
    tokens[-1] = "x" if tokens[-1] == ">" else tokens[-1]
    if all(token and not set(token) & set("*> \n\x85\u2028") for token in tokens):
        assert Pattern(text).text == text
    else:
        with pytest.raises(ValueError, match=r"^pattern .* is invalid: "):
            Pattern(text)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("", "it is empty"),
        ("a..b", "a token is empty: there is a dot at its start or end"),
        ("a.>.b", "'>' stands for all the tokens that follow, so it must be last"),
        ("a.b*", r"'\*' and '>' stand for whole tokens"),
        ("a b", "it has whitespace or a control character"),
        ("\udc80", "it has a surrogate character"),
    ],
)
def test_errors_say_what_is_wrong(pattern: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Pattern(pattern)


def test_a_subject_that_is_published_has_no_wildcards() -> None:
    with pytest.raises(ValueError, match="wildcards are for subscriptions"):
        check_subject("a.*")
    with pytest.raises(ValueError, match="longer than 255 bytes: 'aaaa"):
        check_subject("a" * 256)


@given(PATTERNS, SUBJECTS)
def test_globs_of_redis_match_at_least_as_much(pattern: str, subject: str) -> None:
    server = pytest.importorskip("silly.pubsub.redis").RedisServer("redis://localhost", None)
    kind, name = server.key(Pattern(pattern))
    if kind:
        # The escapes of Redis, as those of `fnmatch`.
        for char in "[]?":
            name = name.replace(f"\\{char}", f"[{char}]")
        glob = name.replace("\\\\", "[\\]")
        assert fnmatch.fnmatchcase(subject, glob) or not Pattern(pattern).matches(subject)
    else:
        assert name == pattern
