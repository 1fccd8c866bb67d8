"""The command ``featcache``. Installed as ``featcache_cli``; parses, calls the library, renders."""
