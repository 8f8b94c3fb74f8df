"""What Prometheus and Grafana are given: every metric and label in it is one that the code has."""

from __future__ import annotations

import configparser
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from prometheus_client import REGISTRY
from support import compose

# what these count is registered when they are imported
from ai_hub.api import app, observability, paths
from ai_hub.cli.common import served_metrics
from ai_hub.exports.service import KIND
from ai_hub.features import freshness
from ai_hub.features.materialize import Pass
from ai_hub.features.online import cache, database, reader
from ai_hub.forecasting import findings, retraining, service
from ai_hub.forecasting.accuracy import LeadErrors
from ai_hub.jobs import queue, worker
from ai_hub.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

COUNTING = (app, observability, cache, database, reader, findings, retraining, service, queue, worker)
FOLDER = compose.ROOT / "monitoring"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in FOLDER.glob("grafana/dashboards/*.json")}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
]
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((FOLDER / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SERVICES = compose.resolved(compose.example())["services"]
#: Labels of every target, and of what Prometheus knows of each itself.
TARGET = {"job", "instance"}
KEYWORDS = {"and", "or", "unless", "offset"}
SUFFIXES = {
    "counter": {"_total": set()},
    "gauge": {"": set()},
    "histogram": {"_bucket": {"le"}, "_sum": set(), "_count": set()},
}


def metrics() -> dict[str, set[str]]:
    """Names of the series that our processes publish, and their labels."""
    assert COUNTING
    found = {"up": set(TARGET)}
    registered = [
        (each._name, each._type, each._labelnames)
        for each in REGISTRY._collector_to_names
        if hasattr(each, "_labelnames")
    ]
    collected: Iterable[Metric] = [
        *freshness.Metrics(timedelta(days=2)).collect(),
        *queue.JobCounts(Settings(_env_file=None), [KIND]).collect(),
        *LeadErrors().collect(),
    ]
    registered += [(each.name, each.type, each._labelnames) for each in collected]
    for name, kind, labels in registered:
        for suffix, more in SUFFIXES.get(kind, {}).items():
            found[name + suffix] = {*labels, *more, *TARGET}
    return found


METRICS = metrics()


def problems(expression: str, shown: str = "") -> Iterator[str]:
    """What an expression in PromQL names that there is not; `shown` has labels of its result in braces."""
    text = re.sub(r"\[[^\]]*\]", "", expression)
    grouping = r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)"
    groups = {label.strip() for group in re.findall(grouping, text) for label in group.split(",")}
    text = re.sub(grouping, "", text)
    named, is_empty = [], True
    for name, rest in re.findall(r'(?<![\w.])([a-zA-Z_]\w*)\s*(\(|\{(?:[^"}]|"[^"]*")*\})?', text):
        if rest == "(" or name in KEYWORDS:
            continue
        is_empty = False
        if name not in METRICS:
            yield f"metric {name}"
            continue
        named.append(name)
        matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', "", rest)))
        yield from (f"label {label} of {name}" for label in matched - METRICS[name])
    for name in named:
        yield from (f"label {label} of {name}" for label in groups - METRICS[name])
    if is_empty:
        yield "no metric"
    elif named:
        is_grouped = groups or re.search(r"\b(sum|max|min|count|histogram_quantile)\b", text)
        result = groups - {"le"} if is_grouped else METRICS[named[0]]
        labels = set(re.findall(r"\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}", shown))
        yield from (f"label {label} in {shown}" for label in labels - result)


@pytest.mark.parametrize("panel", PANELS)
def test_panel__shows_metrics_that_there_are(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert list(problems(target["expr"], target["legendFormat"])) == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert__watches_metrics_that_there_are(rule: dict[str, Any]) -> None:
    assert list(problems(rule["expr"], " ".join(rule["annotations"].values()))) == []


@pytest.mark.parametrize(
    ("expression", "shown", "expected"),
    [
        ("rate(ai_hub_http_request_total[5m])", "", "metric ai_hub_http_request_total"),
        ("sum(ai_hub_http_requests_total) > ai_hub_job", "", "metric ai_hub_job"),
        ("sum by (code) (ai_hub_http_requests_total)", "", "label code of ai_hub_http_requests_total"),
        ('ai_hub_http_requests_total{code="5.."}', "", "label code of ai_hub_http_requests_total"),
        ("sum by (route) (ai_hub_http_requests_total)", "{{status}}", "label status in {{status}}"),
        ("sum(ai_hub_http_requests_total)", "{{ $labels.route }}", "label route in {{ $labels.route }}"),
        ("1 > 0", "", "no metric"),
    ],
)
def test_problems__what_there_is_not__is_named(expression: str, shown: str, expected: str) -> None:
    assert list(problems(expression, shown)) == [expected]


def test_routes_jobs_and_results__are_those_of_the_code() -> None:
    text = json.dumps(DASHBOARDS).replace('\\"', '"') + json.dumps(ALERTS).replace('\\"', '"')
    assert set(re.findall(r'route="([^"]+)"', text)) == {paths.ONLINE}
    jobs = {job["job_name"] for job in PROMETHEUS["scrape_configs"]}
    assert set(re.findall(r'job="([^"]+)"', text)) <= jobs
    assert all(re.fullmatch(pattern, job) for pattern in re.findall(r'job=~"([^"]+)"', text) for job in jobs)
    (watched,) = set(re.findall(r'route!~"([^"]+)"', text))
    assert all(re.fullmatch(watched, path) for path in paths.WATCHED)
    assert not re.fullmatch(watched, paths.ONLINE)
    assert set(re.findall(r'status="([a-z]+)"', text)) <= set(queue.STATUSES)
    assert set(re.findall(r'result!="([a-z]+)"', text)) <= set(freshness._RESULTS)


def test_dashboards__are_what_grafana_takes() -> None:
    assert len(DASHBOARDS) == 5
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for name, dashboard in DASHBOARDS.items():
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", dashboard["uid"]), name
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), name
        assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"]), name


@pytest.mark.parametrize("panel", PANELS)
def test_panel__has_title_unit_query_and_a_data_source_that_is_provisioned(panel: dict[str, Any]) -> None:
    sources = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())
    provisioned = [{"type": source["type"], "uid": source["uid"]} for source in sources["datasources"]]
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert panel["datasource"] in provisioned
    assert all(target["expr"] and target["datasource"] in provisioned for target in panel["targets"])
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    place = panel["gridPos"]
    assert place["x"] + place["w"] <= 24


def test_alerts__say_for_how_long_how_bad_and_what() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS) == 10
    for rule in ALERTS:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"\d+m", rule["for"]), rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


def test_alerts__thresholds_of_latency_are_bounds_of_buckets() -> None:
    (rule,) = [rule for rule in ALERTS if "ai_hub_http_request_seconds_bucket" in rule["expr"]]
    assert float(rule["expr"].rpartition(">")[2]) in observability.LATENCY._upper_bounds


def relabelled(labels: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, str]:
    """Labels of a series after these rules of Prometheus."""
    labels = dict(labels)
    for rule in rules:
        value = ";".join(labels.get(name, "") for name in rule.get("source_labels", ()))
        match rule.get("action", "replace"):
            case "hashmod":
                digest = hashlib.md5(value.encode(), usedforsecurity=False).digest()
                labels[rule["target_label"]] = str(int.from_bytes(digest[8:]) % rule["modulus"])
            case "replace":
                if found := re.fullmatch(rule["regex"], value):
                    labels[rule["target_label"]] = found.expand(rule["replacement"].replace("$", "\\"))
            case "labeldrop":
                labels = {
                    name: text for name, text in labels.items() if not re.fullmatch(rule["regex"], name)
                }
            case other:
                pytest.fail(other)
    return labels


def test_tenants__are_kept_apart_and_never_named_in_prometheus() -> None:
    tenants = ("city-works", "harbour", "illinois")
    published = freshness.Metrics(timedelta(days=2))
    now = datetime.now(UTC)
    behind = [freshness.Behind(tenant, "basic", "meter-1", now) for tenant in tenants]
    published.note(Pass(refreshes=None, rows={"basic": 3}, behind=behind))
    (job,) = [each for each in PROMETHEUS["scrape_configs"] if each["job_name"] == "ai-hub-materializer"]
    samples = [sample for metric in published.collect() for sample in metric.samples]
    assert {sample.labels.get("tenant") for sample in samples} == {*tenants, None}
    found = [(each.name, relabelled(each.labels, job["metric_relabel_configs"])) for each in samples]
    assert len({(name, *sorted(labels.items())) for name, labels in found}) == len(samples)
    for (_, labels), sample in zip(found, samples, strict=True):
        assert labels.keys() == sample.labels.keys()
        assert not set(labels.values()) & set(tenants)
    others = {label for name, labels in METRICS.items() for label in labels if "_freshness" not in name}
    assert {name for name, labels in METRICS.items() if "tenant" in labels} == {
        *("ai_hub_feature_freshness_seconds", "ai_hub_feature_slowest_seconds"),
        *("ai_hub_forecast_error_share", "ai_hub_forecast_skill"),
    }
    # which number a name has is the same for all: test_model_findings.py compares what forecasts publish
    assert "asset" not in others


def test_targets__are_services_and_their_ports() -> None:
    targets = [
        target
        for job in PROMETHEUS["scrape_configs"]
        for group in job.get("static_configs", [])
        for target in group["targets"]
    ]
    assert len(targets) == 2
    source = (FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text()
    targets += re.findall(r"http://(\S+)", source)
    for target in targets:
        name, port = target.split(":")
        assert SERVICES[name]["ports"][0].endswith(f":{port}"), target
    guide = (compose.ROOT / "docs/deployment.md").read_text()
    (found,) = [each for job in PROMETHEUS["scrape_configs"] for each in job.get("dns_sd_configs", [])]
    assert f"--name {found['names'][0]} cli" in guide
    assert f"--metrics-port {found['port']}" in guide


def test_files__are_where_the_containers_look() -> None:
    grafana, prometheus = SERVICES["grafana"], SERVICES["prometheus"]
    assert "./monitoring/grafana:/etc/grafana:ro" in grafana["volumes"]
    assert "./monitoring/prometheus:/etc/prometheus:ro" in prometheus["volumes"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in prometheus["command"]
    assert [(FOLDER / "prometheus" / name).is_file() for name in PROMETHEUS["rule_files"]] == [True]
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/ai-hub.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_monitoring__is_off_by_default_and_lets_nobody_in_without_a_password() -> None:
    assert SERVICES["grafana"]["profiles"] == SERVICES["prometheus"]["profiles"] == ["monitoring"]
    # nothing but the password comes from outside the file
    assert SERVICES["grafana"]["environment"].keys() == {"GF_SECURITY_ADMIN_PASSWORD"}
    settings = configparser.ConfigParser()
    settings.read(FOLDER / "grafana/grafana.ini")
    assert not settings.getboolean("auth.anonymous", "enabled")
    assert not settings.getboolean("users", "allow_sign_up")
    assert "admin_password" not in settings["security"]


def test_forecast_metrics__are_served_where_they_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    findings._CHANGES.labels(findings.Kind.STALE.value, "opened")
    with served_metrics(REGISTRY, "127.0.0.2", 0):
        found = re.search(r"http://127\.0\.0\.2:\d+/metrics", capsys.readouterr().out)
        assert found
        assert "ai_hub_model_findings_total" in httpx.get(found[0]).text
