"""The results of a fault that was tried many times."""

import dataclasses


@dataclasses.dataclass
class Tally:
    """Counts of one fault.

    Attributes:
        tried, survived: ints.
        found: list of str, what went wrong.
        notes: list of str, other remarks.
    """

    tried: int = 0
    survived: int = 0
    found: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def count(self, what, check, *arguments):
        """Counts one try, which is survived unless `check(*arguments)` finds a problem."""
        self.tried += 1
        try:
            check(*arguments)
            self.survived += 1
        except Exception as error:
            self.found.append(f"{what}: {type(error).__name__}: {error}"[:2000])

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def add(self, part, name):
        """Adds the counts of a part."""
        self.tried += part.tried
        self.survived += part.survived
        self.found += [f"{name}: {text}" for text in part.found]
        self.notes += [f"{name}: {text}" for text in part.notes]
