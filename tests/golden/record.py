"""Records what this version writes: ``record.py <release>``; never twice."""

import json
import sys
from pathlib import Path

from golden import outcome, stored
from stories import STORIES

HERE = Path(__file__).parent


def main(release: str) -> None:
    """Write one history and its outcome for each story."""
    for tell in STORIES:
        story = tell()
        name = f"{release}-{tell.__name__}"
        lines = [json.dumps(stored(recorded)) for recorded in story.log]
        with (HERE / f"{name}.jsonl").open("x") as file:
            file.write("\n".join(lines) + "\n")
        with (HERE / f"{name}.json").open("x") as file:
            file.write(json.dumps(outcome(story.log), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
