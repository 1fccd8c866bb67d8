"""Where stores lie: the home (shared, maybe read-only) and the user's own state folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs

from featcache.store.durable import write_durably

__all__ = ["find_home", "last_by_home", "remember_last_store", "state_folder"]


def find_home(home: Path | str | None = None) -> Path:
    """The folder of all stores: ``home``, else FEATCACHE_HOME, else the platform's user data folder."""
    if home is not None:
        return Path(home).expanduser().absolute()
    if os.environ.get("FEATCACHE_HOME"):
        return Path(os.environ["FEATCACHE_HOME"]).expanduser().absolute()
    return Path(platformdirs.user_data_dir("featcache", appauthor=False))


def state_folder() -> Path:
    """The user's own folder for what can be made anew: FEATCACHE_STATE, else the platform's state folder."""
    if os.environ.get("FEATCACHE_STATE"):
        return Path(os.environ["FEATCACHE_STATE"]).expanduser().absolute()
    return Path(platformdirs.user_state_dir("featcache", appauthor=False))


def remember_last_store(home: Path, store: Path) -> None:
    """Note which store was extracted last; where the state folder cannot be written, nothing is noted."""
    folder = state_folder()
    known = last_by_home()
    known[str(home)] = str(store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / "last.json", json.dumps(known, indent=1).encode())
    except OSError:
        return


def last_by_home() -> dict[str, str]:
    """The store that this user extracted last, by home."""
    try:
        known = json.loads((state_folder() / "last.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) else {}
