"""A worker that holds no model, for tests of what starts workers; files in the run's folder say what it does.

version: what it serves. broken: it cannot begin. hangs: one worker takes this file and says that it hangs.
asked: what workers were told, a line of JSON each.
"""

import contextlib
import json
import os

SILENT = 1000


def work(what, listener, pipe, expected):
    """Say ready, then do as told until the parent ends."""
    folder = what.run

    def note(**told):
        with (folder / "asked").open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), **told}) + "\n")

    def send(kind, **told):
        version = (folder / "version").read_text()
        told = {"what": kind, "version": version, "place": str(folder), "items": 3, "index": "exact", **told}
        pipe.send_bytes(json.dumps(told).encode())

    if (folder / "broken").exists():
        send("failed", message="it is broken")
        return
    note(expected=expected, keys=what.options.keys)
    send("ready")
    with contextlib.suppress(EOFError):
        while True:
            while pipe.poll(0.02):
                order = json.loads(pipe.recv_bytes())
                note(**order)
            with contextlib.suppress(FileNotFoundError):
                (folder / "hangs").unlink()
                send("beat", silent=SILENT)
            with contextlib.suppress(FileNotFoundError):
                (folder / "accepts").unlink()
                send("reloaded")
