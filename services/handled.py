"""What became of the last commands: what is delivered again is answered again.

So a command that changed nothing, or was refused, does not take effect when it
comes again in other circumstances. (One that changed something is known to the
history.)
"""

from collections import OrderedDict

from events.inbox import Order
from events.names import Key
from services.requests import Answer

MOST = 10_000
"""Answers kept: more than can be delivered and not settled at any time."""

Asked = tuple[int, Key, str]


class Handled:
    """The answers to the last commands, the oldest forgotten first."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Asked, Answer] = OrderedDict()

    def get(self, order: Order) -> Answer | None:
        """Return the answer to a command, if it was handled here lately."""
        return self._answers.get(_asked(order))

    def keep(self, order: Order, answer: Answer) -> None:
        """Remember the answer to a command."""
        self._answers[_asked(order)] = answer
        if len(self._answers) > MOST:
            self._answers.popitem(last=False)


def _asked(order: Order) -> Asked:
    # With whose it is and what: a stream that was made anew counts from 1 again.
    return order.position, order.key, order.verb
