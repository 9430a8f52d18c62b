"""Cluster entry: ray job submit --working-dir . -- python jobs/train_gan.py DATA RUN [flags of artgen train gan]"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", "gan", *sys.argv[1:]]))
