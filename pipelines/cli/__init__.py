"""The command `attnrec`."""
