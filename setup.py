"""The packages to install: the library with all its subpackages, and ``cli/`` under the name ``featcache_cli``.

The rest is in pyproject.toml, which cannot both find packages by itself and rename one.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["featcache", "featcache.*"]), "featcache_cli"],
    package_dir={"featcache_cli": "cli"},
)
