"""Facts about a training and its data that `publish` cannot measure."""

import dataclasses
import json
import pathlib

from anytime_keras._errors import check_known

# The origin and the licence of data sets, as their makers state them.
SOURCES: dict[str, list] = json.loads(pathlib.Path(__file__).with_name("sources.json").read_text())


@dataclasses.dataclass
class Facts:
    """Facts that `publish` cannot measure; see its `facts`."""

    description: str = ""
    reference: str | None = None
    licence: str = "Apache-2.0"
    source: str | None = None
    data_licence: str | None = None
    epochs: float | None = None
    images: int | None = None
    seed: int = 0
    minutes: float | None = None
    machine: dict | None = None
    note: str | None = None
    replace: str | None = None
    weighting: dict | None = None
    before: list | None = None
    after: list | None = None

    @classmethod
    def of(cls, facts):
        check_known(facts, [field.name for field in dataclasses.fields(cls)], "Unknown fact `{}`.")
        return cls(**facts)
