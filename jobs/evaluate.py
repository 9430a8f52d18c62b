"""Cluster entry: ray job submit --working-dir . -- python jobs/evaluate.py restorer|gan MODEL DATA [its flags]

It measures in one process: `ray job submit --entrypoint-num-gpus 1 ...` gives it a GPU of the cluster.
"""

import sys

from artgen.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
