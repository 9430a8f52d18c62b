"""Cluster entry: ray job submit --working-dir . -- python jobs/train_restorer.py DATA RUN [flags of artgen train restorer]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "restorer", *sys.argv[1:]]))
