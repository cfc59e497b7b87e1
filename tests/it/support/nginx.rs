//! nginx as an origin: a real server whose reading of HTTP is not ours.
//!
//! It has a private folder and a port that nobody else had, and ends when the value is dropped.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A running nginx.
pub struct Nginx {
    addr: SocketAddr,
    child: Child,
    folder: TempDir,
}

impl Nginx {
    /// Starts nginx with `locations` in its one server block; files come from [`Nginx::root`].
    pub fn start(locations: &str) -> Nginx {
        for _ in 0..10 {
            let folder = TempDir::new().expect("a temporary folder");
            std::fs::create_dir(folder.path().join("root")).expect("a folder in it");
            let addr = free_addr();
            let config = folder.path().join("nginx.conf");
            std::fs::write(&config, text(folder.path(), addr, locations)).expect("a file in it");
            let child = Command::new("nginx")
                .arg("-p")
                .arg(folder.path())
                .arg("-c")
                .arg(&config)
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| {
                    panic!("nginx does not start ({e}): install it with `apt-get install nginx-light` or run `make test`")
                });
            let mut nginx = Nginx {
                addr,
                child,
                folder,
            };
            if nginx.serves() {
                return nginx;
            }
        }
        panic!("nginx found no free port in ten tries");
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The folder that files are served from.
    pub fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    fn serves(&mut self) -> bool {
        for _ in 0..1000 {
            if let Ok(Some(_)) = self.child.try_wait() {
                return false;
            }
            if TcpStream::connect(self.addr).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address of 127.0.0.1 that was free a moment ago.
pub fn free_addr() -> SocketAddr {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("a bound socket")
}

fn text(folder: &Path, addr: SocketAddr, locations: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1;
pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  client_max_body_size 0; keepalive_timeout 5s; default_type text/plain;
  server {{ listen {addr}; root {folder}/root; {locations} }}
}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::client;

    #[test]
    fn serves_locations_and_files() {
        let nginx = Nginx::start("location /hi { return 200 hello; }");
        std::fs::write(nginx.root().join("file"), "content").unwrap();
        assert_eq!(client::get(nginx.addr, "/hi").text(), "hello");
        assert_eq!(client::get(nginx.addr, "/file").text(), "content");
        let addr = nginx.addr;
        drop(nginx);
        assert!(TcpStream::connect(addr).is_err());
    }
}
