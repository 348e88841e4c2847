"""`exclave key`: people's signing keys."""

from __future__ import annotations

from pathlib import Path

import click

from exclave_ctl import output


@click.group()
def key() -> None:
    """Signing keys of people."""


@key.command()
@click.argument("name")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), default=".", help="Folder."
)
@click.option("--no-passphrase", is_flag=True, help="Leave the private key unencrypted.")
@click.option("--passphrase-file", type=click.Path(), help="Take the passphrase from a file.")
@output.as_json
def generate(
    name: str, folder: Path, no_passphrase: bool, passphrase_file: str | None, as_json: bool
) -> None:
    """Make NAME.key (private, mode 0600) and NAME.pub (to name in `tenant create`)."""
    from exclave_ctl import keys

    if no_passphrase and passphrase_file:
        raise click.UsageError("--no-passphrase and --passphrase-file exclude each other")
    passphrase = None if no_passphrase else output.ask_passphrase(passphrase_file, confirm=True)
    secret, public, keyid = keys.generate(name, folder, passphrase)
    if as_json:
        output.emit({"name": name, "keyid": keyid, "private": str(secret), "public": str(public)})
        return
    click.echo(f"{keyid}  {name}")
    output.note(f"private key: {secret} (keep it offline; it is never sent anywhere)")
    output.note(f"public key:  {public} (name it in `exclave tenant create --key`)")


@key.command()
@click.argument("file", type=click.Path(path_type=Path))
@output.as_json
def show(file: Path, as_json: bool) -> None:
    """Print the key id of a public key (NAME.pub or PEM)."""
    from exclave_ctl import keys

    public = keys.load_public(file)
    if as_json:
        output.emit({"keyid": public.keyid, "keytype": public.keytype, "scheme": public.scheme})
        return
    click.echo(f"{public.keyid}  {public.keytype}")
