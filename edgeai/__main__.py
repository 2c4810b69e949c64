"""``python -m edgeai``: the command line, where its script is not on the path."""

from edgeai.cli import main

if __name__ == "__main__":
    main()
