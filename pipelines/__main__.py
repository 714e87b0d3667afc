"""python -m pipelines: the same as the command attnrec."""

from attnrec_pipelines.cli.app import main

if __name__ == "__main__":
    main()
