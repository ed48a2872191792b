"""The names of the files of one folder, kept so that those below one of its folders need no search."""

from __future__ import annotations


class NameIndex:
    """A set of names relative to a folder, their parts divided by ``/``. Not safe from several threads.

    A name may be a file and a folder at once: what was a file yesterday is a folder today.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._children: dict[str, set[str]] = {}  # folder (empty: the root) → full names of what is in it

    def add(self, name: str) -> None:
        """Add a file; adding it again changes nothing."""
        self._files.add(name)
        while name:
            folder = name.rpartition("/")[0]
            siblings = self._children.get(folder)
            if siblings is not None:
                siblings.add(name)
                return
            self._children[folder] = {name}
            name = folder

    def discard(self, name: str) -> None:
        """Remove a file, and the folders that are empty without it."""
        self._files.discard(name)
        while name and name not in self._files and name not in self._children:
            folder = name.rpartition("/")[0]
            siblings = self._children.get(folder)
            if siblings is None:
                return
            siblings.discard(name)
            if siblings:
                return
            del self._children[folder]
            name = folder

    def below(self, name: str = "") -> list[str]:
        """The file of that name, and every file in the folder of that name, at any depth."""
        found = []
        pending = [name]
        while pending:
            each = pending.pop()
            if each in self._files:
                found.append(each)
            pending.extend(self._children.get(each, ()))
        return found
