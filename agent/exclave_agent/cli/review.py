"""`exclave-agent review`: what waits for people, and what they do about it, signed by their key.

It speaks to the agent's HTTP API with the reviewer's API key, so that it runs as the reviewer, who
need not be able to read the agent's home.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from exclave_agent.errors import BadRequest, Unavailable

if TYPE_CHECKING:
    from exclave_agent.review.sign import Seen
    from exclave_protocol.approval import Act
    from exclave_protocol.disclosure import Disclosure

SECONDS = 30.0
MAX_ANSWER = 4 * 1024 * 1024


@click.group()
def command() -> None:
    """See what waits for people; approve it, correct it, refuse it, signed by your own key.

    EXCLAVE_API_KEY holds your API key.
    """


def _url_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--url",
        envvar="EXCLAVE_URL",
        default="http://127.0.0.1:8181",
        show_default=True,
        help="Where the agent answers: a URL on this machine, or the path of its socket.",
    )(function)


def _key_option(function: click.decorators.FC) -> click.decorators.FC:
    return click.option(
        "--key",
        "key_file",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        envvar="EXCLAVE_REVIEW_KEY",
        required=True,
        help="Your private key (`exclave-agent review key`).",
    )(function)


def _act_options(function: click.decorators.FC) -> click.decorators.FC:
    for option in (
        click.option("--yes", is_flag=True, help="Do not ask: the text was read elsewhere."),
        _key_option,
        _url_option,
        click.argument("decision"),
    ):
        function = option(function)
    return function


@command.command()
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to make; it must not exist.",
)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase that protects the file.")
def key(name: str, output: Path, passphrase: bool) -> None:
    """Make your key. The file stays with you; the printed public key is what is registered."""
    from exclave_agent.review.keyfile import create

    secret = None
    if passphrase:
        secret = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    click.echo(create(output, name, secret))
    click.echo(
        f"{output} is your signature: keep it. The line above is public: whoever runs the agent "
        "registers it with `exclave-agent reviewer add`",
        err=True,
    )


@command.command("list")
@_url_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(url: str, as_json: bool) -> None:
    """List what waits and you may act on."""
    found = _call(url, "GET", "/v1/reviews")["reviews"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        names = ", ".join(a["approval"] for a in each["approvals"]) or each["guard"] or "a person"
        until = each["expires"][:19] + "Z" if each["expires"] else "for ever"
        click.echo(f"{each['decision']}  since {each['since'][:19]}Z  until {until}  {names}")
    if not found:
        click.echo("nothing waits for you")


@command.command()
@_url_option
@click.argument("decision")
def show(decision: str, url: str) -> None:
    """Show one decision, as you would sign it."""
    click.echo(_look(url, decision).text, nl=False)


@command.command()
@_act_options
def approve(decision: str, url: str, key_file: Path, yes: bool) -> None:
    """Let the answer go to whoever asked."""
    from exclave_protocol.approval import Act

    _do(Act.APPROVE, decision, url, key_file, yes)


@command.command()
@_act_options
def refuse(decision: str, url: str, key_file: Path, yes: bool) -> None:
    """Refuse it: nobody is given this answer."""
    from exclave_protocol.approval import Act

    _do(Act.REFUSE, decision, url, key_file, yes)


@command.command()
@_act_options
@click.option(
    "--answer",
    "answer",
    type=click.File("r", encoding="utf-8"),
    required=True,
    help="The answer to give in its place: a text file; - reads it from stdin.",
)
def correct(decision: str, url: str, key_file: Path, yes: bool, answer: Any) -> None:
    """Give another answer in its place."""
    from exclave_agent.review.sign import correction
    from exclave_agent.system import SystemRng
    from exclave_protocol.approval import Act
    from exclave_protocol.disclosure import SALT_SIZE

    text = answer.read(MAX_ANSWER + 1)
    if len(text) > MAX_ANSWER:
        raise BadRequest(f"--answer: longer than {MAX_ANSWER} characters")
    made = correction(text.rstrip("\n"), SystemRng().token(SALT_SIZE))
    _do(Act.CORRECT, decision, url, key_file, yes, made)


@command.command()
@_url_option
@click.argument("decision")
def answer(decision: str, url: str) -> None:
    """Fetch the answer of a decision that you asked for yourself, once it is released."""
    found = _call(url, "GET", f"/v1/reviews/{decision}/answer")
    if found["stands"] == "waiting":
        click.echo(found["told"] or "it waits for people", err=True)
        sys.exit(3)
    value = found["answer"]
    click.echo(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _look(url: str, decision: str) -> Seen:
    from exclave_agent.review.sign import look

    return look(_call(url, "GET", f"/v1/reviews/{decision}"), decision)


def _do(
    act: Act,
    decision: str,
    url: str,
    key_file: Path,
    yes: bool,
    corrected: Disclosure | None = None,
) -> None:
    from exclave_agent.review.keyfile import load
    from exclave_agent.system import SystemClock

    def ask() -> str:
        return str(click.prompt("Passphrase", hide_input=True, err=True))

    signing, private = load(key_file, ask)
    seen = _look(url, decision)
    click.echo(seen.text, nl=False)
    if not yes:
        click.confirm(f"Sign as {signing.name}: {act} this?", abort=True, err=True)
    posted = seen.sign(act, signing, private, time_ns=SystemClock().now_ns(), corrected=corrected)
    posted["envelope"] = json.loads(posted["envelope"])
    done = _call(url, "POST", f"/v1/reviews/{decision}", posted)
    click.echo(f"{act}: record {done['record']}; the decision is {done['stands']}", err=True)


def _call(url: str, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Raises: BadRequest (the agent says no), Unavailable (it does not answer)."""
    key = os.environ.get("EXCLAVE_API_KEY", "")
    if not key:
        raise BadRequest("EXCLAVE_API_KEY is not set: it holds your API key")
    connection = _connection(url)
    data = None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, target, data, {"authorization": f"Bearer {key}"})
        response = connection.getresponse()
        found = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException):
        raise Unavailable(f"no agent answers at {url}: --url says where it does") from None
    finally:
        connection.close()
    if response.status >= 400:
        error = found.get("error", {})
        raise BadRequest(str(error.get("message", "refused")), code=str(error.get("code", "")))
    assert isinstance(found, dict), "every answer is an object"
    return found


def _connection(url: str) -> http.client.HTTPConnection:
    from exclave_agent.cli.control import SocketConnection

    if url.startswith("/"):
        return SocketConnection(Path(url), SECONDS)
    parts = urlsplit(url)
    make: dict[str, Callable[..., http.client.HTTPConnection]] = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }
    if parts.scheme not in make or not parts.hostname:
        raise BadRequest("--url: not http://HOST:PORT, https://HOST:PORT or the path of a socket")
    return make[parts.scheme](parts.hostname, parts.port, timeout=SECONDS)
