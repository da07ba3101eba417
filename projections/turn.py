"""A turn of a verification: the histories that begin in a range of positions."""

from events.commit import unseal
from events.errors import WakeError
from events.names import Key
from events.rawlog import Raw
from projections.purge import is_purge
from projections.truth import Teller, Truth


class Turn:
    """Folds those histories, and no other."""

    def __init__(self, after: int, upto: int, position: int) -> None:
        self.after, self.upto, self._position = after, upto, position
        self.tellers: dict[Key, Teller] = {}
        self.damaged: dict[Key, str] = {}
        self.left_out: set[Key] = set()

    def take(self, raw: Raw, key: Key) -> None:
        """Take in a commit, if it belongs to a history of this turn."""
        begins = self.after < raw.position <= self.upto
        if not begins and key not in self.tellers and key not in self.damaged:
            return
        if raw.position > self._position:
            if is_purge(raw, key):
                self.left_out.add(key)
        elif key not in self.damaged:
            self._fold(raw, key)
        elif is_purge(raw, key):
            self.tellers.pop(key, None)

    def _fold(self, raw: Raw, key: Key) -> None:
        teller = self.tellers.get(key)
        try:
            commit = unseal(raw.body, key)
            if teller is None and commit.version > 1:
                self.left_out.add(key)  # it begins earlier, or is being deleted
                return
            teller = self.tellers.setdefault(key, Teller(key))
            teller.take(raw, commit)
        except WakeError as error:
            self.damaged[key] = str(error)

    def truths(self) -> dict[Key, Truth]:
        """What must be there."""
        keys = self.tellers.keys() | self.damaged.keys()
        return {
            key: self._truth(key) for key in sorted(keys) if key not in self.left_out
        }

    def _truth(self, key: Key) -> Truth:
        teller = self.tellers.get(key)
        nothing = teller is None or teller.nothing
        rows = {} if teller is None or nothing else teller.rows()
        return Truth(rows, self.damaged.get(key))
