"""Settings in files of their own, as container engines, systemd and vault agents hand secrets over.

The file of a setting is named as its environment variable is, in small or capital letters:
``changeover_database_password``. Other files in the directory are left alone.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import SecretsSettingsSource

from changeover.models.errors import Invalid

ENV_PREFIX = "CHANGEOVER_"

DIRECTORY = Path("/run/secrets")
"""Where container engines put secrets."""


def secrets_dir() -> Path | None:
    """The directory in force: what ``CHANGEOVER_SECRETS_DIR`` names, else :data:`DIRECTORY`.

    The latter only where it can be listed: nobody asked for it. Raises :class:`Invalid` where the
    named one is none.
    """
    named = os.environ.get(f"{ENV_PREFIX}SECRETS_DIR")
    if not named:
        listed = os.access(DIRECTORY, os.R_OK | os.X_OK) and DIRECTORY.is_dir()
        return DIRECTORY if listed else None
    path = Path(named)
    try:
        next(path.iterdir(), None)
    except OSError as exc:
        raise Invalid(f"{path}: {exc.strerror} (named by CHANGEOVER_SECRETS_DIR)") from exc
    return path


def secret_files() -> dict[str, Path]:
    """The files that are meant for settings, by the setting's name; it may not exist."""
    directory = secrets_dir()
    if directory is None:
        return {}
    prefix = ENV_PREFIX.lower()
    return {
        path.name.lower().removeprefix(prefix): path
        for path in sorted(directory.iterdir())
        if path.name.lower().startswith(prefix)
    }


def readable_by_all(path: Path) -> bool:
    """Whether every user of this machine can read the file. Raises ``OSError``."""
    path = path.resolve(strict=True)
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(above.stat().st_mode & stat.S_IXOTH for above in path.parents)


class SecretFiles(SecretsSettingsSource):
    """The library's source; a file that cannot be taken is an error that names it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Raises :class:`Invalid` besides what the library raises."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                return super().get_field_value(field, field_name)
        except OSError as exc:
            raise Invalid(f"{exc.filename}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise Invalid(f"{secret_files()[field_name]}: is no UTF-8 text") from exc
        except UserWarning as exc:
            raise Invalid(str(exc).removesuffix(".")) from exc
