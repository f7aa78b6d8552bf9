"""``--env-file``: environment variables from a file, set before anything reads them."""

from __future__ import annotations

from collections.abc import Sequence

from silly._values.extras import install_command
from silly.cli.arguments import ENV_FILE, Parser, add_option

__all__ = ["load_env_file"]


def load_env_file(arguments: Sequence[str]) -> None:
    """Set the variables in the file that ``--env-file`` names, if it is among *arguments*.

    A variable that is set already keeps its value, as with uvicorn. The defaults of the other
    options come from the environment, so this is called before they are parsed.

    Raises:
        ValueError: the file cannot be read, or python-dotenv is missing.
    """
    parser = Parser("silly", add_help=False)
    add_option(parser, ENV_FILE, ENV_FILE.from_environment())
    path = parser.parse_known_args(arguments)[0].env_file
    if path is None:
        return
    try:
        import dotenv  # noqa: PLC0415 - an extra
    except ImportError:
        command = install_command("env-file")
        raise ValueError(f"--env-file needs python-dotenv: {command}") from None
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - /dev/stdin, too
            dotenv.load_dotenv(stream=file)
    except OSError as error:
        raise ValueError(f"--env-file: cannot read {path!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--env-file: {path!r} is not UTF-8 text") from None
