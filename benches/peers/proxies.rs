//! The origin and the proxies before it, each with two threads and what a gateway is used with: an
//! access log to a file, timeouts, health checks, connections kept to the origin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::load::SMALL;
use crate::process::{Process, free_port, program};

/// One proxy; ended when dropped.
pub struct Proxy {
    pub name: &'static str,
    pub port: u16,
    pub process: Process,
}

/// Proxies of one scenario, with a folder for what they write.
pub struct Fleet {
    pub proxies: Vec<Proxy>,
    /// Those that did not start, and why.
    pub left_out: Vec<(&'static str, String)>,
    origin: u16,
    folder: TempDir,
}

impl Fleet {
    /// Every peer before this origin.
    pub fn start(origin: u16) -> Result<Fleet, String> {
        let mut fleet = Fleet::empty(origin)?;
        type Start = fn(&Fleet) -> Result<Proxy, String>;
        let starts: [(&'static str, Start); 6] = [
            (OURS, |fleet| fleet.ours(OURS, ROUTE)),
            ("bare pingora", Fleet::bare),
            ("nginx", Fleet::nginx),
            ("haproxy", Fleet::haproxy),
            ("envoy", Fleet::envoy),
            ("caddy", Fleet::caddy),
        ];
        for (name, start) in starts {
            match start(&fleet) {
                Ok(proxy) => fleet.proxies.push(proxy),
                Err(why) => fleet.left_out.push((name, why)),
            }
        }
        Ok(fleet)
    }

    /// Nobody yet.
    pub fn empty(origin: u16) -> Result<Fleet, String> {
        Ok(Fleet {
            proxies: Vec::new(),
            left_out: Vec::new(),
            origin,
            folder: tempfile::tempdir().map_err(|e| e.to_string())?,
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Adds ours with so many routes; returns how long it took until it listened.
    pub fn add_with_routes(
        &mut self,
        name: &'static str,
        count: usize,
    ) -> Result<Duration, String> {
        let mut routes = String::new();
        for n in 1..count {
            routes += &format!("  \"/service-{n}/api\": {{upstream: origin}}\n");
        }
        let began = Instant::now();
        let proxy = self.ours(name, &format!("{routes}{ROUTE}"))?;
        let took = began.elapsed();
        self.proxies.push(proxy);
        Ok(took)
    }

    fn ours(&self, name: &'static str, routes: &str) -> Result<Proxy, String> {
        let port = free_port();
        let stem = format!("ours-{port}");
        let text = format!(
            "listen_addr: 127.0.0.1:{port}\nglobal_timeout_ms: 5000\nmax_connections: 20000\n\
             admin: {{listen_addr: \"127.0.0.1:{admin}\"}}\n\
             server: {{threads: 2, access_log: {stem}.log}}\n\
             upstreams:\n  origin: {{upstream: \"http://127.0.0.1:{origin}\", \
             health_check_path: /1k}}\nroutes:\n{routes}",
            admin = free_port(),
            origin = self.origin,
        );
        let config = self.write(&format!("{stem}.yml"), &text)?;
        let mut run = Command::new(env!("CARGO_BIN_EXE_harbr-router"));
        run.arg("-c").arg(config);
        started(name, port, Stdio::null(), &mut run)
    }

    fn bare(&self) -> Result<Proxy, String> {
        let port = free_port();
        let mut run = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        run.args(["--as-bare", &format!("127.0.0.1:{port}")]);
        run.arg(format!("127.0.0.1:{}", self.origin));
        // As the program sets it for itself.
        run.env("MALLOC_TRIM_THRESHOLD_", "8388608");
        run.env("MALLOC_TOP_PAD_", "131072");
        run.env("MALLOC_MMAP_THRESHOLD_", "1048576");
        started("bare pingora", port, Stdio::null(), &mut run)
    }

    fn nginx(&self) -> Result<Proxy, String> {
        let program = program("nginx")?;
        let port = free_port();
        let text = format!(
            "{head}worker_processes 2;\nevents {{ worker_connections 20000; }}\nhttp {{\n\
             access_log {folder}/nginx-access.log;\nkeepalive_requests 100000000;\n\
             client_body_temp_path {folder}/b2; proxy_temp_path {folder}/p2;\n\
             fastcgi_temp_path {folder}/f2; uwsgi_temp_path {folder}/u2; scgi_temp_path {folder}/s2;\n\
             upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 100000000; }}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; location / {{\n\
             proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;\n\
             proxy_read_timeout 5s; client_max_body_size 10m; }} }} }}\n",
            head = nginx_head(self.folder(), "peer"),
            folder = self.folder().display(),
            origin = self.origin,
        );
        let config = self.write("nginx-peer.conf", &text)?;
        let mut run = Command::new(program);
        run.arg("-c").arg(config).arg("-p").arg(self.folder());
        started("nginx", port, Stdio::null(), &mut run)
    }

    fn haproxy(&self) -> Result<Proxy, String> {
        let program = program("haproxy")?;
        let port = free_port();
        // It wants two files for each connection that it may have; idle ones have but one.
        let text = format!(
            "global\n  nbthread 2\n  no strict-limits\n  maxconn 20000\n  log stdout format raw local0\n\
             defaults\n  mode http\n  log global\n  option httplog\n  option forwardfor\n  \
             timeout connect 1s\n  timeout client 75s\n  timeout server 5s\n  \
             timeout http-request 10s\n  timeout http-keep-alive 75s\n  http-reuse always\n\
             frontend web\n  bind 127.0.0.1:{port}\n  default_backend origin\n\
             backend origin\n  option httpchk GET /1k\n  \
             server one 127.0.0.1:{} check inter 5s\n",
            self.origin
        );
        let config = self.write("haproxy.cfg", &text)?;
        let log = fs::File::create(self.folder().join("haproxy.log")).map_err(|e| e.to_string())?;
        let mut run = Command::new(program);
        run.arg("-db").arg("-f").arg(config);
        started("haproxy", port, log.into(), &mut run)
    }

    fn caddy(&self) -> Result<Proxy, String> {
        let program = program("caddy")?;
        let port = free_port();
        let text = format!(
            "{{\n  admin off\n  auto_https off\n}}\nhttp://127.0.0.1:{port}, http://localhost:{port} {{\n  log {{\n    \
             output file {folder}/caddy-access.log\n  }}\n  reverse_proxy 127.0.0.1:{origin} {{\n    \
             health_uri /1k\n    health_interval 5s\n  }}\n}}\n",
            folder = self.folder().display(),
            origin = self.origin,
        );
        let config = self.write("Caddyfile", &text)?;
        let mut run = Command::new(program);
        run.env("GOMAXPROCS", "2").env("HOME", self.folder());
        run.args(["run", "--adapter", "caddyfile", "--config"])
            .arg(config);
        started("caddy", port, Stdio::null(), &mut run)
    }

    fn envoy(&self) -> Result<Proxy, String> {
        let program = match std::env::var_os("ENVOY") {
            Some(path) => PathBuf::from(path),
            None => program("envoy").map_err(|why| format!("{why} (ENVOY may name it)"))?,
        };
        let port = free_port();
        let text = ENVOY
            .replace("@PORT@", &port.to_string())
            .replace("@ORIGIN@", &self.origin.to_string())
            .replace(
                "@LOG@",
                &self.folder().join("envoy-access.log").display().to_string(),
            );
        let config = self.write("envoy.yaml", &text)?;
        let mut run = Command::new(program);
        run.args([
            "--concurrency",
            "2",
            "--base-id",
            &port.to_string(),
            "-l",
            "error",
            "-c",
        ]);
        run.arg(config);
        started("envoy", port, Stdio::null(), &mut run)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.folder().join(name);
        fs::write(&path, text).map_err(|e| e.to_string())?;
        Ok(path)
    }
}

/// Serves three bodies from memory, and reads what is posted.
pub fn origin(folder: &Path) -> Result<Proxy, String> {
    let nginx = program("nginx")?;
    let port = free_port();
    for (name, bytes) in [("1k", SMALL), ("100k", 100 << 10), ("1m", 1 << 20)] {
        fs::create_dir_all(folder.join("www")).map_err(|e| e.to_string())?;
        fs::write(folder.join("www").join(name), "x".repeat(bytes)).map_err(|e| e.to_string())?;
    }
    let text = format!(
        "{head}worker_processes 1;\nevents {{ worker_connections 20000; }}\nhttp {{\n\
         access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on;\n\
         open_file_cache max=10; client_max_body_size 10m; client_body_buffer_size 128k;\n\
         client_body_temp_path {folder}/b1; proxy_temp_path {folder}/p1;\n\
         fastcgi_temp_path {folder}/f1; uwsgi_temp_path {folder}/u1; scgi_temp_path {folder}/s1;\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}/www;\n\
         location /post {{ return 204; }} }} }}\n",
        head = nginx_head(folder, "origin"),
        folder = folder.display(),
    );
    let config = folder.join("origin.conf");
    fs::write(&config, text).map_err(|e| e.to_string())?;
    let mut run = Command::new(nginx);
    run.arg("-c").arg(config).arg("-p").arg(folder);
    started("origin", port, Stdio::null(), &mut run)
}

fn nginx_head(folder: &Path, name: &str) -> String {
    let folder = folder.display();
    let user = match nix::unistd::Uid::effective().is_root() {
        true => "user root;\n",
        false => "",
    };
    format!(
        "{user}daemon off;\nworker_rlimit_nofile 20000;\nerror_log {folder}/{name}-error.log crit;\n\
         pid {folder}/{name}.pid;\n"
    )
}

fn started(
    name: &'static str,
    port: u16,
    output: Stdio,
    run: &mut Command,
) -> Result<Proxy, String> {
    let process = Process::serving(run, port, output, Signal::SIGTERM)?;
    Ok(Proxy {
        name,
        port,
        process,
    })
}

const OURS: &str = "harbr-router";
const ROUTE: &str = "  \"/\": {upstream: origin, retry_count: 2}\n";

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: @PORT@}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          use_remote_address: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "@LOG@"
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route: {cluster: origin, timeout: 5s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: origin
    connect_timeout: 1s
    health_checks:
    - {timeout: 1s, interval: 5s, unhealthy_threshold: 3, healthy_threshold: 1, http_health_check: {path: /1k}}
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: @ORIGIN@}}}
"#;
