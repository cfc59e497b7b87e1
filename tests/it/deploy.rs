//! What is deployed, against what it deploys: every YAML file of `deploy/` is read, every gateway
//! configuration in it is one, and ports, probes and times agree with it.

use std::path::{Path, PathBuf};

use harbr_router::config::{self, Config};
use harbr_router::server::Gateway;
use serde_yaml::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `folder`, relative to the root.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root()).unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(files(name.to_str().unwrap())),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

/// The documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize as _;
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap_or_else(|e| panic!("{e}\n{text}")))
        .collect()
}

/// The value at a path of keys and positions, as `spec.ports.0.name`.
fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    path.split('.').fold(value, |value, key| {
        let found = match key.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(key),
        };
        found.unwrap_or_else(|| panic!("no {key} of {path} in {value:?}"))
    })
}

/// A gateway configuration that `--test` passes without a warning.
fn checked(text: &str, name: &str) -> Config {
    let parsed = config::parse(text, Path::new(name));
    let config = parsed.unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
    let check = Gateway::new(config.clone()).check();
    check.unwrap_or_else(|error| panic!("{name}: {error}"));
    config
}

/// The one document of `deploy/kubernetes/<file>` of this kind.
fn kubernetes(file: &str, kind: &str) -> Value {
    let all = documents(&read(&format!("deploy/kubernetes/{file}")));
    let mut of_kind = all.into_iter().filter(|one| at(one, "kind") == kind);
    of_kind
        .next()
        .unwrap_or_else(|| panic!("no {kind} in {file}"))
}

fn config_map() -> Config {
    let map = kubernetes("configmap.yaml", "ConfigMap");
    let data = at(&map, "data").as_mapping().unwrap();
    let text = data.get("config.yml").unwrap().as_str().unwrap();
    checked(text, "configmap.yaml")
}

/// The lines of `text` that say something.
fn lines(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect()
}

#[test]
fn every_yaml_file_is_one_and_every_configuration_in_it_passes() {
    let (mut yaml, mut configurations) = (0, 0);
    for file in files("deploy") {
        let name = file.to_str().unwrap();
        if !name.ends_with(".yaml") && !name.ends_with(".yml") {
            continue;
        }
        yaml += 1;
        let text = read(name);
        for document in documents(&text) {
            assert!(document.is_mapping(), "{name}");
            if document.get("listen_addr").is_some() {
                checked(&text, name);
                configurations += 1;
            }
            for (_, value) in document
                .get("data")
                .and_then(Value::as_mapping)
                .into_iter()
                .flatten()
            {
                checked(value.as_str().unwrap(), name);
                configurations += 1;
            }
        }
    }
    assert_eq!((yaml, configurations), (9, 2), "compose and Kubernetes");
}

#[test]
fn kustomize_takes_all_that_every_cluster_knows() {
    let kustomization = kubernetes("kustomization.yaml", "Kustomization");
    let resources = at(&kustomization, "resources").as_sequence().unwrap();
    let mut resources: Vec<&str> = resources.iter().map(|one| one.as_str().unwrap()).collect();
    resources.extend(["kustomization.yaml", "servicemonitor.yaml"]);
    resources.sort_unstable();
    let files = files("deploy/kubernetes");
    let names: Vec<&str> = files
        .iter()
        .map(|f| f.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(resources, names);
    let budget = kubernetes("poddisruptionbudget.yaml", "PodDisruptionBudget");
    assert_eq!(at(&budget, "spec.maxUnavailable"), 1);
    let scaler = kubernetes("horizontalpodautoscaler.yaml", "HorizontalPodAutoscaler");
    assert_eq!(at(&scaler, "spec.scaleTargetRef.name"), "harbr-router");
    assert!(
        at(&scaler, "spec.minReplicas").as_u64().unwrap() >= 2,
        "or the budget blocks a node"
    );
}

#[test]
fn pods_are_asked_and_stopped_as_their_configuration_wants() {
    let config = config_map();
    let deployment = kubernetes("deployment.yaml", "Deployment");
    let pod = at(&deployment, "spec.template.spec");
    let gateway = at(pod, "containers.0");
    let port = |name: &str| {
        let ports = at(gateway, "ports").as_sequence().unwrap();
        let named = ports.iter().find(|port| at(port, "name") == name);
        at(named.unwrap(), "containerPort").as_u64().unwrap()
    };
    let admin = config.admin.as_ref().unwrap().listen_addr.first().addr;
    assert!(
        admin.ip().is_unspecified(),
        "the kubelet asks from outside the pod"
    );
    assert_eq!(
        port("http"),
        u64::from(config.listen_addr.first().addr.port())
    );
    assert_eq!(
        port("tcp"),
        u64::from(config.tcp_proxy.listen_addr.first().addr.port())
    );
    assert_eq!(port("admin"), u64::from(admin.port()));
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(at(gateway, &format!("{probe}.httpGet.path")), path);
        assert_eq!(at(gateway, &format!("{probe}.httpGet.port")), "admin");
    }
    let grace = at(pod, "terminationGracePeriodSeconds").as_u64().unwrap();
    let drain = config.server.drain_delay + config.server.drain_timeout;
    assert!(grace > drain.as_secs(), "{grace} s for {drain:?}");
    assert!(
        !config.server.drain_delay.is_zero(),
        "endpoints leave the Service first"
    );
    assert!(gateway.get("lifecycle").is_none());
    assert!(config.server.watch_config);
    let mount = at(gateway, "volumeMounts.0");
    assert_eq!(at(mount, "mountPath"), "/etc/harbr-router");
    assert!(mount.get("subPath").is_none(), "it would never change");
    let user = at(pod, "securityContext.runAsUser").as_u64().unwrap();
    assert!(lines(&read("Dockerfile")).contains(&&*format!("USER {user}:{user}")));
}

#[test]
fn services_lead_to_the_ports_of_the_pod_and_prometheus_to_the_admin_listener() {
    let services = documents(&read("deploy/kubernetes/service.yaml"));
    let ports = |service: &Value| {
        let ports = at(service, "spec.ports").as_sequence().unwrap().iter();
        let target = |port: &Value| at(port, "targetPort").as_str().unwrap().to_owned();
        ports.map(target).collect::<Vec<_>>()
    };
    assert_eq!(
        ports(&services[0]),
        ["http", "tcp"],
        "and not the admin listener"
    );
    assert_eq!(ports(&services[1]), ["admin"]);
    let monitor = kubernetes("servicemonitor.yaml", "ServiceMonitor");
    assert_eq!(at(&monitor, "spec.endpoints.0.path"), "/metrics");
    assert_eq!(
        at(&monitor, "spec.endpoints.0.port"),
        at(&services[1], "spec.ports.0.name")
    );
    let component = "app.kubernetes.io/component";
    let labels = |value: &Value, path: &str| at(value, path).get(component).cloned();
    assert_eq!(
        labels(&monitor, "spec.selector.matchLabels"),
        labels(&services[1], "metadata.labels")
    );
}

#[test]
fn the_compose_gateway_is_in_front_of_every_other_service() {
    let compose = &documents(&read("deploy/compose/compose.yaml"))[0];
    let name = "deploy/compose/config/config.yml";
    let config = checked(&read(name), name);
    let services = at(compose, "services").as_mapping().unwrap();
    let mut others: Vec<&str> = services.keys().filter_map(Value::as_str).collect();
    others.retain(|name| *name != "gateway");
    let http = config.http_routes.iter().map(|route| &route.upstream);
    let tcp = config.tcp_routes.iter().map(|route| &route.upstream);
    let endpoints = http.chain(tcp).flat_map(|upstream| &upstream.endpoints);
    let text = format!("{:?}", endpoints.map(|one| &one.url).collect::<Vec<_>>());
    for other in others {
        assert!(text.contains(&format!("{other:?}")), "{other} in {text}");
    }
    let ports = at(compose, "services.gateway.ports").as_sequence().unwrap();
    let ports: Vec<&str> = ports.iter().map(|port| port.as_str().unwrap()).collect();
    assert_eq!(ports, ["8080:8080", "9090:9090", "127.0.0.1:9901:9901"]);
    assert_eq!(
        at(compose, "services.gateway.volumes.0"),
        "./config:/etc/harbr-router:ro"
    );
    let grace = at(compose, "services.gateway.stop_grace_period")
        .as_str()
        .unwrap();
    let grace: u64 = grace.strip_suffix('s').unwrap().parse().unwrap();
    assert!(grace > config.server.drain_timeout.as_secs());
}

#[test]
fn the_image_runs_the_program_as_nobody_in_particular_and_asks_it_for_its_health() {
    let text = read("Dockerfile");
    let lines = lines(&text);
    for line in [
        "ENV CONFIG_FILE=/etc/harbr-router/config.yml",
        "EXPOSE 8080 9090 9901",
        "STOPSIGNAL SIGTERM",
        "ENTRYPOINT [\"harbr-router\"]",
        "USER 10001:10001",
    ] {
        assert!(lines.contains(&line), "{line}");
    }
    let health = lines.iter().find(|line| line.starts_with("HEALTHCHECK "));
    assert!(
        health
            .unwrap()
            .ends_with("CMD [\"harbr-router\", \"health\"]")
    );
    let stages: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("FROM "))
        .collect();
    assert_eq!(stages.len(), 2);
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.unwrap().trim_matches('"');
    assert!(
        stages[0].contains(&format!("rust:{version}-")),
        "{}",
        stages[0]
    );
    let (builder, runner) = text.split_once(stages[1]).unwrap();
    assert!(builder.contains("cmake"), "zlib-ng needs it");
    assert!(!runner.contains("cmake"));
}

#[test]
fn what_cargo_needs_reaches_the_image_and_what_git_keeps_does_not() {
    let ignored = read(".dockerignore");
    let ignored = lines(&ignored);
    for folder in [".git", "target", "fuzz", "deploy"] {
        assert!(ignored.contains(&folder), "{folder}");
    }
    for needed in ["src", "tests", "benches", "Cargo.toml", "Cargo.lock"] {
        assert!(!ignored.contains(&needed), "{needed}");
    }
}

#[test]
fn the_unit_starts_ready_reloads_checked_and_drains() {
    let text = read("deploy/systemd/harbr-router.service");
    let lines = lines(&text);
    let all = |key: &str| -> Vec<&str> {
        let values = lines.iter().filter_map(|line| line.split_once('='));
        values.filter(|(k, _)| *k == key).map(|(_, v)| v).collect()
    };
    assert_eq!(all("Type"), ["notify"]);
    let start = all("ExecStart")[0];
    let reload = all("ExecReload");
    assert_eq!(
        reload,
        [&*format!("{start} --test"), "/bin/kill -HUP $MAINPID"]
    );
    assert_eq!(all("KillSignal"), ["SIGTERM"]);
    assert_eq!(all("RestartPreventExitStatus"), ["2 78"]);
    assert!(all("LimitNOFILE")[0].parse::<u64>().unwrap() >= 65536);
    assert_eq!(all("CapabilityBoundingSet"), ["CAP_NET_BIND_SERVICE"]);
    for key in [
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectControlGroups",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
    ] {
        assert_eq!(all(key), ["yes"], "{key}");
    }
    assert_eq!(all("ProtectSystem"), ["strict"]);
    let account = read("deploy/systemd/harbr-router.sysusers");
    assert!(account.contains(&format!("\nu {} ", all("User")[0])));
    assert_eq!(
        all("RuntimeDirectory"),
        ["harbr-router"],
        "for the upgrade socket"
    );
    assert_eq!(all("Environment"), ["XDG_RUNTIME_DIR=/run/harbr-router"]);
}

#[test]
fn every_kernel_setting_exists_and_has_its_reason() {
    let text = read("deploy/sysctl/90-harbr-router.conf");
    let mut settings = Vec::new();
    let mut before = "";
    for line in text.lines() {
        if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            assert!(before.starts_with("# "), "{key} has no reason");
            let file = format!("/proc/sys/{}", key.replace('.', "/"));
            assert!(Path::new(&file).exists(), "{file}");
            let numbers = value.split(' ').map(str::parse::<u64>);
            assert!(
                numbers.clone().count() > 0 && numbers.clone().all(|n| n.is_ok()),
                "{line}"
            );
            settings.push(key);
        }
        before = line;
    }
    assert_eq!(
        settings,
        [
            "net.core.somaxconn",
            "net.ipv4.tcp_max_syn_backlog",
            "net.ipv4.ip_local_port_range",
            "net.ipv4.tcp_tw_reuse",
            "fs.file-max",
            "net.ipv4.tcp_retries2"
        ]
    );
}
