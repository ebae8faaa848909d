"""Whose output folder it is: a run continues only its own, and nothing overwrites a run by accident."""

import json
import os

MARK = "detection.json"


def claim(out, identity, resume):
    """Make `out` this run's folder. Call on the main process only; `out` exists.

    identity: JSON dict that a run shares with its continuation and with nothing else (weights, config, seed);
    kept in out/detection.json. Refuses with a ValueError
    - a folder whose run has another identity, or with a checkpoint of unknown origin, and
    - without `resume`, a folder that holds a checkpoint: hours of work are never overwritten silently.
    A run without a checkpoint has nothing to continue: it starts over, and its old metrics.json goes.
    """
    mark, checkpoint = out / MARK, out / "last_checkpoint"
    if mark.exists():
        found = json.loads(mark.read_text())
        other = _different(found, identity)
        if other:
            raise ValueError(f"{out} holds a run with another {', '.join(other)}; choose another --output")
    elif checkpoint.exists():
        raise ValueError(f"{out} holds a checkpoint but no {MARK}, so it is no run of this suite; "
                         "choose another --output")
    if checkpoint.exists() and not resume:
        raise ValueError(f"{out} holds this run up to {checkpoint.read_text().strip()}; --resume continues "
                         "it (a finished run is only evaluated again), or choose another --output")
    if not checkpoint.exists():
        (out / "metrics.json").unlink(missing_ok=True)
    draft = out / f"{MARK}.part"
    draft.write_text(json.dumps(identity, indent=1) + "\n")
    os.replace(draft, mark)


def forget_after(out, iteration):
    """Drop the lines of out/metrics.json from `iteration` on: a resumed run writes them again."""
    path = out / "metrics.json"
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["iteration"] < iteration]
    path.write_text("".join(kept))  # in place: Detectron2's writer has the file open already, to append


def _different(found, identity):
    """Names of what differs; of the config, the single keys with both values."""
    names = [key for key in identity if key != "config" and found.get(key) != identity[key]]
    before, now = found.get("config", {}), identity["config"]
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return names + [f"{key} ({before.get(key)}, here {now.get(key)})" for key in keys[:3]]
