"""The service's log: one JSON object a line, on standard error."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LOGGER = "diffacet.serving"
_FIELDS = "diffacet_fields"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (ISO 8601, UTC), level, event, and the fields given to `write`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end; a traceback is the field "traceback"."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        told |= getattr(record, _FIELDS, {})
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def configure(stream: TextIO | None = None) -> None:
    """Let the service's lines go to `stream`, standard error if None, and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(LOGGER)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def write(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write a line of what happened; `error` brings its traceback."""
    logging.getLogger(LOGGER).log(level, event, exc_info=error, extra={_FIELDS: fields})
