"""A guest that was broken into and can be put back, at the same place, for trying something at it again and again."""

import shutil
from pathlib import Path

from tests.kit.restorable import Broken, SmallerSite, SmallSite, broken_guest


class PutBack:
    """The guest `broken`; `old` is what its directory held in the beginning."""

    def __init__(self, directory: Path, kind: type[SmallSite] = SmallerSite) -> None:
        self._site, self._pristine = directory / "site", directory / "pristine"
        self.broken: Broken = broken_guest(kind(str(self._site)))
        self.old = self.broken.files()
        shutil.copytree(self._site, self._pristine)

    def put_back(self) -> None:
        """Make the whole site again what it was in the beginning."""
        shutil.rmtree(self._site)
        shutil.copytree(self._pristine, self._site)

    @property
    def present(self) -> dict[str, bytes]:
        """The files in the guest's directory itself."""
        return {name: data for name, data in self.broken.files().items() if "/" not in name}

    @property
    def evidence(self) -> list[Path]:
        """The directories of evidence, oldest first."""
        return self.broken.evidence
