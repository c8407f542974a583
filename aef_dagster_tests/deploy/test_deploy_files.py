"""Files of the deployment, as far as they can be held without Docker, Helm or a cluster."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
OURS = ("code", "webserver", "daemon", "mlflow")


def load(name):
    return yaml.safe_load((DEPLOY / name).read_text())


@pytest.fixture
def compose():
    return load("compose.yaml")


def test_both_instances_have_the_same_limits_and_retention():
    local = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    shared = load("dagster.postgres.yaml")
    places = {"storage", "local_artifact_storage", "compute_logs"}
    assert {k: v for k, v in local.items() if k not in places} == {
        k: v for k, v in shared.items() if k not in places
    }


def test_the_instance_takes_all_that_differs_between_places_from_the_environment():
    database = load("dagster.postgres.yaml")["storage"]["postgres"]["postgres_db"]
    assert database.pop("scheme") == "postgresql+psycopg2"
    assert {name: list(value) for name, value in database.items()} == {
        name: ["env"] for name in ("hostname", "port", "db_name", "username", "password")
    }


def test_every_service_of_the_instance_has_its_variables(compose):
    asked = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.postgres.yaml").read_text()))
    asked |= set(re.findall(r"env: (\w+)", (DEPLOY / "workspace.yaml").read_text()))
    assert len(asked) == 7
    for name in ("code", "webserver", "daemon"):
        assert asked <= set(compose["services"][name]["environment"])
        mounted = [v for v in compose["services"][name]["volumes"] if "dagster.postgres" in v]
        assert mounted == ["./dagster.postgres.yaml:/srv/aef/dagster/dagster.yaml:ro"]


def test_only_the_proxy_has_a_port_and_it_is_on_loopback_unless_told(compose):
    services = compose["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["proxy"]
    assert services["proxy"]["ports"] == ["${PROXY_ADDRESS:-127.0.0.1}:443:443"]
    assert not any("network_mode" in service for service in services.values())
    outside = {name for name, service in services.items() if "outside" in service["networks"]}
    assert outside == {"proxy", "code"}
    assert "database" not in services["proxy"]["networks"]
    internal = {name for name, network in compose["networks"].items() if network.get("internal")}
    assert internal == {"database", "services"}


def test_our_processes_have_no_rights_they_do_not_need(compose):
    for name in OURS:
        service = compose["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"user", "privileged", "cap_add"} & set(service)
    assert "USER 10001:10001" in (DEPLOY / "Dockerfile").read_text().splitlines()


def test_what_a_service_waits_for_is_there_and_says_when_it_is_ready(compose):
    services = compose["services"]
    waits = [(name, on) for name, service in services.items()
             for on in service.get("depends_on", {})]  # fmt: skip
    assert len(waits) == 7
    for name, on in waits:
        assert services[name]["depends_on"][on] == {"condition": "service_healthy"}
        assert "test" in services[on]["healthcheck"], on
        assert set(services[name]["networks"]) & set(services[on]["networks"]), (name, on)
    volumes = {v.partition(":")[0] for service in services.values() for v in service["volumes"]
               if not v.startswith(".")}  # fmt: skip
    assert volumes == set(compose["volumes"])


def test_no_file_holds_a_secret():
    secrets = []
    for path in sorted(DEPLOY.glob("*")):
        for line in path.read_text().splitlines():
            found = re.search(r"(?:PASSWORD|PASSWORD_HASH|password)['\"]?\s*[:=]\s*(\S+)", line)
            # What may follow: a demand on the environment, a place holder, psql's variables.
            fine = ("${", "{env:", "...", "'$2a$14$...'", "?}", "FILE", "'dagster_password'",
                    "'mlflow_password'")  # fmt: skip
            if found and not found[1].startswith(fine):
                secrets.append(f"{path.name}: {line.strip()}")
        assert not re.search(r"://[^/\s@:]+:[^@\s]+@", path.read_text()), path.name
    assert secrets == []


def test_the_proxy_guards_both_sites():
    text = (DEPLOY / "Caddyfile").read_text()
    for site, service in (("DAGSTER", "webserver:3000"), ("MLFLOW", "mlflow:5000")):
        upstream = f"{{${site}_UPSTREAM:{service}}}"
        assert f"{{${site}_SITE}} {{\n\timport guarded {upstream}\n}}" in text
    assert text.count("reverse_proxy") == 1 and "basicauth" in text.partition("reverse_proxy")[0]


@pytest.mark.skipif(not shutil.which("caddy"), reason="no Caddy here (Debian's package caddy)")
def test_caddy_takes_its_file():
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "DAGSTER_SITE": "dagster.localhost",
        "MLFLOW_SITE": "mlflow.localhost", "PROXY_USER": "someone", "PROXY_PASSWORD_HASH": "x",
    }  # fmt: skip
    adapted = subprocess.run(
        [shutil.which("caddy"), "adapt", "--config", DEPLOY / "Caddyfile"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    sites = json.loads(adapted.stdout)["apps"]["http"]["servers"]["srv0"]["routes"]
    for site in sites:
        handlers = [h["handler"] for route in site["handle"][0]["routes"] for h in route["handle"]]
        assert handlers == ["authentication", "reverse_proxy"]


@pytest.mark.skipif(
    subprocess.run(["sh", "-c", "docker compose version"], capture_output=True).returncode != 0,
    reason="no docker compose here",
)
def test_compose_takes_its_file():
    names = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    subprocess.run(
        ["docker", "compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet"],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
        | dict.fromkeys(names, "x"),
        check=True,
    )


def test_kubernetes_has_the_limits_of_the_instance():
    values, local = load("values.yaml"), load("dagster.postgres.yaml")
    limits, run = values["concurrency"], local["concurrency"]
    assert limits["runs"] == {"maxConcurrentRuns": run["runs"]["max_concurrent_runs"]}
    assert limits["pools"] == {
        "defaultLimit": run["pools"]["default_limit"],
        "granularity": run["pools"]["granularity"],
    }
    monitoring = values["dagsterDaemon"]["runMonitoring"]
    free = local["run_monitoring"]["free_slots_after_run_end_seconds"]
    assert limits["enabled"] and monitoring["freeSlotsAfterRunEndSeconds"] == free
    scheme = local["storage"]["postgres"]["postgres_db"]["scheme"]
    assert values["postgresql"]["postgresqlScheme"] == scheme
    purge = {kind: set(values["retention"][kind]["purgeAfterDays"].values())
             for kind in ("schedule", "sensor")}  # fmt: skip
    assert purge == {"schedule": {90}, "sensor": {7, -1}}


def test_kubernetes_runs_nothing_as_root_and_shows_nothing_unguarded():
    values = load("values.yaml")
    code = values["dagster-user-deployments"]["deployments"][0]
    objects = {thing["kind"]: thing for thing in
               yaml.safe_load_all((DEPLOY / "mlflow.yaml").read_text())}  # fmt: skip
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    dagster = (code, values["dagsterWebserver"], values["dagsterDaemon"])
    for security in (*(part["podSecurityContext"] for part in dagster), pod["securityContext"]):
        assert security["runAsNonRoot"] and security["runAsUser"] == 10001
    assert values["dagsterWebserver"]["service"]["type"] == "ClusterIP"
    assert objects["Service"]["spec"]["type"] == "ClusterIP"
    for ingress in (values["ingress"], objects["Ingress"]["metadata"]):
        assert ingress["annotations"]["nginx.ingress.kubernetes.io/auth-type"] == "basic"
    assert values["ingress"]["dagsterWebserver"]["tls"]["enabled"]
    assert objects["Ingress"]["spec"]["tls"]


def test_the_image_copies_only_what_its_context_has():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {part for part in line.split()[1:-1] if not part.startswith("--")}
    assert copied == allowed
    assert all((REPOSITORY / name).exists() for name in copied)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_the_service_is_one(tmp_path):
    text = (DEPLOY / "aef-dev.service").read_text()
    program = Path(sys.executable).with_name("aef")
    unit = tmp_path / "aef-dev.service"
    unit.write_text(text.replace("/srv/aef_dagster/.venv/bin/aef", str(program)))
    told = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "aef-dev.service" not in told.stderr, told.stderr
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    told = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "sometimes" in told.stderr, "this test can fail"
