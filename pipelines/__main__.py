"""python -m attnrec_pipelines: the command `attnrec`."""

from attnrec_pipelines.cli.app import main

if __name__ == "__main__":
    main()
