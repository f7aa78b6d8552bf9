"""Every option of every verb is defined once, and its parsers and help derive from that."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections import defaultdict
from typing import Any

import click
import pytest

from silly import runtime
from silly.bench.encryption import Encryption
from silly.bench.plan import Plan
from silly.cli import arguments, bench, connect, echo, run
from silly.cli.command import GroupedCommand
from silly.cli.echoing.impairment import Impairment
from silly.cli.options import LIMITS, Option
from silly.net.limits import Limits

pytestmark = pytest.mark.no_engine

COMMANDS: dict[str, click.Command] = {
    "echo": echo._echo,
    "connect": connect._connect,
    "bench": bench._bench,
    "bench find-max": bench._find_max,
    "bench compare": bench._compare,
}
TABLES: dict[str, list[Option]] = {
    "silly": [*arguments.OPTIONS, *LIMITS],
    **{
        verb: [each.option for each in command.params if isinstance(each, click.Option)]  # type: ignore[attr-defined]
        for verb, command in COMMANDS.items()
    },
}
ALL = [(verb, option) for verb, table in TABLES.items() for option in table]
every_option = pytest.mark.parametrize(
    ("verb", "option"), ALL, ids=[f"{verb} {option.flag}" for verb, option in ALL]
)

# Flags that mean something else in another verb, and why.
DIFFERENT = {
    "--workers": "processes that serve, processes that load",
    "--timeout": "connect waits for one connection, bench for each reply, too",
    "--idle-timeout": "of one connection, of each connection of a listener",
    "--duration": "of the measurement, of each try",
    "--tls": "with a certificate made for it, checking the server's",
    "--binary": "lines as messages, messages of the load",
    "--udp": "answers datagrams too, sends datagrams only, measures datagrams",
    "--json": "lines about a server, a file with the result",
}


@every_option
def test_options_are_documented(verb: str, option: Option) -> None:
    assert option.help
    assert not option.help.endswith(".")
    assert option.full_help.endswith(".")
    assert option.full_help.count("efault") <= 1
    assert option.kind is None or option.kind.metavar


@every_option
def test_defaults_are_shown_as_they_can_be_given(verb: str, option: Option) -> None:
    if option.kind is None or option.default is None:
        return
    text = option.kind.text(option.default)
    assert option.parse(text) == option.default
    assert f"(default: {text})." in option.full_help


def by_flag() -> dict[str, dict[tuple[Any, str], list[str]]]:
    """The meanings of each flag, and the verbs in which it has them."""
    found: dict[str, dict[tuple[Any, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for verb, option in ALL:
        found[option.flag][option.kind, option.help].append(verb)
    return found


def test_a_flag_means_the_same_in_every_verb() -> None:
    assert {flag for flag, meanings in by_flag().items() if len(meanings) > 1} == set(DIFFERENT)


@pytest.mark.parametrize("verb", TABLES)
def test_names_and_short_flags_are_unique(verb: str) -> None:
    flags = [each.flag for each in TABLES[verb]]
    flags += [each.short for each in TABLES[verb] if each.short]
    assert len(set(flags)) == len(flags)
    assert len({each.name for each in TABLES[verb]}) == len(TABLES[verb])


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_shows_every_option_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(COMMANDS[verb], GroupedCommand)
    COMMANDS[verb].main(["--help"], standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    for each in TABLES[verb]:
        flag = f"{each.flag} {each.kind.metavar}" if each.kind else each.flag
        assert flag in shown
        assert each.full_help.split()[-1] in shown


def test_help_shows_every_option_of_a_script() -> None:
    shown = run._parser().format_help()
    options = shown.partition("positional arguments")[2]
    for each in TABLES["silly"]:
        assert re.search(rf"^  {each.flag}\b", options, re.MULTILINE)
        assert each.kind is None or f"{each.flag} {each.kind.metavar}" in options


def parsed(verb: str) -> dict[str, Any]:
    """What the options of *verb* are if none is given."""
    if verb == "silly":
        return vars(run._parser().parse_args(["x.py"]))
    words = ["--slo", "p99<1s"] if verb == "bench find-max" else []
    words += ["x"] * sum(isinstance(each, click.Argument) for each in COMMANDS[verb].params)
    return COMMANDS[verb].make_context(verb, words).params


@every_option
def test_a_default_is_what_the_parser_returns(verb: str, option: Option) -> None:
    if option.is_required:
        return
    value = parsed(verb)[option.name]
    if option.is_repeatable:
        assert not value
    elif option.kind is None and not option.has_negation:
        assert value is False
    else:
        assert value == option.default


def defaults(dataclass: Any) -> dict[str, Any]:
    return {each.name: each.default for each in dataclasses.fields(dataclass)}


def test_defaults_are_those_of_the_code() -> None:
    assert parsed("silly")["grace"] == runtime.GRACE
    script = inspect.signature(runtime.run_script).parameters
    for name in ("grace", "debug"):
        assert parsed("silly")[name] == script[name].default
    of_echo, of_network = parsed("echo"), defaults(Impairment)
    assert {name: of_echo[name] for name in of_network} == of_network
    of_bench, of_plan = parsed("bench"), defaults(Plan)
    # None: it depends on other options; the text of the default says how.
    depend = {"connections", "busy_poll"}
    assert {name for name in depend if of_bench[name] is None} == depend
    several = {"tls"}  # a plan has the options of TLS as one value
    for name in of_plan.keys() & of_bench.keys() - depend - {"addr"} - several:
        assert of_bench[name] == of_plan[name], name
    of_encryption = defaults(Encryption)
    assert of_bench["resume"] == of_encryption["resume"]
    texts = {each.name: each for each in TABLES["bench"]}
    assert texts["connections"].parse(texts["connections"].default_text) == of_plan["connections"]
    assert texts["duration"].parse(texts["duration"].default_text) == Plan("x:1").measured_seconds


def test_defaults_of_limits_are_those_of_limits() -> None:
    for option, field in zip(LIMITS, Limits.fields(), strict=True):
        assert field.parse(option.default_text) == field.default == getattr(Limits(), field.name)
        assert field.parse(field.default_text) == field.default


@pytest.mark.parametrize("option", LIMITS, ids=[each.flag for each in LIMITS])
def test_errors_are_the_same_in_every_parser(
    option: Option, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="'bad' is not ") as refused:
        option.parse("bad")
    with pytest.raises(SystemExit):
        run._parser().parse_args([option.flag, "bad", "x.py"])
    assert (
        f"argument {option.flag}: {refused.value} (see: silly --help)\n" in capsys.readouterr().err
    )
    assert echo.main([option.flag, "bad"]) == 2
    assert f"'{option.flag}': {refused.value} (see: " in capsys.readouterr().err
    variable = f"SILLY_{option.name.upper()}"
    with pytest.raises(ValueError, match=re.escape(f"{variable}: {refused.value}")):
        Limits.from_env({variable: "bad"})
