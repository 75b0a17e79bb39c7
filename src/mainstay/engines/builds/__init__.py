"""Engine builds: an engine version is a directory. Finds those there are, and installs more from Debian's packages."""

from mainstay.engines.builds.builds import Builds, Installable

__all__ = ["Builds", "Installable"]
