//! The configurations that the gateway was first described with, word for word: they load, and they
//! serve with real servers behind their names.
//!
//! Their ports are fixed, so each is served in a network of its own.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use harbr_router::config::{self, DbType};
use harbr_router::server::{Gateway, Running};
use harbr_router::upstream::discovery::Resolver;

use crate::support::binary;
use crate::support::client::get;
use crate::support::daemon::output;
use crate::support::netns::alone;
use crate::support::{Mariadb, Origin, Postgres, eventually};

const QUICK_START: &str = "quick-start.yml";
const EXAMPLE: &str = "example.yml";
const KUBERNETES: &str = "kubernetes.yml";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/config/seed")
        .join(name)
}

/// What stands behind the names of a file.
struct Servers(HashMap<&'static str, SocketAddr>);

#[async_trait]
impl Resolver for Servers {
    async fn lookup(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = self.0.get(host).ok_or(io::ErrorKind::NotFound)?;
        Ok(vec![*found])
    }

    fn refresh(&self, _host: &str) -> Duration {
        Duration::from_secs(60)
    }
}

/// The file as it is, with these servers behind its names.
fn serve(name: &str, servers: &[(&'static str, SocketAddr)]) -> Running {
    let mut gateway = Gateway::from_file(file(name)).unwrap_or_else(|e| panic!("{e}"));
    for (host, addr) in servers {
        gateway = gateway.discovery(host, Servers(HashMap::from([(*host, *addr)])));
    }
    gateway.spawn().unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[track_caller]
fn asks_postgres(port: u16) {
    let answer = output(Postgres::psql(at(port)).args(["-c", "SELECT 6 * 7"]));
    assert_eq!(answer.as_deref(), Ok("42\n"), "on {port}");
}

#[test]
fn the_files_load_without_a_warning_and_say_which_protocol_each_route_carries() {
    let postgres_db = [("postgres-db", DbType::Postgres, 9090)];
    let of_the_example = [
        ("mysql-primary", DbType::Mysql, 9090),
        ("postgres-analytics", DbType::Postgres, 5433),
    ];
    for (name, http, tcp) in [
        (QUICK_START, &["/api"][..], &postgres_db[..]),
        (EXAMPLE, &["/api", "/static", "/"], &of_the_example),
        (KUBERNETES, &["/api"], &postgres_db),
    ] {
        let config = config::load(&file(name)).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        let keys: Vec<&str> = config.http_routes.iter().map(|r| &*r.key.text).collect();
        assert_eq!(keys, http, "{name}");
        let routes = config.tcp_routes.iter();
        let routes: Vec<_> = routes
            .map(|r| (&*r.name, r.db_type, r.listen[0].port()))
            .collect();
        assert_eq!(routes, tcp, "{name}");
        let said = binary::run(&["--test", "-c", file(name).to_str().expect("it is ASCII")]);
        assert!(said.status.success(), "{name}: {said:?}");
    }
}

#[test]
fn the_example_serves_http_mysql_and_postgres() {
    alone(|| {
        let (api, files, rest) = (
            Origin::ok("api"),
            Origin::ok("files"),
            Origin::ok("everything else"),
        );
        let (mariadb, postgres) = (Mariadb::new(), Postgres::new());
        let _gateway = serve(
            EXAMPLE,
            &[
                ("backend-api", api.addr()),
                ("static-server", files.addr()),
                ("default-backend", rest.addr()),
                ("db-primary", mariadb.addr()),
                ("analytics-db", postgres.addr()),
            ],
        );
        for (path, text) in [
            ("/api/orders", "api"),
            ("/static/logo.png", "files"),
            ("/apis", "everything else"),
        ] {
            assert_eq!(get(at(8080), path).text(), text, "{path}");
        }
        let rows = output(Mariadb::mariadb(at(9090)).args(["-e", "SELECT 6 * 7"]));
        assert_eq!(rows.as_deref(), Ok("42\n"));
        asks_postgres(5433);
        // What is checked is the one health check that the file asks for.
        eventually(Duration::from_secs(10), "/health was asked for", || {
            api.heads().iter().any(|head| head.target == "/health")
        });
    });
}

#[test]
fn the_quick_start_and_the_kubernetes_file_serve_http_and_postgres() {
    alone(|| {
        let (api, postgres) = (Origin::ok("api"), Postgres::new());
        for name in [QUICK_START, KUBERNETES] {
            let names = [
                ("backend-api", api.addr()),
                ("postgres-db", postgres.addr()),
            ];
            let gateway = serve(name, &names);
            assert_eq!(get(at(8080), "/api").text(), "api", "{name}");
            assert_eq!(get(at(8080), "/apis").status, 404, "{name}");
            asks_postgres(9090);
            gateway.stop();
        }
    });
}
