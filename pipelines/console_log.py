"""Log lines of attnrec on the terminal: plain text on stderr, without timestamps; warnings are marked."""

import logging
import sys

LOGGERS = ("attnrec", "attnrec_pipelines")


class ConsoleHandler(logging.Handler):
    """Write each record as one line to the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; line breaks in the message become spaces."""
        text = " ".join(record.getMessage().split("\n"))
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        if prefix and sys.stderr.isatty():
            prefix = f"\x1b[33m{prefix}\x1b[0m"
        sys.stderr.write(f"{prefix}{text}\n")  # not print, which a flow with log_prints sends to Prefect
        sys.stderr.flush()


def show_log_lines() -> None:
    """Print the log lines of attnrec from INFO on; a second call does nothing."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
            logger.addHandler(ConsoleHandler())
