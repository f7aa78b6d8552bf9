"""``--log-config``: the configuration of `logging` from a file."""

from __future__ import annotations

import json
import logging.config
from pathlib import Path
from typing import Any, Final

from silly._values.extras import install_command

__all__ = ["configure_logging"]

_YAML: Final = (".yaml", ".yml")


def configure_logging(path: str) -> None:
    """Configure `logging` as the file *path* says.

    A name that ends in ``.json``, ``.yaml`` or ``.yml`` is a dictionary for
    `logging.config.dictConfig`, any other a file for `logging.config.fileConfig`. Loggers that it
    does not mention keep working unless it says ``disable_existing_loggers``.

    Raises:
        ValueError: the file cannot be read or used, or PyYAML is missing.
    """
    suffix = Path(path).suffix.lower()
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - /dev/stdin, too
            if suffix == ".json":
                _use(json.load(file))
            elif suffix in _YAML:
                _use(_yaml(file.read()))
            else:
                logging.config.fileConfig(file, disable_existing_loggers=False)
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise ValueError(f"--log-config: {path!r}: {error}") from None
        command = install_command("yaml")
        raise ValueError(f"--log-config with YAML needs PyYAML: {command}") from None
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--log-config: cannot read {path!r}: {reason}") from None
    except Exception as error:  # the classes that the file names may raise anything
        raise ValueError(f"--log-config: {path!r}: {_reason(error)}") from error


def _use(settings: Any) -> None:
    if not isinstance(settings, dict):
        raise ValueError("expected a mapping")  # noqa: TRY004 - it is text, not an argument
    logging.config.dictConfig({"disable_existing_loggers": False, **settings})


def _yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415 - an extra

    return yaml.safe_load(text)


def _reason(error: BaseException) -> str:
    """Return what is wrong, in a line: `logging.config` says where, and the cause says what."""
    text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    cause = error.__cause__
    return text if cause is None or str(cause) in text else f"{text}: {_reason(cause)}"
