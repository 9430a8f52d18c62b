"""For clusters that tests start themselves, as `ray_cluster.start_private` sets it for the product's own."""

import os

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
