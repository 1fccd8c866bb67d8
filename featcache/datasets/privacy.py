"""Patient ids of file headers leave this package only as keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import platformdirs

from featcache.errors import ConfigurationError

__all__ = ["hashed_patient", "patient_salt"]

_FILE = "patient-salt"


def patient_salt(home: Path | str | None = None) -> bytes:
    """The secret of a home with which patient ids are hashed; made when it is first needed.

    Ids have few digits: without a secret anyone could hash them all and compare. Who has the home can still test a
    guess, so keep the file ``patient-salt`` out of what you publish; the stores do not need it.

    Parameters
    ----------
    home
        Folder of the stores; default FEATCACHE_HOME, else the platform's data folder.

    Returns
    -------
    bytes
        32 bytes.

    Raises
    ------
    ConfigurationError
        If the file is damaged, or there is none and the home cannot be written.
    """
    if home is None and os.environ.get("FEATCACHE_HOME"):
        home = os.environ["FEATCACHE_HOME"]
    folder = Path(platformdirs.user_data_dir("featcache", appauthor=False)) if home is None else Path(home).expanduser()
    file = folder / _FILE
    try:
        if not file.exists():
            _create(file)
        salt = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except OSError as error:
        raise ConfigurationError(
            f"the salt for patient ids cannot be kept in {file}: {error.strerror}",
            remedy="Choose a home that this user may write with --home, or pass --keep-ids.",
        ) from error
    except ValueError:
        salt = b""
    if len(salt) != 32:
        raise ConfigurationError(
            f"{file} is damaged: expected 64 hexadecimal digits",
            remedy="Restore it from a copy of the home: another salt gives every patient another id.",
        )
    return salt


def _create(file: Path) -> None:
    """Write a new salt, readable by this user alone; who comes second uses the first one's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{_FILE}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as handle:
            handle.write(secrets.token_hex(32) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(scratch, file)  # fails where another process was first
        except FileExistsError:
            return
    finally:
        scratch.unlink()


def hashed_patient(patient: str, salt: bytes) -> str:
    """HMAC-SHA-256 of a patient id, 16 hexadecimal digits: the same patient in every dataset of the home.

    Examples
    --------
    >>> hashed_patient("12345", bytes(32))
    'ae23c8f573d36c7a'
    """
    return hmac.new(salt, patient.strip().encode(), hashlib.sha256).hexdigest()[:16]
