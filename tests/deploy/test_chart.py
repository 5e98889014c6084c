"""The chart, rendered by Helm itself: valid for Kubernetes, hardened, and true to the server it runs."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator
from pydantic import BaseModel

from server.http.keys import hash_key
from server.settings import Settings
from tests.deploy.expressions import DASHBOARDS, RULES, asked
from tests.deploy.helm import CHART, Helm, HelmError, find_helm

EXAMPLES = sorted((CHART / "ci").glob("*-values.yaml"))
MINIMAL, EVERYTHING = CHART / "ci" / "minimal-values.yaml", CHART / "ci" / "everything-values.yaml"
KUBERNETES = ("1.30", "1.37")
OF_OPERATOR: dict[str, type[BaseModel]] = {
    "ServiceMonitor": operator.ServiceMonitor,
    "PrometheusRule": operator.PrometheusRule,
}

Objects = list[dict[str, Any]]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    directory = tmp_path_factory.mktemp("helm")
    return Helm(find_helm(directory), directory)


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda path: path.stem)
def example(helm: Helm, request: pytest.FixtureRequest) -> Objects:
    """What each complete example makes."""
    return helm.render(files=[request.param])


@pytest.fixture(scope="module")
def everything(helm: Helm) -> Objects:
    return helm.render(files=[EVERYTHING])


def _one(objects: Objects, kind: str, suffix: str = "") -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind and one["metadata"]["name"] == f"live-kalmagrove{suffix}"]
    return found


def _pod(objects: Objects) -> dict[str, Any]:
    return dict(_one(objects, "StatefulSet")["spec"]["template"]["spec"])


def _server(objects: Objects) -> dict[str, Any]:
    (container,) = _pod(objects)["containers"]
    return dict(container)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda path: path.stem)
def test_lint(helm: Helm, file: Path) -> None:
    helm("lint", "--strict", CHART, "--values", file)


@pytest.mark.parametrize("version", KUBERNETES)
def test_objects_are_valid(example: Objects, version: str) -> None:
    """Fields that do not exist count as errors."""
    names = {(one["kind"], one["metadata"]["name"]) for one in example}
    assert len(names) == len(example)
    for one in example:
        if one["kind"] in OF_OPERATOR:
            model = OF_OPERATOR[one["kind"]].model_validate(one)
            assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == one
        else:
            kubernetes_validate.validate(one, version, strict=True)


def test_pods_may_do_little(example: Objects) -> None:
    """The restricted Pod Security Standard, and more."""
    pod, server = _pod(example), _server(example)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {key for volume in pod["volumes"] for key in volume} <= {"name", "secret", "emptyDir"}
    assert "memory" in server["resources"]["limits"]


def test_everything_mounted_is_there(example: Objects) -> None:
    made = {volume["name"] for volume in _pod(example)["volumes"]}
    claimed = {claim["metadata"]["name"] for claim in _one(example, "StatefulSet")["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in _server(example)["volumeMounts"]} == made | claimed


def test_server_takes_the_environment(example: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """And listens where probes and services ask."""
    for variable in _server(example)["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "postgresql://database/kalmagrove"))
    settings = Settings()
    ports = {port["name"]: port["containerPort"] for port in _server(example)["ports"]}
    assert ports == {"http": settings.port, "admin": 8081}
    assert str(settings.data_dir) in {mount["mountPath"] for mount in _server(example)["volumeMounts"]}
    assert settings.client_keys_file == Path("/keys/client.keys")
    assert _pod(example)["enableServiceLinks"] is False, "their variables would be unknown settings"
    grace = _pod(example)["terminationGracePeriodSeconds"]
    assert grace > settings.drain_timeout_s + _server(example)["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_settings_keep_their_values(helm: Helm) -> None:
    """Large numbers are not written with an exponent, which the server would refuse."""
    settings = {"MAX_IMPORT_BYTES": 4 * 2**30, "MAX_GAP": 0.25, "DEMO": True, "KEY_WEIGHTS": {"batch": 0.5}}
    objects = helm.render(files=[MINIMAL], values={"settings": settings})
    given = {variable["name"]: variable.get("value") for variable in _server(objects)["env"]}
    assert {name: json.loads(given[f"KALMAGROVE_{name}"]) for name in settings} == settings


def test_probes(example: Objects) -> None:
    server = _server(example)
    probes = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/health",
    }
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_services_find_pods_and_keep_admin_apart(helm: Helm) -> None:
    objects = helm.render(files=[MINIMAL], values={"service": {"type": "LoadBalancer"}})
    labels = _one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    services = {suffix: _one(objects, "Service", suffix)["spec"] for suffix in ("", "-admin", "-pods")}
    assert {suffix: [port["targetPort"] for port in spec["ports"]] for suffix, spec in services.items()} == {
        "": ["http"],
        "-admin": ["admin"],
        "-pods": ["http", "admin"],
    }
    assert all(spec["selector"].items() <= labels.items() for spec in services.values())
    assert services[""]["type"] == "LoadBalancer"
    assert services["-admin"]["type"] == "ClusterIP"
    assert services["-pods"]["clusterIP"] == "None"
    assert _one(objects, "StatefulSet")["spec"]["serviceName"] == _one(objects, "Service", "-pods")["metadata"]["name"]


def _admitted(objects: Objects) -> Iterator[tuple[str, Any]]:
    """(port's name, peer) of the network policy."""
    for rule in _one(objects, "NetworkPolicy")["spec"]["ingress"]:
        assert rule["from"], "an empty list admits everybody"
        for port in rule["ports"]:
            for peer in rule["from"]:
                yield port["port"], peer


def test_clients_do_not_reach_admin(helm: Helm) -> None:
    client, admin = {"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {"matchLabels": {"role": "ops"}}}
    values = {"networkPolicy": {"clients": [client], "admins": [admin], "monitoring": []}}
    objects = helm.render(files=[MINIMAL], values=values)
    assert list(_admitted(objects)) == [("http", client), ("admin", admin)]
    spec = _one(objects, "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == []
    pod = _one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= pod.items()


def test_nobody_named_is_nobody_admitted(helm: Helm) -> None:
    objects = helm.render(
        files=[MINIMAL], values={"networkPolicy": {"clients": [], "admins": [], "monitoring": [], "egress": []}}
    )
    assert not _one(objects, "NetworkPolicy")["spec"]["ingress"]


def test_autoscaler_asks_for_what_is_measured(everything: Objects) -> None:
    """What the dashboards ask for is measured: another test sees to that."""
    spec = _one(everything, "HorizontalPodAutoscaler")["spec"]
    (metric,) = spec["metrics"]
    assert [one for one in asked() if metric["pods"]["metric"]["name"] in one.promql]
    scaled = _one(everything, "StatefulSet")
    assert spec["scaleTargetRef"]["name"] == scaled["metadata"]["name"]
    assert "replicas" not in scaled["spec"], "an upgrade would undo what was scaled"


def test_rules_and_dashboards_are_those_of_the_repository(everything: Objects) -> None:
    sources = [yaml.safe_load((RULES / file).read_text("utf-8")) for file in ("recording.yml", "alerts.yml")]
    assert _one(everything, "PrometheusRule")["spec"]["groups"] == [g for source in sources for g in source["groups"]]
    held: dict[str, str] = {}
    for one in everything:
        if one["kind"] == "ConfigMap":
            assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
            held |= one["data"]
    assert held == {f"kalmagrove-{path.name}": path.read_text("utf-8") for path in DASHBOARDS.glob("*.json")}


def test_monitor_scrapes_the_admin_service_as_the_job_of_the_rules(everything: Objects) -> None:
    spec = _one(everything, "ServiceMonitor")["spec"]
    matched = [
        one
        for one in everything
        if one["kind"] == "Service" and spec["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [one["metadata"]["name"] for one in matched] == ["live-kalmagrove-admin"]
    assert matched[0]["metadata"]["labels"][spec["jobLabel"]] == "kalmagrove"
    assert {endpoint["port"] for endpoint in spec["endpoints"]} == {matched[0]["spec"]["ports"][0]["name"]}


def test_keys_are_mounted_from_the_secret(everything: Objects, helm: Helm) -> None:
    secret = _one(everything, "Secret", "-keys")
    assert secret["stringData"].keys() == {"client.keys", "admin.keys"}
    (keys,) = [volume["secret"] for volume in _pod(everything)["volumes"] if "secret" in volume]
    assert keys["secretName"] == secret["metadata"]["name"]
    own = helm.render(files=[MINIMAL])
    assert not [one for one in own if one["kind"] == "Secret"]


def test_keys_may_be_bound(helm: Helm) -> None:
    """Lines as `kalmagrove key create` prints them."""
    digest = hash_key("kg-acme").hex()
    lines = [f"acme:{digest} read=acme,handbook edit=acme weight=0.5", f"ops.2:{digest.upper()} read=* edit=*"]
    objects = helm.render(files=[MINIMAL], values={"keys": {"existingSecret": "", "client": lines, "admin": lines}})
    assert _one(objects, "Secret", "-keys")["stringData"]["client.keys"].splitlines() == lines


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"keys.existingSecret": ""}, "existingSecret"),
        ({"keys": {"existingSecret": "", "client": ["alice:my-secret-key"], "admin": []}}, "pattern"),
        ({"replicaCount": 2}, "share no knowledge"),
        ({"autoscaling.enabled": True}, "share no knowledge"),
        (
            {"replicaCount": 2, "separateKnowledge": True, "knowledge.urlSecret": {"name": "a", "key": "b"}},
            "share one facts log",
        ),
        ({"serviceMonitor.enabled": True}, "needs a key"),
        (
            {"separateKnowledge": True, "autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
            "minReplicas",
        ),
        ({"extraEnv": [{"name": "KALMAGROVE_PORT", "value": "9000"}]}, "KALMAGROVE_PORT"),
        ({"settings": {"SSL_CERTFILE": "/keys/tls.pem"}}, "SSL_CERTFILE"),
        ({"replicas": 2}, "replicas"),
        ({"settings": {"HOST": "::"}}, "HOST"),
        ({"settings": {"max_waiting": 2}}, "max_waiting"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_go_wrong_is_refused(helm: Helm, values: dict[str, object], reason: str) -> None:
    with pytest.raises(HelmError, match=reason):
        helm.render(files=[MINIMAL], values=values)


def test_package_is_complete_without_the_repository(helm: Helm, tmp_path: Path, everything: Objects) -> None:
    helm("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as files:
        assert not [member.name for member in files if member.issym()]
    assert helm.render(chart=package, files=[EVERYTHING]) == everything


def test_readme_names_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))["properties"]
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values.keys() == schema.keys() - {"global"}
    readme = (CHART / "README.md").read_text("utf-8")
    names = [
        f"{name}.{inner}" if inner else name
        for name, described in schema.items()
        for inner in (described.get("properties") or [""])
        if name != "global"
    ]
    assert [name for name in names if f"`{name}`" not in readme] == []
    assert len(names) > 40
