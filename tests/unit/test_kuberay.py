"""kuberay/rayjob.yaml and the Dockerfile: their structure, offline. No Kubernetes and no container engine is at hand."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.runtime_env import RuntimeEnv

from artgen import cli
from artgen.engines import ray_cluster

ROOT = Path(__file__).resolve().parents[2]
# What the RayJob, RayCluster and worker group specs of ray.io/v1 know, of what may stand here.
JOB_FIELDS = {"entrypoint", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
              "submitterPodTemplate", "rayClusterSpec", "activeDeadlineSeconds", "suspend", "metadata"}  # fmt: skip
CLUSTER_FIELDS = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((ROOT / "kuberay" / "rayjob.yaml").read_text())
    return {document["kind"]: document for document in found}


def templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]


def restore_of(job: dict[str, Any]) -> tuple[list[str], str]:
    """The words of the command, and the shell script around it."""
    shell, flag, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    return shlex.split(script.partition(";")[0]), script


def test_the_job_has_the_fields_of_its_kind(documents: dict[str, dict[str, Any]]) -> None:
    job = documents["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert set(job["spec"]) <= JOB_FIELDS
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= CLUSTER_FIELDS
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), (
            "KubeRay takes strings only"
        )
        for container in group["template"]["spec"]["containers"]:
            resources = container["resources"]
            assert resources["limits"] == resources["requests"], "Ray takes the limits for what there is"


def test_the_pods_run_under_an_account_that_comes_along(documents: dict[str, dict[str, Any]]) -> None:
    """A pod whose service account does not exist is never made."""
    account = documents["ServiceAccount"]["metadata"]
    assert account["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    _, *nodes = templates(documents["RayJob"])
    assert {template["spec"]["serviceAccountName"] for template in nodes} == {account["name"]}


def test_the_environment_of_the_job_is_one_that_ray_takes(documents: dict[str, dict[str, Any]]) -> None:
    told = yaml.safe_load(documents["RayJob"]["spec"]["runtimeEnvYAML"])
    assert RuntimeEnv(**told)["env_vars"] == {"AWS_DEFAULT_REGION": "REGION"}


def test_versions_and_images_agree(documents: dict[str, dict[str, Any]]) -> None:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert f"FROM rayproject/ray:{ray.__version__}-py312-gpu" in (ROOT / "Dockerfile").read_text()
    images = {c["image"] for t in templates(documents["RayJob"]) for c in t["spec"]["containers"]}
    assert len(images) == 1, "every node must have the same artgen"


def test_the_command_is_one_of_ours(documents: dict[str, dict[str, Any]]) -> None:
    words, _ = restore_of(documents["RayJob"])
    assert words[:3] == ["python", "-m", "artgen"]
    assert vars(cli.parser().parse_args(words[3:]))["engine"] == "ray"


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (2, 2), (3, 0)])
def test_images_that_failed_are_no_failure_of_the_job(
    documents: dict[str, dict[str, Any]], code: int, seen: int
) -> None:
    words, script = restore_of(documents["RayJob"])
    ends = shlex.join(["sh", "-c", script.replace(shlex.join(words), f"(exit {code})")])
    # Two shells, as there: KubeRay's submitter runs `ray job submit`, and Ray runs what that was given.
    submitted = subprocess.run(["bash", "-c", f"printf '%s\\0' {ends}"], capture_output=True, check=True, text=True)
    entrypoint = shlex.join(submitted.stdout.split("\0")[:-1])
    assert subprocess.run(entrypoint, shell=True, check=False).returncode == seen


def test_an_actor_fits_a_worker_though_none_is_up_when_it_is_asked_for(
    documents: dict[str, dict[str, Any]],
) -> None:
    words, _ = restore_of(documents["RayJob"])
    given = vars(cli.parser().parse_args(words[3:]))
    head = {"Alive": True, "Resources": {"memory": 8e9}}
    wanted = ray_cluster.pool(given["workers"], given["device"], [head], grows=True)
    groups = documents["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (limits,) = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    assert 1 <= wanted.cpus <= int(limits["cpu"])
    assert 1 <= wanted.gpus <= int(limits["nvidia.com/gpu"])
    assert wanted.least == 1
    assert wanted.most == sum(group["maxReplicas"] for group in groups)


def test_nobody_else_reaches_the_ports_and_no_key_is_in_it(documents: dict[str, dict[str, Any]]) -> None:
    policy = documents["NetworkPolicy"]["spec"]
    labels = policy["podSelector"]["matchLabels"]
    for template in templates(documents["RayJob"]):
        assert labels.items() <= template["metadata"]["labels"].items()
    whoever = [rule for rule in policy["ingress"] if "ports" not in rule]
    assert all(source["podSelector"]["matchLabels"] for rule in whoever for source in rule["from"])
    text = (ROOT / "kuberay" / "rayjob.yaml").read_text().lower()
    assert not any(
        word in text for word in ("access_key", "secret", "password", "token", "loadbalancer", "nodeport")
    )


def test_the_image_holds_what_it_copies_and_nothing_that_is_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            copied |= set(re.sub(r"--\S+ ", "", line).split()[1:-1])
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
